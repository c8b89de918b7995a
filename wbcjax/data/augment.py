"""Random changes of training images, as pure functions of a key, under jit.

All geometric changes of an image are one affine map and one bilinear resampling, so it is blurred once. Colour changes
act on RGB in [0, 1]; stain jitter acts on optical density in the basis of Ruifrok and Johnston (2001).
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PRNGKeyArray

from wbcjax.config import AugmentConfig, DetectionAugmentConfig
from wbcjax.data.augmix import augmix
from wbcjax.data.corruptions import corrupt_some
from wbcjax.data.warp import warp_affine

_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)
_UNMIX = np.linalg.inv(_STAINS)
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# The YIQ axes: a turn of hue is a rotation in their chroma plane.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]], np.float32)
_RGB = np.linalg.inv(_YIQ)


def _mix(channels: Float[Array, "h w 3"], matrix: Float[Array | np.ndarray, "3 c"]) -> Float[Array, "h w c"]:
    """``channels @ matrix`` as a sum of products: exact float32 on every device, and fused with what surrounds it."""
    return sum(channels[..., k, None] * matrix[k] for k in range(3))


def random_affine(key: PRNGKeyArray, size: tuple[int, int], config: AugmentConfig) -> Float[Array, "2 3"]:
    """A random map from output to input coordinates: flip, rotation, shear, zoom about the centre, then a shift."""
    height, width = size
    keys = jax.random.split(key, 4)
    angle = jnp.deg2rad(config.rotation) * jax.random.uniform(keys[0], minval=-1.0)
    shear = config.shear * jax.random.uniform(keys[1], minval=-1.0)
    zoom_and_shift = jax.random.uniform(keys[2], (3,), minval=-1.0)
    zoom = 1 + config.scale * zoom_and_shift[0]
    shift = config.shift * zoom_and_shift[1:] * jnp.array([width, height])
    signs = jnp.where(config.flip & jax.random.bernoulli(keys[3], shape=(2,)), -1.0, 1.0)
    c, s = jnp.cos(angle), jnp.sin(angle)
    linear = jnp.array([[c, c * shear - s], [s, s * shear + c]]) * signs / zoom  # rotation @ shear @ flips / zoom
    centre = jnp.array([width / 2, height / 2])
    return jnp.concatenate([linear, (centre + shift - (linear * centre).sum(axis=1))[:, None]], axis=1)


def jitter_color(
    key: PRNGKeyArray, image: Float[Array, "h w 3"], config: AugmentConfig | DetectionAugmentConfig
) -> Float[Array, "h w 3"]:
    """Random brightness and contrast (factors), saturation (factor about luma) and hue (turn), each in one draw."""
    draws = jax.random.uniform(key, (4,), minval=-1.0)
    image = image * (1 + config.brightness * draws[0])
    mean = _mix(image, _LUMA[:, None]).mean()
    image = mean + (image - mean) * (1 + config.contrast * draws[1])
    turn = 2 * jnp.pi * config.hue * draws[3]
    gain = 1 + config.saturation * draws[2]
    c, s = gain * jnp.cos(turn), gain * jnp.sin(turn)
    chroma = jnp.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
    return _mix(image, jnp.einsum("ij,jk,kl->li", _RGB, chroma, _YIQ, precision="highest"))


def jitter_stain(key: PRNGKeyArray, image: Float[Array, "h w 3"], sigma: float) -> Float[Array, "h w 3"]:
    """Scale the amount of each stain by a factor from N(1, sigma), in optical density."""
    density = -jnp.log(jnp.maximum(image, 1 / 255))
    gains = 1 + sigma * jax.random.normal(key, (3,))
    return jnp.exp(-_mix(density, jnp.einsum("ij,j,jk->ik", _UNMIX, gains, _STAINS, precision="highest")))


def photometric(
    keys: Key[Array, "4"], image: Float[Array, "h w 3"], config: AugmentConfig | DetectionAugmentConfig
) -> Float[Array, "h w 3"]:
    """Colour, stain and noise, from four keys; the result lies in [0, 1]."""
    color, stain, noise, strength = keys
    if config.brightness or config.contrast or config.saturation or config.hue:
        image = jitter_color(color, image, config)
    if config.stain:
        image = jitter_stain(stain, jnp.clip(image, 0, 1), config.stain)
    if config.noise:
        # The lowest draws stand for the images without noise.
        above = jnp.maximum(jax.random.uniform(strength) - (1 - config.noise_share), 0)
        sigma = config.noise / config.noise_share * above
        image = image + sigma * jax.random.normal(noise, image.shape)
    return jnp.clip(image, 0, 1)


def _augment_one(key, image, config):
    keys = jax.random.split(key, 5)
    if config.flip or config.rotation or config.shift or config.shear or config.scale:
        image = warp_affine(image, random_affine(keys[0], image.shape[:2], config))
    return photometric(keys[1:], image, config)


@functools.partial(jax.jit, static_argnames="config")
def augment(
    key: PRNGKeyArray, images: Float[Array, "b h w 3"], config: AugmentConfig
) -> Float[Array, "b h w 3"]:
    """Augment a batch of images in [0, 1]; each image has its own key, so it does not depend on its neighbours.

    Corruptions and AugMix come last, on groups of images.
    """
    keys = jax.random.split(key, images.shape[0])
    images = jax.vmap(lambda k, x: _augment_one(k, x, config))(keys, images)
    if config.augmix:
        images = augmix(jax.random.fold_in(key, 1), images, config.augmix)
    if config.corruption:
        images = corrupt_some(jax.random.fold_in(key, 2), images, config.corruption)
    return images
