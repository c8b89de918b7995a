"""ROI Align (He et al. 2017, section 3): features of a box, sampled bilinearly on a fixed grid.

Samples and border follow torchvision and detectron2: the value at index ``i`` of a feature map sits at coordinate
``i``; a sample up to one pixel outside the map takes the value at its border, one farther out counts as 0. A box on
image pixels is divided by the stride. ``aligned=True`` then subtracts 0.5, which is right for pixels that cover
``[i, i+1]``; ``aligned=False`` does not, and widens boxes to at least one feature pixel: what torchvision's published
detectors were trained with.

Unlike there, an empty box gives zeros and a zero gradient, so padded slots may hold zeros. Boxes get no gradient
(detectors train on fixed proposals), and the number of samples a bin is fixed.

There are two ways to the same values. ``gather`` reads the four neighbours of each sample and sums them up in one loop
that stores nothing else; its cost does not depend on the size of the map, and of a pyramid it reads each box's level
alone. ``einsum`` multiplies the map with one weight matrix an axis: dense matrix products of regular shapes, but all of
the map (and of every level) for each box.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from wbcjax.ops.boxes import AnyArray, Number, large_enough, namespace
from wbcjax.ops.boxes import area as box_area
from wbcjax.typing import Size

Method = Literal["gather", "einsum"]


def roi_align(
    features: Float[Array, "h w c"],
    boxes: Float[Array, "n 4"],
    output_size: int | Size,
    *,
    stride: Number = 1,
    sampling_ratio: int = 2,
    aligned: bool = False,
    method: Method | None = None,
) -> Float[Array, "n out_h out_w c"]:
    """Features of each box on a grid of ``output_size`` (height, width), in the features' type.

    Args:
      boxes: on the image, ``stride`` times the features' coordinates. Empty ones give zeros.
      sampling_ratio: samples a bin along each axis; their mean is the bin's value.
      aligned: see the module's text.
      method: "gather" or "einsum"; None takes the faster one for the backend, see ``default_method``.
    """
    return multilevel_roi_align(
        [features], boxes, output_size, strides=[stride], sampling_ratio=sampling_ratio, aligned=aligned, method=method
    )


def multilevel_roi_align(
    features: Sequence[Float[Array, "_ _ c"]],
    boxes: Float[Array, "n 4"],
    output_size: int | Size,
    *,
    strides: Sequence[Number],
    sampling_ratio: int = 2,
    aligned: bool = False,
    canonical_size: Number = 224,
    canonical_level: int = 4,
    method: Method | None = None,
) -> Float[Array, "n out_h out_w c"]:
    """Features of each box from the level of a pyramid that suits its size, see ``pyramid_level``.

    Args:
      features: finest level first, all with the same number of channels.
      strides: image pixels a feature pixel, of each level; each level's is twice that of the one before.
      canonical_size, canonical_level: see ``pyramid_level``.

    For the other arguments see ``roi_align``.

    Raises:
      ValueError: if the strides are not one a level, each twice the one before.
    """
    if len(strides) != len(features) or any(b != 2 * a for a, b in itertools.pairwise(strides)):
        problem = f"strides {tuple(strides)} of {len(features)} levels are impossible"
        raise ValueError(f"{problem}: expected one a level, each twice the one before")
    out = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if boxes.shape[0] == 0:
        return jnp.zeros((0, *out, features[0].shape[-1]), features[0].dtype)
    if len(features) == 1:
        level = jnp.zeros(boxes.shape[0], jnp.int32)
    else:
        finest = round(math.log2(strides[0]))
        level = pyramid_level(boxes, finest, finest + len(features) - 1, canonical_size, canonical_level) - finest
    boxes = jax.lax.stop_gradient(boxes)
    usable = large_enough(boxes, 0)
    # Padding may hold anything: its coordinates are replaced, not only its weights.
    boxes = jnp.where(usable[:, None], boxes, jnp.zeros(4, boxes.dtype))
    scaled = boxes / jnp.asarray(strides, boxes.dtype)[level][:, None] - (0.5 if aligned else 0.0)
    start, size = scaled[:, 1::-1], scaled[:, 3:1:-1] - scaled[:, 1::-1]  # (y, x)
    if not aligned:
        size = jnp.maximum(size, 1)
    pool = {"gather": _gather, "einsum": _einsum}[method or default_method()]
    return pool(features, level, usable, start, size, out, sampling_ratio)


def default_method() -> Method:
    """"gather" on a CPU, "einsum" elsewhere.

    On one core of a CPU, 2 × 64 boxes at 7 × 7 on 60 × 80 × 256 take 1 ms by gather and 100 ms by einsum, 7 and 291 ms
    with the gradient. Accelerators are built for matrix products, and scattering the gradient is slow on some; there
    ``benchmarks/roi_align.py`` decides.
    """
    return "gather" if jax.default_backend() == "cpu" else "einsum"


def pyramid_level(
    boxes: Float[Array, "n 4"],
    min_level: int,
    max_level: int,
    canonical_size: Number = 224,
    canonical_level: int = 4,
) -> Int[Array, "n"]:
    """Level of a feature pyramid for each box: ``floor(4 + log2(sqrt(area) / 224))``, within the levels there are.

    Equation 1 of FPN (Lin et al. 2017); a level's stride is 2 to the level. As in torchvision and detectron2 a little
    is added before rounding down, so that a box of exactly 224 pixels is on level 4. Empty boxes are on the lowest.
    """
    area = box_area(jax.lax.stop_gradient(boxes))
    # log2 of 0 rounded to an integer is undefined.
    size = jnp.sqrt(jnp.where(area > 0, area, 1e-6))
    level = jnp.floor(canonical_level + jnp.log2(size / canonical_size) + 1e-6)
    return jnp.clip(level, min_level, max_level).astype(jnp.int32)


def axis_weights(
    start: Float[AnyArray, "*batch"],
    size: Float[AnyArray, "*batch"],
    bins: int,
    sampling_ratio: int,
    extent: int,
) -> Float[AnyArray, "*batch {bins} {extent}"]:
    """Weights with which the ``extent`` values of an axis enter the bins of a span; NumPy or JAX.

    ROI Align is separable: a box's output is ``wy @ map @ wx.T`` with one such matrix for each axis.

    Args:
      start, size: of the span, in the map's coordinates.
    """
    xp = namespace(start, size)
    position, inside = _samples(start, size, bins, sampling_ratio, extent)
    distance = xp.abs(position[..., None] - np.arange(extent, dtype=position.dtype))
    weights = xp.maximum(1 - distance, 0) * inside[..., None]  # (*batch, bins * sampling_ratio, extent)
    return weights.reshape(*start.shape, bins, sampling_ratio, extent).mean(-2)


def _samples(
    start: AnyArray, size: AnyArray, bins: int, sampling_ratio: int, extent: int | AnyArray
) -> tuple[AnyArray, AnyArray]:
    """Coordinates of the samples, moved onto the map, and whether they count: (*batch, bins * sampling_ratio)."""
    xp = namespace(start, size)
    fractions = (np.arange(bins * sampling_ratio, dtype=start.dtype) + 0.5) / (bins * sampling_ratio)
    position = start[..., None] + size[..., None] * fractions
    inside = (position >= -1) & (position <= extent)
    return xp.clip(position, 0, extent - 1), inside


def _einsum(features, level, usable, start, size, out, sampling_ratio):
    total = 0
    for i, values in enumerate(features):
        height, width, _ = values.shape
        on_level = (usable & (level == i))[:, None, None]
        wy = jnp.where(on_level, axis_weights(start[:, 0], size[:, 0], out[0], sampling_ratio, height), 0)  # (T, p, H)
        wx = axis_weights(start[:, 1], size[:, 1], out[1], sampling_ratio, width)  # (T, q, W)
        # Rows first: the intermediate is (T, p, W, C). An accelerator would round float32 factors by default.
        rows = jnp.einsum("tph,hwc->tpwc", wy.astype(values.dtype), values, precision="highest")
        total += jnp.einsum("tqw,tpwc->tpqc", wx.astype(values.dtype), rows, precision="highest")
    return total.astype(features[0].dtype)


def _gather(features, level, usable, start, size, out, sampling_ratio):
    channels = features[0].shape[-1]
    shapes = np.array([values.shape[:2] for values in features], np.int32)
    offsets = np.cumsum([0, *shapes.prod(axis=1)[:-1]]).astype(np.int32)
    flat = jnp.concatenate([values.reshape(-1, channels) for values in features])  # the pyramid, a row a pixel
    shape, offset = jnp.asarray(shapes)[level], jnp.asarray(offsets)[level]

    def neighbours(axis):
        """Index and weight of the two neighbours of each sample along an axis, both (T, bins, 2 * sampling_ratio)."""
        extent = shape[:, axis, None]
        position, inside = _samples(start[:, axis], size[:, axis], out[axis], sampling_ratio, extent)
        low = jnp.clip(jnp.floor(position).astype(jnp.int32), 0, extent - 1)
        upper, scale = position - low, inside * usable[:, None] / sampling_ratio
        index = jnp.stack([low, jnp.minimum(low + 1, extent - 1)], axis=-1)
        weight = jnp.stack([(1 - upper) * scale, upper * scale], axis=-1)
        return index.reshape(-1, out[axis], 2 * sampling_ratio), weight.reshape(-1, out[axis], 2 * sampling_ratio)

    (y, wy), (x, wx) = neighbours(0), neighbours(1)
    rows = offset[:, None, None] + y * shape[:, 1, None, None]
    if jax.default_backend() == "cpu":
        return _cpu_weighted_sums(len(flat), flat, rows, x, wy, wx)
    return _weighted_sums(flat, rows, x, wy, wx)


@functools.partial(jax.vmap, in_axes=(None, 0, 0, 0, 0))
def _weighted_sums(flat, rows, columns, wy, wx):
    """Sum for each bin (p, q) of each box of ``wy[p, i] * wx[q, j] * flat[rows[p, i] + columns[q, j]]`` over i, j."""
    total = 0
    # Term by term: the compiler makes it one loop that stores nothing but the bins.
    for i in range(rows.shape[1]):
        for j in range(columns.shape[1]):
            values = flat.at[rows[:, i, None] + columns[:, j]].get(mode="promise_in_bounds")  # (p, q, C)
            total += (wy[:, i, None] * wx[:, j])[:, :, None] * values
    return total.astype(flat.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cpu_weighted_sums(pixels, flat, rows, columns, wy, wx):
    """``_weighted_sums`` with a gradient that is added up in place, box by box, and no forward mode.

    Automatic differentiation fills an array as large as the pyramid for each term: 70 instead of 3.4 ms for 100 boxes
    at 7 × 7 on 60 × 80 × 256. ``pixels`` is the length of ``flat``, for the gradient.
    """
    return _weighted_sums(flat, rows, columns, wy, wx)


def _cpu_forward(pixels, flat, *boxes):
    return _cpu_weighted_sums(pixels, flat, *boxes), boxes


def _cpu_backward(pixels, boxes, cotangents):
    channels = cotangents.shape[-1]

    def add(total, box):
        rows, columns, wy, wx, cotangent = box
        index = rows[:, :, None, None] + columns  # (p, i, q, j)
        values = (wy[:, :, None, None] * wx)[..., None] * cotangent[:, None, :, None]
        return total.at[index.ravel()].add(values.reshape(-1, channels), mode="promise_in_bounds"), None

    total, _ = jax.lax.scan(add, jnp.zeros((pixels, channels), jnp.float32), (*boxes, cotangents))
    return total.astype(cotangents.dtype), None, None, None, None


_cpu_weighted_sums.defvjp(_cpu_forward, _cpu_backward)
