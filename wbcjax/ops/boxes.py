"""Boxes: area, intersection over union, clipping; on NumPy and JAX arrays alike.

Convention: xyxy, float, absolute pixels, continuous (pixel ``i`` covers ``[i, i + 1]``), see
``wbcjax.typing``. A box whose width or height is not positive is *empty*: it has area 0, IoU 0 with every box
(itself included) and zero gradient, so padded slots may hold zeros. Every function takes leading batch axes
and may be mapped by ``jax.vmap``; the result is a NumPy array for NumPy input and a JAX array as soon as one
argument is one.
"""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

AnyArray = np.ndarray | np.generic | jax.Array


def _namespace(*arrays: AnyArray | int) -> ModuleType:
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def area(boxes: Float[AnyArray, "*batch 4"]) -> Float[AnyArray, "*batch"]:
    """Area of each box in square pixels; 0 for an empty one."""
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    # Two negative sides would multiply to a positive area: both are tested, not the product.
    return _namespace(boxes).where((width > 0) & (height > 0), width * height, 0)


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


def clip(
    boxes: Float[AnyArray, "*batch 4"],
    size: tuple[int | Int[AnyArray, ""], int | Int[AnyArray, ""]] | Int[AnyArray, "2"],
) -> Float[AnyArray, "*batch 4"]:
    """Cut boxes to an image of ``size`` (height, width); a box that lies outside becomes empty."""
    height, width = size[0], size[1]
    xp = _namespace(boxes, height, width)
    x, y = xp.clip(boxes[..., 0::2], 0, width), xp.clip(boxes[..., 1::2], 0, height)
    clipped = xp.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], axis=-1)
    return clipped.astype(boxes.dtype)  # an int64 height would have made it float64


def _iou(a: AnyArray, b: AnyArray) -> AnyArray:
    """IoU by broadcasting over all axes but the last."""
    xp = _namespace(a, b)
    # Column by column: slices of length 2 on the last axis would be several times slower in NumPy.
    width = xp.minimum(a[..., 2], b[..., 2]) - xp.maximum(a[..., 0], b[..., 0])
    height = xp.minimum(a[..., 3], b[..., 3]) - xp.maximum(a[..., 1], b[..., 1])
    intersection = xp.where((width > 0) & (height > 0), width * height, 0)
    union = area(a) + area(b) - intersection
    # An empty box can cross another's area with negative sides only, so overlap implies a positive union. The
    # denominator is masked too: 0 / 0 behind a `where` still has a NaN gradient.
    overlap = intersection > 0
    return xp.where(overlap, intersection / xp.where(overlap, union, 1), 0)
