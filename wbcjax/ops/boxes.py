"""Boxes: area, (generalised) intersection over union, clipping, deltas to anchors; on NumPy and JAX arrays alike.

Convention: xyxy, float, absolute pixels, continuous (pixel ``i`` covers ``[i, i + 1]``), see
``wbcjax.typing``. A box whose width or height is not positive is *empty*: it has area 0, IoU 0 with every box
(itself included) and zero gradient, so padded slots may hold zeros. Every function takes leading batch axes
and may be mapped by ``jax.vmap``; the result is a NumPy array for NumPy input and a JAX array as soon as one
argument is one.
"""

import math
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

AnyArray = np.ndarray | np.generic | jax.Array
Number = float | int

MAX_LOG_SCALE = math.log(1000 / 16)
"""``decode`` lets no delta enlarge an anchor's side more than 62.5 times: exp of an untrained network's output
overflows."""
MIN_SIDE = 1e-6
"""``encode`` takes boxes and anchors narrower than this, in pixels, for empty: deltas to them would overflow."""


def namespace(*arrays: AnyArray | int) -> ModuleType:
    """``jax.numpy`` as soon as one argument is a JAX array, else ``numpy``."""
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def area(boxes: Float[AnyArray, "*batch 4"]) -> Float[AnyArray, "*batch"]:
    """Area of each box in square pixels; 0 for an empty one."""
    width, height = _sides(boxes)
    # Two negative sides would multiply to a positive area: both are tested, not the product.
    return namespace(boxes).where((width > 0) & (height > 0), width * height, 0)


def pairwise_iou(
    a: Float[AnyArray, "*batch n 4"], b: Float[AnyArray, "*batch m 4"]
) -> Float[AnyArray, "*batch n m"]:
    """IoU of every box of ``a`` with every box of ``b``, in [0, 1]; see ``paired_iou`` for empty boxes."""
    return _iou(a[..., :, None, :], b[..., None, :, :])


def paired_iou(a: Float[AnyArray, "*batch 4"], b: Float[AnyArray, "*batch 4"]) -> Float[AnyArray, "*batch"]:
    """IoU of the i-th box of ``a`` with the i-th box of ``b``, in [0, 1].

    Pairs that do not overlap, among them every pair with an empty box, get 0 and a zero gradient.
    """
    return _iou(a, b)


def pairwise_giou(
    a: Float[AnyArray, "*batch n 4"], b: Float[AnyArray, "*batch m 4"]
) -> Float[AnyArray, "*batch n m"]:
    """Generalised IoU of every box of ``a`` with every box of ``b``; see ``paired_giou``."""
    return _giou(a[..., :, None, :], b[..., None, :, :])


def paired_giou(a: Float[AnyArray, "*batch 4"], b: Float[AnyArray, "*batch 4"]) -> Float[AnyArray, "*batch"]:
    """Generalised IoU (Rezatofighi et al. 2019) of the i-th box of ``a`` with the i-th box of ``b``, in [-1, 1].

    IoU minus the share of the boxes' common hull that neither covers, so boxes that do not overlap still have a
    gradient. A pair with an empty box gets -1, the worst, and a zero gradient.
    """
    return _giou(a, b)


def large_enough(boxes: Float[AnyArray, "*batch 4"], min_size: Number) -> Bool[AnyArray, "*batch"]:
    """Which boxes have both sides of at least ``min_size`` pixels, and are not empty."""
    width, height = _sides(boxes)
    return (width >= min_size) & (height >= min_size) & (width > 0) & (height > 0)


def encode(
    boxes: Float[AnyArray, "*#batch 4"],
    anchors: Float[AnyArray, "*#batch 4"],
    weights: tuple[Number, Number, Number, Number] = (1.0, 1.0, 1.0, 1.0),
) -> Float[AnyArray, "*batch 4"]:
    """Deltas (dx, dy, dw, dh) that take each anchor to its box; the inverse of ``decode``.

    The centre's shift in units of the anchor's side and the logarithm of the ratio of the sides, times ``weights``, as
    in torchvision's ``BoxCoder`` (R-CNN, Girshick et al. 2014, appendix C). Where the box or the anchor is empty the
    deltas and their gradient are 0, so padded targets stay finite.
    """
    xp = namespace(boxes, anchors)
    usable = large_enough(boxes, MIN_SIDE) & large_enough(anchors, MIN_SIDE)
    # The inputs are masked, not the result: a logarithm of 0 behind a `where` still has a NaN gradient.
    unit = np.array([0, 0, 1, 1], np.float32)
    (width, height), (x, y) = _sides_and_centres(xp.where(usable[..., None], boxes, unit))
    (a_width, a_height), (a_x, a_y) = _sides_and_centres(xp.where(usable[..., None], anchors, unit))
    deltas = (
        (x - a_x) / a_width,
        (y - a_y) / a_height,
        xp.log(width / a_width),
        xp.log(height / a_height),
    )
    return xp.stack([w * delta for w, delta in zip(weights, deltas, strict=True)], axis=-1)


def decode(
    deltas: Float[AnyArray, "*#batch 4"],
    anchors: Float[AnyArray, "*#batch 4"],
    weights: tuple[Number, Number, Number, Number] = (1.0, 1.0, 1.0, 1.0),
    max_log_scale: Number = MAX_LOG_SCALE,
) -> Float[AnyArray, "*batch 4"]:
    """Boxes that lie at ``deltas`` from the anchors, in the anchors' type (float32 for bfloat16 deltas).

    Leading axes broadcast: with one set of deltas a class, ``(n, classes, 4)``, give the anchors as ``(n, 1, 4)``.
    dw and dh are limited to ``max_log_scale`` from above, and have no gradient there. An empty anchor gives an empty
    box.
    """
    xp = namespace(deltas, anchors)
    dx, dy, dw, dh = (deltas[..., i].astype(anchors.dtype) / weights[i] for i in range(4))
    (a_width, a_height), (a_x, a_y) = _sides_and_centres(anchors)
    x, y = dx * a_width + a_x, dy * a_height + a_y
    half_width = 0.5 * (xp.exp(xp.minimum(dw, max_log_scale)) * a_width)
    half_height = 0.5 * (xp.exp(xp.minimum(dh, max_log_scale)) * a_height)
    return xp.stack([x - half_width, y - half_height, x + half_width, y + half_height], axis=-1)


def clip(
    boxes: Float[AnyArray, "*batch 4"],
    size: tuple[int | Int[AnyArray, ""], int | Int[AnyArray, ""]] | Int[AnyArray, "2"],
) -> Float[AnyArray, "*batch 4"]:
    """Cut boxes to an image of ``size`` (height, width); a box that lies outside becomes empty."""
    height, width = size[0], size[1]
    xp = namespace(boxes, height, width)
    x, y = xp.clip(boxes[..., 0::2], 0, width), xp.clip(boxes[..., 1::2], 0, height)
    clipped = xp.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], axis=-1)
    return clipped.astype(boxes.dtype)  # an int64 height would have made it float64


def _intersection(a: AnyArray, b: AnyArray) -> AnyArray:
    """Area of the overlap by broadcasting over all axes but the last; 0 where there is none."""
    xp = namespace(a, b)
    # Column by column: slices of length 2 on the last axis would be several times slower in NumPy.
    width = xp.minimum(a[..., 2], b[..., 2]) - xp.maximum(a[..., 0], b[..., 0])
    height = xp.minimum(a[..., 3], b[..., 3]) - xp.maximum(a[..., 1], b[..., 1])
    return xp.where((width > 0) & (height > 0), width * height, 0)


def _iou(a: AnyArray, b: AnyArray) -> AnyArray:
    """IoU by broadcasting over all axes but the last."""
    xp = namespace(a, b)
    intersection = _intersection(a, b)
    union = area(a) + area(b) - intersection
    # An empty box can cross another's area with negative sides only, so overlap implies a positive union. The
    # denominator is masked too: 0 / 0 behind a `where` still has a NaN gradient.
    overlap = intersection > 0
    return xp.where(overlap, intersection / xp.where(overlap, union, 1), 0)


def _giou(a: AnyArray, b: AnyArray) -> AnyArray:
    """Generalised IoU by broadcasting over all axes but the last."""
    xp = namespace(a, b)
    area_a, area_b = area(a), area(b)
    intersection = _intersection(a, b)
    union = area_a + area_b - intersection
    hull = (xp.maximum(a[..., 2], b[..., 2]) - xp.minimum(a[..., 0], b[..., 0])) * (
        xp.maximum(a[..., 3], b[..., 3]) - xp.minimum(a[..., 1], b[..., 1])
    )
    usable = (area_a > 0) & (area_b > 0)
    union, hull = xp.where(usable, union, 1), xp.where(usable, hull, 1)
    return xp.where(usable, intersection / union - (hull - union) / hull, -1)


def _sides(boxes: AnyArray) -> tuple[AnyArray, AnyArray]:
    return boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]


def _sides_and_centres(boxes: AnyArray) -> tuple[tuple[AnyArray, AnyArray], tuple[AnyArray, AnyArray]]:
    width, height = _sides(boxes)
    return (width, height), (boxes[..., 0] + 0.5 * width, boxes[..., 1] + 0.5 * height)
