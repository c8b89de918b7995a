"""Robustness to the corruptions of microscope images in ``wbcjax.data.corruptions``, at their five levels.

For one image and kind the random part (a direction, where the bubbles lie) is the same at every level, and depends on
the key and the image's number alone.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt8

from wbcjax.data.corruptions import CORRUPTIONS, LEVELS, corrupt
from wbcjax.evaluation.sweep import sweep
from wbcjax.typing import Predict


def corruption_sweep(
    predict: Predict,
    images: UInt8[np.ndarray, "n h w 3"],
    *,
    key: Key[Array, ""],
    batch_size: int = 64,
    sharding: jax.sharding.Sharding | None = None,
) -> Int[np.ndarray, "kinds levels n"]:
    """Predicted class of every image under every kind of corruption, in the order of ``CORRUPTIONS``, at every level;
    the other arguments are those of ``sweep``."""
    return sweep(predict, images, functools.partial(_sweep_batch, key), batch_size=batch_size, sharding=sharding)


@jax.jit
def _sweep_batch(
    key: Key[Array, ""], predict: jax.tree_util.Partial, images: UInt8[Array, "b h w 3"], index: Int[Array, "b"]
) -> Int[Array, "kinds levels b"]:
    clean = images.astype(jnp.float32) / 255
    levels = jnp.array(LEVELS, jnp.float32)

    def at(kind: Int[Array, ""], level: Array) -> Int[Array, "b"]:
        keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.fold_in(key, kind), i))(index)
        changed = corrupt(keys, clean, kind, jnp.full(len(clean), level))
        # What a camera stores: whole values of 0 to 255.
        return predict(jnp.round(changed * 255) / 255).argmax(axis=-1)

    def at_kind(kind: Int[Array, ""]) -> Int[Array, "levels b"]:
        return jax.lax.map(functools.partial(at, kind), levels)

    return jax.lax.map(at_kind, jnp.arange(len(CORRUPTIONS))).astype(jnp.int32)
