"""Anchors: the fixed boxes around which a region proposal network predicts, as NumPy constants.

They depend on static shapes alone, so they are computed while a function is traced and become constants of it. Values
and order are those of torchvision's ``AnchorGenerator``: a location's anchors are centred on the corner of its cell
(``x * stride``, not ``(x + 0.5) * stride``), their sides are rounded, and they are listed row by row, within a location
by aspect ratio and then by size.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from wbcjax.ops.boxes import Number
from wbcjax.typing import Size


def base_anchors(sizes: Sequence[Number], aspect_ratios: Sequence[Number]) -> Float[np.ndarray, "a 4"]:
    """Anchors of one location, centred on (0, 0): one for each aspect ratio and size, ratios outermost.

    Args:
      sizes: square root of the area, in pixels.
      aspect_ratios: height / width.

    Each coordinate is rounded to whole pixels, halves to even, as in torchvision: an area comes out slightly off its
    size, and a trained network's deltas refer to the rounded boxes.
    """
    ratios = np.sqrt(np.asarray(aspect_ratios, np.float32))
    heights = np.outer(ratios, np.asarray(sizes, np.float32)).ravel()
    widths = np.outer(1 / ratios, np.asarray(sizes, np.float32)).ravel()
    return np.round(np.stack([-widths, -heights, widths, heights], axis=1) / 2)


def grid_anchors(
    base: Float[np.ndarray, "a 4"], feature_shape: Size, stride: int | Size
) -> Float[np.ndarray, "locations_times_a 4"]:
    """``base`` moved to every location of a feature map of ``feature_shape`` (height, width).

    Args:
      stride: image pixels between neighbouring locations, one number or (vertical, horizontal).
    """
    step_y, step_x = (stride, stride) if isinstance(stride, int) else stride
    y, x = np.meshgrid(
        np.arange(feature_shape[0], dtype=np.float32) * step_y,
        np.arange(feature_shape[1], dtype=np.float32) * step_x,
        indexing="ij",
    )
    shifts = np.stack([x, y, x, y], axis=-1).reshape(-1, 1, 4)
    return (shifts + base).reshape(-1, 4)


def pyramid_anchors(
    feature_shapes: Sequence[Size],
    strides: Sequence[int | Size],
    sizes: Sequence[Sequence[Number]],
    aspect_ratios: Sequence[Sequence[Number]],
) -> tuple[Float[np.ndarray, "_ 4"], ...]:
    """Anchors of each level of a feature pyramid.

    Args:
      feature_shapes: (height, width) of each level.
      strides: of each level; ``strides_of`` gives them from the image's size.
      sizes, aspect_ratios: of each level, see ``base_anchors``.

    Raises:
      ValueError: if the arguments do not have one entry a level.
    """
    levels = zip(feature_shapes, strides, sizes, aspect_ratios, strict=True)
    return tuple(grid_anchors(base_anchors(size, ratio), shape, stride) for shape, stride, size, ratio in levels)


def strides_of(image_size: Size, feature_shapes: Sequence[Size]) -> tuple[Size, ...]:
    """Strides (vertical, horizontal) of feature maps of an image, rounded down as torchvision does."""
    return tuple((image_size[0] // height, image_size[1] // width) for height, width in feature_shapes)
