"""Predictions of many images under many changes, a batch at a time: each batch is one call of one compiled function,
which loops over the changes on the device, so memory is that of one batch and images cross to the device once."""

from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import Array, Int, UInt8

from wbcjax.errors import ConfigError
from wbcjax.typing import Predict

BatchFn = Callable[[jax.tree_util.Partial, UInt8[Array, "b h w 3"], Int[Array, "b"]], Int[Array, "*grid b"]]
"""(predict, images, their numbers) to the predicted class of every image under every change."""


def sweep(
    predict: Predict,
    images: UInt8[np.ndarray, "n h w 3"],
    batch_fn: BatchFn,
    *,
    batch_size: int = 64,
    sharding: jax.sharding.Sharding | None = None,
) -> Int[np.ndarray, "*grid n"]:
    """``batch_fn`` of all images, the last batch padded to the same shape and cut again.

    Args:
      predict: pure function from images in [0, 1] to logits. Arrays it has closed over are compiled in; a
        ``jax.tree_util.Partial`` passes its arrays as arguments instead, which compiles faster for large
        models.
      images: RGB, uint8, on the host (a memory map will do).
      batch_fn: jitted.
      batch_size: images in flight; raised to a multiple of the number of devices.
      sharding: of the batch over devices, such as ``NamedSharding(mesh, P("data"))``; None uses the default
        device.

    Raises:
      ConfigError: a batch size below 1.
    """
    if batch_size < 1:
        raise ConfigError(f"a sweep in batches of {batch_size} is impossible: give at least one image")
    devices = 1 if sharding is None else len(sharding.device_set)
    batch_size = -(-min(batch_size, max(len(images), 1)) // devices) * devices
    partial = predict if isinstance(predict, jax.tree_util.Partial) else jax.tree_util.Partial(predict)
    parts, running = [], None
    for start in range(0, max(len(images), 1), batch_size):
        size = min(batch_size, len(images) - start)
        batch = np.zeros((batch_size, *images.shape[1:]), np.uint8)
        batch[:size] = images[start : start + size]
        index = np.arange(start, start + batch_size, dtype=np.int32)
        launched = batch_fn(partial, *jax.device_put((batch, index), sharding)), size
        # The previous batch is fetched while this one runs: the device never waits, only two are in flight.
        parts += _fetched(running)
        running = launched
    return np.concatenate(parts + _fetched(running), axis=-1)


def _fetched(running: tuple[Array, int] | None) -> list[np.ndarray]:
    return [] if running is None else [np.asarray(running[0])[..., : running[1]]]
