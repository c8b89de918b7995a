"""Denoisers in the loop: their loss, and the errors that are left."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from wbcjax.data.device import fetch
from wbcjax.evaluation.noise import add_noise, gaussian
from wbcjax.training.state import LossFn, merge, split


def denoising_loss(max_alpha: float) -> LossFn:
    """The loss for ``fit``: mean squared error, over images in [0, 1], between what is left of a noisy image, before it
    is clipped, and the clean one. Each image has its own noise level, uniform in [0, ``max_alpha``]."""

    def loss_fn(model, resident, batch, key):
        clean, _ = fetch(resident, batch)
        of_level, of_noise = jax.random.split(key)
        alphas = jax.random.uniform(of_level, (len(clean),), maxval=max_alpha)
        noisy = jax.vmap(add_noise)(clean, jax.random.normal(of_noise, clean.shape), alphas)
        return jnp.square(noisy - model.noise(noisy) - clean).mean(), {}

    return loss_fn


def squared_errors(
    model: nnx.Module, images: UInt8[np.ndarray, "n h w 3"], alpha: float, *, batch_size: int = 64
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Mean squared error of each image, in [0, 1], at one noise level: as it comes, and after the denoiser.

    The noise is that of ``noise_sweep`` with key and seed 0.
    """
    graphdef, params, stats = split(model)
    batch_size = min(batch_size, max(len(images), 1))
    out = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        padded = np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), np.uint8)])
        index = np.arange(start, start + batch_size, dtype=np.int32)
        errors = _errors(graphdef, params, stats, padded, index, jnp.float32(alpha), jax.random.key(0))
        out.append(np.asarray(errors)[:, : len(batch)])
    noisy, denoised = np.concatenate(out, axis=1) if out else np.zeros((2, 0), np.float32)
    return noisy, denoised


@functools.partial(jax.jit, static_argnames="graphdef")
def _errors(
    graphdef: nnx.GraphDef,
    params: dict,
    stats: dict,
    images: UInt8[Array, "b h w 3"],
    index: Array,
    alpha: Float[Array, ""],
    key: Key[Array, ""],
) -> Float[Array, "2 b"]:
    clean = images.astype(jnp.float32) / 255
    noise = jax.vmap(lambda i: gaussian(key, 0, i, clean.shape[1:]))(index)
    noisy = add_noise(clean, noise, alpha)
    denoised = merge(graphdef, params, stats, training=False)(noisy)
    return jnp.stack([jnp.square(image - clean).mean(axis=(1, 2, 3)) for image in (noisy, denoised)])
