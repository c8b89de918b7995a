"""Robustness to additive Gaussian noise: section 4.4 of the paper, Figures 11 and 12.

``N = clip(I + alpha * G, 0, 1)`` with images in [0, 1] and G standard normal in every pixel and channel. The
paper does not say what scale its images have; [0, 1] is this package's reading of its alphas 0.05 … 0.35. For
one seed G is the same at every alpha, so a curve over alpha is paired: it shows the effect of the amount of
noise, not of another draw. G depends on the key, the seed and the image's index, not on the batch size nor on
the other images.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from wbcjax.errors import ConfigError

Predict = Callable[[Float[Array, "b h w 3"]], Float[Array, "b c"]]
"""Images in [0, 1] to logits."""


def gaussian(
    key: Key[Array, ""], seed: int | Int[Array, ""], index: int | Int[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "..."]:
    """G of image ``index`` at ``seed``."""
    return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, seed), index), shape, jnp.float32)


def add_noise(
    images: Float[Array, "*shape"], noise: Float[Array, "*shape"], alpha: float | int | Float[Array, ""]
) -> Float[Array, "*shape"]:
    """``clip(images + alpha * noise, 0, 1)``."""
    return jnp.clip(images + alpha * noise, 0.0, 1.0)


def noise_sweep(
    predict: Predict,
    images: UInt8[np.ndarray, "n h w 3"],
    *,
    alphas: Sequence[float | int],
    seeds: int,
    key: Key[Array, ""],
    batch_size: int = 64,
    sharding: jax.sharding.Sharding | None = None,
) -> Int[np.ndarray, "alphas seeds n"]:
    """Predicted class of every image at every alpha and seed.

    Each batch is one call of one compiled function, which loops over seeds and alphas on the device: memory
    is that of one batch, and the images cross to the device once. The last batch is padded to the same shape.

    Args:
      predict: pure function from images in [0, 1] to logits. Arrays it has closed over are compiled in; a
        ``jax.tree_util.Partial`` passes its arrays as arguments instead, which compiles faster for large
        models.
      images: RGB, uint8, on the host (a memory map will do).
      seeds: number of noise realisations, numbered from 0.
      batch_size: images in flight; raised to a multiple of the number of devices.
      sharding: of the batch over devices, such as ``NamedSharding(mesh, P("data"))``; None uses the default
        device.

    Raises:
      ConfigError: no alpha, no seed, or a batch size below 1.
    """
    if not len(alphas) or seeds < 1 or batch_size < 1:
        raise ConfigError(f"noise sweep over alphas {tuple(alphas)}, {seeds} seeds, batches of {batch_size}: "
                          "give at least one of each")
    n = len(images)
    devices = 1 if sharding is None else len(sharding.device_set)
    batch_size = -(-min(batch_size, max(n, 1)) // devices) * devices
    partial = predict if isinstance(predict, jax.tree_util.Partial) else jax.tree_util.Partial(predict)
    grid = jnp.asarray(alphas, jnp.float32), jnp.arange(seeds)
    predictions = np.zeros((len(alphas), seeds, n), np.int32)
    running: tuple[slice, Array] | None = None
    for start in range(0, n, batch_size):
        part = slice(start, min(start + batch_size, n))
        batch = np.zeros((batch_size, *images.shape[1:]), np.uint8)
        batch[: part.stop - start] = images[part]
        index = np.arange(start, start + batch_size, dtype=np.int32)
        batch, index = jax.device_put((batch, index), sharding)
        launched = part, _sweep_batch(partial, batch, index, *grid, key)
        # The previous batch is fetched while this one runs: the device never waits, only two are in flight.
        if running is not None:
            _store(predictions, *running)
        running = launched
    if running is not None:
        _store(predictions, *running)
    return predictions


def noise_accuracy(
    predictions: Int[np.ndarray, "alphas seeds n"], labels: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "alphas seeds"]:
    """Accuracy at every alpha and seed."""
    return (predictions == labels).mean(axis=-1)


@jax.jit
def _sweep_batch(
    predict: jax.tree_util.Partial,
    images: UInt8[Array, "b h w 3"],
    index: Int[Array, "b"],
    alphas: Float[Array, "alphas"],
    seeds: Int[Array, "seeds"],
    key: Key[Array, ""],
) -> Int[Array, "alphas seeds b"]:
    clean = images.astype(jnp.float32) / 255

    def at_seed(seed: Int[Array, ""]) -> Int[Array, "alphas b"]:
        noise = jax.vmap(lambda i: gaussian(key, seed, i, clean.shape[1:]))(index)
        return jax.lax.map(lambda alpha: predict(add_noise(clean, noise, alpha)).argmax(axis=-1), alphas)

    return jnp.moveaxis(jax.lax.map(at_seed, seeds), 0, 1).astype(jnp.int32)


def _store(
    predictions: Int[np.ndarray, "alphas seeds n"], part: slice, result: Int[Array, "alphas seeds b"]
) -> None:
    predictions[:, :, part] = np.asarray(result)[:, :, : part.stop - part.start]
