"""Robustness to additive Gaussian noise: section 4.4 of the paper, Figures 11 and 12.

``N = clip(I + alpha * G, 0, 1)`` with images in [0, 1] and G standard normal in every pixel and channel. The
paper does not say what scale its images have; [0, 1] is this package's reading of its alphas 0.05 … 0.35. For
one seed G is the same at every alpha, so a curve over alpha is paired: it shows the effect of the amount of
noise, not of another draw. G depends on the key, the seed and the image's index, not on the batch size nor on
the other images.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, UInt8

from wbcjax.errors import ConfigError
from wbcjax.evaluation.sweep import sweep
from wbcjax.typing import Predict


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
    """Predicted class of every image at every alpha and seed; the other arguments are those of ``sweep``.

    Args:
      seeds: number of noise realisations, numbered from 0.

    Raises:
      ConfigError: no alpha, no seed, or a batch size below 1.
    """
    if not len(alphas) or seeds < 1:
        raise ConfigError(f"noise sweep over alphas {tuple(alphas)} and {seeds} seeds: give at least one of each")
    batch_fn = functools.partial(_sweep_batch, jnp.asarray(alphas, jnp.float32), jnp.arange(seeds), key)
    return sweep(predict, images, batch_fn, batch_size=batch_size, sharding=sharding)


def noise_accuracy(
    predictions: Int[np.ndarray, "alphas seeds n"], labels: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "alphas seeds"]:
    """Accuracy at every alpha and seed."""
    return (predictions == labels).mean(axis=-1)


@jax.jit
def _sweep_batch(
    alphas: Float[Array, "alphas"],
    seeds: Int[Array, "seeds"],
    key: Key[Array, ""],
    predict: jax.tree_util.Partial,
    images: UInt8[Array, "b h w 3"],
    index: Int[Array, "b"],
) -> Int[Array, "alphas seeds b"]:
    clean = images.astype(jnp.float32) / 255

    def at_seed(seed: Int[Array, ""]) -> Int[Array, "alphas b"]:
        noise = jax.vmap(lambda i: gaussian(key, seed, i, clean.shape[1:]))(index)
        return jax.lax.map(lambda alpha: predict(add_noise(clean, noise, alpha)).argmax(axis=-1), alphas)

    return jnp.moveaxis(jax.lax.map(at_seed, seeds), 0, 1).astype(jnp.int32)
