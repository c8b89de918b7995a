"""What JPEG compression leaves of an image, under jit: ITU-T T.81 with the tables of its Annex K, scaled as in libjpeg.

The entropy coding loses nothing and is left out. Differences from libjpeg are those of its integer arithmetic.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

_LUMA = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
], np.float32)
_CHROMA = np.full((8, 8), 99, np.float32)
_CHROMA[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_k = np.arange(8)
_DCT = (np.cos(np.pi * _k[:, None] * (2 * _k + 1) / 16) * np.where(_k == 0, np.sqrt(1 / 8), 0.5)[:, None]).astype(
    np.float32)
_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
_RGB = np.linalg.inv(_YCC)


def jpeg(image: Float[Array, "h w 3"], quality: float | int | Float[Array, ""]) -> Float[Array, "h w 3"]:
    """``image`` in [0, 1] after compression with ``quality`` in [1, 100], chroma at half resolution (4:2:0)."""
    height, width, _ = image.shape
    padded = jnp.pad(image, ((0, -height % 16), (0, -width % 16), (0, 0)), mode="edge")
    y, *chroma = jnp.einsum("ck,hwk->chw", _YCC, jnp.round(padded * 255), precision="highest")
    scale = jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality)
    restored = [_quantised(y - 128, _LUMA, scale) + 128]
    for channel in chroma:
        rows, columns = channel.shape
        half = channel.reshape(rows // 2, 2, columns // 2, 2).mean(axis=(1, 3))
        restored.append(jax.image.resize(_quantised(half, _CHROMA, scale), channel.shape, "linear"))
    image = jnp.einsum("ck,khw->hwc", _RGB, jnp.stack(restored), precision="highest")[:height, :width]
    return jnp.clip(jnp.round(image), 0, 255) / 255


def _quantised(
    channel: Float[Array, "h w"], table: Float[np.ndarray, "8 8"], scale: Num[Array, ""]
) -> Float[Array, "h w"]:
    """A channel after rounding of the cosine coefficients of its 8×8 blocks."""
    height, width = channel.shape
    steps = jnp.clip(jnp.floor((table * scale + 50) / 100), 1, 255)
    blocks = channel.reshape(height // 8, 8, width // 8, 8)
    coefficients = jnp.einsum("ui,aibj,vj->aubv", _DCT, blocks, _DCT, precision="highest")
    rounded = jnp.round(coefficients / steps[:, None]) * steps[:, None]
    return jnp.einsum("ui,aubv,vj->aibj", _DCT, rounded, _DCT, precision="highest").reshape(height, width)
