"""The corruptions of microscope images that MedMNIST-C gives blood cells (Di Salvo et al. 2024), under jit.

Eleven kinds at five levels; a level between two whole ones interpolates. Lengths are in pixels of a 224-pixel image, as
published, and scale with the image. The code and the shapes of deposits are this package's own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from wbcjax.data.groups import in_groups
from wbcjax.data.jpeg import jpeg
from wbcjax.ops.shares import per_image

Image = Float[Array, "h w 3"]
Level = Float[Array, ""]

LEVELS = (1, 2, 3, 4, 5)
PUBLISHED_SIZE = 224
MAX_MARKS, MAX_BUBBLES = 3, 12
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def pixelate(key: Key[Array, ""], image: Image, level: Level) -> Image:
    """Each axis cut into 60 to 25 % as many cells as it has pixels; a cell takes its mean."""
    share = _at(level, 0.6, 0.5, 0.4, 0.3, 0.25)
    rows, columns = (_cell_means(size, share) for size in image.shape[:2])
    return jnp.einsum("ij,jkc,lk->ilc", rows, image, columns, precision="highest")


def _cell_means(size: int, share: Level) -> Float[Array, "size size"]:
    """The matrix that replaces each of ``size`` pixels by the mean of its cell."""
    cells = jnp.maximum(jnp.round(size * share), 1)
    cell = jnp.floor(jnp.arange(size) * cells / size)
    same = (cell[:, None] == cell).astype(jnp.float32)
    return same / same.sum(axis=1, keepdims=True)


def jpeg_compression(key: Key[Array, ""], image: Image, level: Level) -> Image:
    """JPEG of quality 50 to 7."""
    return jpeg(image, _at(level, 50, 30, 15, 10, 7))


def defocus_blur(key: Key[Array, ""], image: Image, level: Level) -> Image:
    """The mean over a disk of radius 2 to 6."""
    radius = _at(level, 2, 3, 4, 5, 6) * _scale(image)
    return _blur(image, lambda x, y: jnp.clip(radius + 0.5 - jnp.hypot(x, y), 0, 1), reach=6.0)


def motion_blur(key: Key[Array, ""], image: Image, level: Level) -> Image:
    """A Gaussian of deviation 3 to 9 along a line of random direction, cut at radius 3 to 10."""
    radius, sigma = (_at(level, *values) * _scale(image) for values in ((3, 5, 10, 10, 10), (3, 5, 5, 7, 9)))
    angle = jax.random.uniform(key, maxval=np.pi)

    def weights(x, y):
        along, across = x * jnp.cos(angle) + y * jnp.sin(angle), y * jnp.cos(angle) - x * jnp.sin(angle)
        ends = jnp.clip(radius + 0.5 - jnp.abs(along), 0, 1)
        return jnp.exp(-0.5 * (along / sigma) ** 2) * ends * jnp.clip(1 - jnp.abs(across), 0, 1)

    return _blur(image, weights, reach=10.0)


def _blur(image: Image, weights: Callable[[Array, Array], Array], reach: float) -> Image:
    """The weighted mean over a neighbourhood, with the border repeated.

    A product of Fourier transforms: under vmap each image has a kernel of its own, at the cost of any.

    Args:
      weights: of the offset (x, y) in pixels.
      reach: beyond which they are zero, in pixels of the published size.
    """
    margin = int(np.ceil(reach * max(image.shape[:2]) / PUBLISHED_SIZE)) + 1
    padded = jnp.pad(image, ((margin, margin), (margin, margin), (0, 0)), mode="edge")
    y, x = (jnp.fft.fftfreq(size) * size for size in padded.shape[:2])
    kernel = weights(x[None, :], y[:, None])
    spectrum = jnp.fft.rfft2(kernel / kernel.sum())[..., None] * jnp.fft.rfft2(padded, axes=(0, 1))
    blurred = jnp.fft.irfft2(spectrum, s=padded.shape[:2], axes=(0, 1))
    return blurred[margin:-margin, margin:-margin]


def brightness_up(key: Key[Array, ""], image: Image, level: Level) -> Image:
    """All values times 1.1 to 1.4."""
    return image * _at(level, 1.1, 1.2, 1.3, 1.35, 1.4)


def brightness_down(key: Key[Array, ""], image: Image, level: Level) -> Image:
    """All values times 0.9 to 0.5."""
    return image * _at(level, 0.9, 0.8, 0.7, 0.6, 0.5)


def contrast_up(key: Key[Array, ""], image: Image, level: Level) -> Image:
    """Deviations from the mean grey times 1.1 to 1.3."""
    return _contrast(image, _at(level, 1.1, 1.15, 1.2, 1.25, 1.3))


def contrast_down(key: Key[Array, ""], image: Image, level: Level) -> Image:
    """Deviations from the mean grey times 0.9 to 0.5."""
    return _contrast(image, _at(level, 0.9, 0.8, 0.7, 0.6, 0.5))


def _contrast(image: Image, factor: Level) -> Image:
    mean = jnp.mean(image, axis=(0, 1)) @ _LUMA
    return mean + (image - mean) * factor


def saturate(key: Key[Array, ""], image: Image, level: Level) -> Image:
    """The saturation of HSV raised by 0.05 to 0.2; grey stays grey."""
    value, lowest = image.max(axis=-1, keepdims=True), image.min(axis=-1, keepdims=True)
    before = (value - lowest) / jnp.maximum(value, 1e-6)
    after = jnp.minimum(before + _at(level, 0.05, 0.1, 0.15, 0.17, 0.2), 1)
    return jnp.where(before > 1e-6, value - (value - image) * after / jnp.maximum(before, 1e-6), image)


def stain_deposit(key: Key[Array, ""], image: Image, level: Level) -> Image:
    """One to three black blots of irregular outline, 8 to 18 pixels in radius."""
    count, place, form = jax.random.split(key, 3)
    marks = jnp.floor(1 + jax.random.uniform(count) * jnp.minimum(level, MAX_MARKS))
    x, y = _offsets(image, jax.random.uniform(place, (MAX_MARKS, 2), minval=0.1, maxval=0.9))
    size, waves = jax.random.split(form)
    radius = jax.random.uniform(size, (MAX_MARKS, 1, 1), minval=8, maxval=18) * _scale(image)
    # A closed outline: the radius is a short Fourier series of the angle.
    height, phase = jax.random.uniform(waves, (2, 5, MAX_MARKS, 1, 1))
    angle = jnp.arctan2(y, x)
    outline = radius * (1 + sum(0.12 * height[k] * jnp.cos((k + 2) * angle + 2 * np.pi * phase[k]) for k in range(5)))
    ink = jnp.clip(outline + 0.5 - jnp.hypot(x, y), 0, 1) * (jnp.arange(MAX_MARKS)[:, None, None] < marks)
    return image * (1 - ink.max(axis=0)[..., None])


def bubble(key: Key[Array, ""], image: Image, level: Level) -> Image:
    """Seven to twelve whitish disks with a lighter rim, of radius 3 to 5 at the first level and 3 to 15 at the last."""
    count, place, size = jax.random.split(key, 3)
    bubbles = jnp.floor(jax.random.uniform(count, minval=7, maxval=_at(level, 10, 10, 10, 12, 12) + 1))
    largest = _at(level, 5, 7, 10, 12, 15)
    radius = jax.random.uniform(size, (MAX_BUBBLES, 1, 1), minval=3, maxval=largest) * _scale(image)
    distance = jnp.hypot(*_offsets(image, jax.random.uniform(place, (MAX_BUBBLES, 2))))
    inner, outer = (jnp.clip(radius + rim + 0.5 - distance, 0, 1) for rim in (0, 2 * _scale(image)))
    shown = jnp.arange(MAX_BUBBLES)[:, None, None] < bubbles
    cover = (shown * jnp.where(inner > 0, 100 * inner + 130 * (1 - inner), 130 * outer) / 255).max(axis=0)[..., None]
    return image + (1 - image) * cover


CORRUPTIONS: dict[str, Callable[[Key[Array, ""], Image, Level], Image]] = {
    function.__name__: function
    for function in (pixelate, jpeg_compression, defocus_blur, motion_blur, brightness_up, brightness_down,
                     contrast_up, contrast_down, saturate, stain_deposit, bubble)
}
"""By MedMNIST-C's names and in its order; each takes a key, an image in [0, 1] and a level from 1 to 5."""


def corrupt(
    keys: Key[Array, "b"],
    images: Float[Array, "b h w 3"],
    kind: int | Int[Array, ""],
    levels: Float[Array, "b"],
) -> Float[Array, "b h w 3"]:
    """Images in [0, 1] with one kind of corruption, number ``kind`` of ``CORRUPTIONS``, each at its own level.

    One kind for all, so that only its branch is computed.
    """
    branches = [per_image(function) for function in CORRUPTIONS.values()]
    return jnp.clip(jax.lax.switch(kind, branches, keys, images, levels), 0, 1)


def corrupt_some(key: Key[Array, ""], images: Float[Array, "b h w 3"], share: float) -> Float[Array, "b h w 3"]:
    """Random kinds and levels for a batch: this share of its groups of images is corrupted, each in one way."""

    def change(key, group):
        chosen, kind, level, draw = jax.random.split(key, 4)
        number = jax.random.randint(kind, (), 0, len(CORRUPTIONS))
        levels = jax.random.uniform(level, (len(group),), minval=1, maxval=5)
        return jax.lax.cond(
            jax.random.bernoulli(chosen, share),
            lambda: corrupt(jax.random.split(draw, len(group)), group, number, levels),
            lambda: group,
        )

    return in_groups(key, images, change)


def _at(level: Level, *values: float | int) -> Float[Array, ""]:
    """The value of a level, linear between those of the five."""
    return jnp.interp(level, jnp.array(LEVELS, jnp.float32), jnp.array(values, jnp.float32))


def _scale(image: Image) -> float:
    return min(image.shape[:2]) / PUBLISHED_SIZE


def _offsets(
    image: Image, centres: Float[Array, "k 2"]
) -> tuple[Float[Array, "k h w"], Float[Array, "k h w"]]:
    """(x, y) of every pixel seen from each centre, which is a fraction of the image."""
    height, width, _ = image.shape
    x = jnp.arange(width) + 0.5 - centres[:, 0, None] * width
    y = jnp.arange(height) + 0.5 - centres[:, 1, None] * height
    shape = (len(centres), height, width)
    return jnp.broadcast_to(x[:, None, :], shape), jnp.broadcast_to(y[:, :, None], shape)
