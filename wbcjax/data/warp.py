"""Geometric changes of an image: an affine map and one bilinear resampling, under jit."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def warp_affine(
    image: Float[Array, "h w c"], matrix: Float[Array, "2 3"], fill: float = 0.0
) -> Float[Array, "h w c"]:
    """Resample ``image`` bilinearly: output pixel centre p takes the value at ``matrix @ (x, y, 1)``.

    Points outside the image take ``fill``; pixel centres lie at i + 0.5, and the border fades over one pixel.
    """
    height, width, _ = image.shape
    x, y = jnp.meshgrid(jnp.arange(width) + 0.5, jnp.arange(height) + 0.5)
    points = jnp.einsum("ij,jhw->ihw", matrix, jnp.stack([x, y, jnp.ones_like(x)]), precision="highest") - 0.5
    corner = jnp.floor(points).astype(jnp.int32)
    fraction = points - corner
    padded = jnp.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=fill)
    column = jnp.clip(corner[0] + 1, 0, width)
    row = jnp.clip(corner[1] + 1, 0, height)
    # Outside by more than a pixel, both neighbours along that axis must be the fill: push the weight to the border.
    fx = jnp.where(corner[0] < -1, 0.0, jnp.where(corner[0] >= width, 1.0, fraction[0]))[..., None]
    fy = jnp.where(corner[1] < -1, 0.0, jnp.where(corner[1] >= height, 1.0, fraction[1]))[..., None]
    top = padded[row, column] * (1 - fx) + padded[row, column + 1] * fx
    bottom = padded[row + 1, column] * (1 - fx) + padded[row + 1, column + 1] * fx
    return top * (1 - fy) + bottom * fy
