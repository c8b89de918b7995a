"""Random changes of training images together with their boxes and masks, under jit.

Flips, zoom and shift keep boxes upright: ``scale * (x, y) + offset`` moves the image, resampled axis by axis, and the
boxes. Masks are stored inside their boxes, so they are but flipped.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from wbcjax.config import DetectionAugmentConfig
from wbcjax.data.augment import photometric
from wbcjax.ops.boxes import AnyArray, area, clip
from wbcjax.typing import Size
from wbcjax.typing_detection import Instances


@functools.partial(jax.jit, static_argnames="config")
def augment_detection(
    key: PRNGKeyArray,
    images: Float[Array, "b h w 3"],
    sizes: Int[AnyArray, "b 2"],
    truth: Instances,
    config: DetectionAugmentConfig,
) -> tuple[Float[Array, "b h w 3"], Int[Array, "b 2"], Instances]:
    """Change a batch of images in [0, 1]; each has its own key, so it does not depend on its neighbours.

    Images are flipped and zoomed about the centre of their content, then shifted. Whatever comes in from outside is
    black, and with zoom or shift counts as image: the sizes become the canvas. Boxes may come to reach beyond it, and
    are invalid where less than ``min_visible`` of them is left.
    """
    keys = jax.random.split(key, len(images))
    return jax.vmap(lambda *one: _augment_one(*one, config))(keys, images, sizes, truth)


def _augment_one(key, image, size, truth, config):
    keys = jax.random.split(key, 5)
    canvas = image.shape[:2]
    content = jnp.array([0, 0, size[1], size[0]], jnp.float32)
    if config.flip or config.scale or config.shift:
        scale, offset = random_move(keys[0], size, canvas, config)
        image = move_image(image, scale, offset)
        content = move_boxes(content, scale, offset)
        truth = move_instances(truth, scale, offset)
    if config.scale or config.shift:
        size = jnp.array(canvas, size.dtype)
        left = area(clip(truth.boxes, canvas))
        truth = truth._replace(valid=truth.valid & (left > 0) & (left >= config.min_visible * area(truth.boxes)))
    image = photometric(keys[1:], image, config)
    y, x = jnp.arange(canvas[0])[:, None] + 0.5, jnp.arange(canvas[1]) + 0.5
    inside = (x > content[0]) & (x < content[2]) & (y > content[1]) & (y < content[3])
    return jnp.where(inside[..., None], image, 0), size, truth  # the change of colours has lit the padding


def random_move(
    key: PRNGKeyArray, size: Int[Array, "2"], canvas: Size, config: DetectionAugmentConfig
) -> tuple[Float[Array, "2"], Float[Array, "2"]]:
    """A random scale (negative where flipped) and offset, both (x, y), of an image of ``size`` on its canvas."""
    flip, zoom, shift = jax.random.split(key, 3)
    signs = jnp.where(config.flip & jax.random.bernoulli(flip, shape=(2,)), -1.0, 1.0)
    scale = signs * (1 + config.scale * jax.random.uniform(zoom, minval=-1.0))
    centre = size[::-1] / 2
    shift = config.shift * jax.random.uniform(shift, (2,), minval=-1.0) * jnp.array(canvas[::-1])
    return scale, centre + shift - scale * centre


def move_image(
    image: Float[Array, "h w c"], scale: Float[AnyArray, "2"], offset: Float[AnyArray, "2"]
) -> Float[Array, "h w c"]:
    """Resample bilinearly: what was at (x, y) comes to ``scale * (x, y) + offset``; black outside.

    Equal to ``warp.warp_affine`` of the inverse map in half of its time, and exact for flips.
    """
    for axis in (0, 1):
        pixels = image.shape[axis]
        position = (jnp.arange(pixels) + 0.5 - offset[1 - axis]) / scale[1 - axis] - 0.5
        low = jnp.floor(position).astype(jnp.int32)
        total = 0
        for index, weight in ((low, low + 1 - position), (low + 1, position - low)):
            weight = jnp.where((index >= 0) & (index < pixels), weight, 0)
            total += jnp.take(image, index, axis=axis, mode="clip") * jnp.expand_dims(weight, (1 - axis, 2))
        image = total
    return image


def move_boxes(
    boxes: Float[AnyArray, "*n 4"], scale: Float[AnyArray, "2"], offset: Float[AnyArray, "2"]
) -> Float[Array, "*n 4"]:
    """The boxes around what ``move_image`` made of their content."""
    corners = boxes.reshape(*boxes.shape[:-1], 2, 2) * scale + offset
    return jnp.concatenate([corners.min(-2), corners.max(-2)], axis=-1)


def move_instances(truth: Instances, scale: Float[AnyArray, "2"], offset: Float[AnyArray, "2"]) -> Instances:
    """The true objects of the image that ``move_image`` made."""
    masks = jnp.where(scale[0] < 0, truth.masks[..., ::-1], truth.masks)
    masks = jnp.where(scale[1] < 0, masks[..., ::-1, :], masks)
    return truth._replace(boxes=move_boxes(truth.boxes, scale, offset), masks=masks)
