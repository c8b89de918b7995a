"""AugMix (Hendrycks et al. 2020): an image blended with chains of random operations, under jit.

The operations are the paper's, which are none of the corruptions that models are tested with; images of a group go
through the same ones, each at its own strength. The paper's consistency loss between two such images is left out.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from wbcjax.data.groups import in_groups
from wbcjax.data.warp import warp_affine

MAX_DEPTH = 3
"""Operations of the longest chain."""

Image = Float[Array, "h w 3"]
Strength = Float[Array, ""]
"""From -1 to 1; operations without a direction take its absolute value."""


def autocontrast(image: Image, strength: Strength) -> Image:
    """Each channel stretched to [0, 1]."""
    low, high = image.min(axis=(0, 1)), image.max(axis=(0, 1))
    return jnp.where(high > low, (image - low) / jnp.maximum(high - low, 1e-6), image)


def equalize(image: Image, strength: Strength) -> Image:
    """Each channel's values replaced by the share of its values up to them."""
    values = image.reshape(-1, 3)
    ranks = jax.vmap(lambda v: jnp.searchsorted(jnp.sort(v), v, side="right"), in_axes=1, out_axes=1)(values)
    return (ranks / len(values)).reshape(image.shape).astype(image.dtype)


def posterize(image: Image, strength: Strength) -> Image:
    """Values rounded down to 16 to 4 steps."""
    steps = jnp.round(16 - 12 * jnp.abs(strength))
    return jnp.floor(image * steps) / steps


def solarize(image: Image, strength: Strength) -> Image:
    """Values above a threshold of 1 to 0.7 turned over."""
    return jnp.where(image >= 1 - 0.3 * jnp.abs(strength), 1 - image, image)


def rotate(image: Image, strength: Strength) -> Image:
    """A turn of up to 9°."""
    angle = jnp.deg2rad(9.0) * strength
    c, s = jnp.cos(angle), jnp.sin(angle)
    return _warp(image, jnp.array([[c, -s], [s, c]]))


def shear_x(image: Image, strength: Strength) -> Image:
    """A shear of up to 0.1 along the rows."""
    return _warp(image, jnp.array([[1.0, 0.1], [0.0, 1.0]]) * jnp.array([[1, strength], [1, 1]]))


def shear_y(image: Image, strength: Strength) -> Image:
    """A shear of up to 0.1 along the columns."""
    return _warp(image, jnp.array([[1.0, 0.0], [0.1, 1.0]]) * jnp.array([[1, 1], [strength, 1]]))


def translate(image: Image, strength: Strength) -> Image:
    """A shift of up to a tenth of the size, along both axes."""
    height, width, _ = image.shape
    return _warp(image, jnp.eye(2), 0.1 * strength * jnp.array([width, height]))


def _warp(image: Image, linear: Float[Array, "2 2"], shift: Float[Array, "2"] | float = 0.0) -> Image:
    centre = jnp.array([image.shape[1] / 2, image.shape[0] / 2])
    return warp_affine(image, jnp.concatenate([linear, (centre + shift - linear @ centre)[:, None]], axis=1))


OPERATIONS = (autocontrast, equalize, posterize, solarize, rotate, shear_x, shear_y, translate)


def augmix(key: Key[Array, ""], images: Float[Array, "b h w 3"], width: int) -> Float[Array, "b h w 3"]:
    """Images in [0, 1], each blended with the mean of ``width`` chains of one to three operations.

    The chains' weights are drawn from a Dirichlet distribution, their common share from a uniform one.
    """
    return in_groups(key, images, functools.partial(_mixed, width=width))


def _mixed(key, images, *, width):
    kinds, strengths, depths, weights, share = jax.random.split(key, 5)
    n = len(images)
    shape = (width, MAX_DEPTH)
    kind = jax.random.randint(kinds, shape, 0, len(OPERATIONS))
    strength = jax.random.uniform(strengths, (*shape, n), minval=-1)
    active = jnp.arange(MAX_DEPTH) < jax.random.randint(depths, (width, 1), 1, MAX_DEPTH + 1)
    weight = jax.random.dirichlet(weights, jnp.ones(width), (n,)).T
    branches = [jax.vmap(operation) for operation in OPERATIONS]

    def operate(chain, work):
        kind, strength, active = work
        return jax.lax.cond(active, lambda: jax.lax.switch(kind, branches, chain, strength), lambda: chain), None

    def add(total, work):
        *steps, weight = work
        chain, _ = jax.lax.scan(operate, images, tuple(steps))
        return total + weight[:, None, None, None] * chain, None

    mixed, _ = jax.lax.scan(add, jnp.zeros_like(images), (kind, strength, active, weight))
    original = jax.random.uniform(share, (n, 1, 1, 1))
    return original * images + (1 - original) * mixed
