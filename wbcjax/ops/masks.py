"""Masks of boxes: training targets from ground truth, and predicted masks pasted back into the image.

A mask belongs to a box and is stored on a square grid that the box is stretched to: ground truth at 112 × 112, what the
mask head predicts at 28 × 28. Everything here is separable, so a mask is moved by one small weight matrix an axis.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from wbcjax.ops.boxes import AnyArray, Number, clip, large_enough, namespace
from wbcjax.ops.roi_align import axis_weights
from wbcjax.typing import Size


def crop_to_box(
    masks: Bool[np.ndarray, "n h w"], boxes: Float[np.ndarray, "n 4"], size: int = 112
) -> Bool[np.ndarray, "n {size} {size}"]:
    """The part of each mask inside its box, stretched to ``size`` × ``size``; on the host, once for a data set.

    A bin is set where the mask covers at least half of its area, so the mask of a single pixel fills its box. What lies
    outside the box is cut off; an empty box gives an empty mask.
    """
    crops = np.zeros((len(masks), size, size), bool)
    height, width = masks.shape[1:]
    for i, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        if not large_enough(box, 0):
            continue
        hull = clip(box, (height, width))
        left, top = np.floor(hull[:2]).astype(int)
        right, bottom = np.ceil(hull[2:]).astype(int)
        if left >= right or top >= bottom:
            continue
        part = mask[top:bottom, left:right].astype(np.float32)
        wy = _shares(box[1], box[3], size, np.arange(top, bottom))
        wx = _shares(box[0], box[2], size, np.arange(left, right))
        crops[i] = wy @ part @ wx.T >= 0.5 - 1e-6
    return crops


def mask_targets(
    crops: Bool[Array, "n s s"] | Float[Array, "n s s"],
    boxes: Float[Array, "n 4"],
    proposals: Float[Array, "n 4"],
    size: int = 28,
    sampling_ratio: int = 4,
) -> Float[Array, "n {size} {size}"]:
    """What the mask head is to predict for each proposal: the share of each bin that the true mask covers, in [0, 1].

    ROI Align (``aligned``) of the cropped mask into the proposal. Around its box the mask is 0; a pair with an empty
    box gives zeros. torchvision trains on such shares, detectron2 on ``targets >= 0.5``.

    Args:
      crops: the true masks inside ``boxes``, from ``crop_to_box``; the i-th belongs to the i-th proposal.
      boxes: the true boxes.
      proposals: the boxes that the head predicts in, one for each true box (gather by the matched index).
    """
    grid = crops.shape[1]
    usable = large_enough(boxes, 0) & large_enough(proposals, 0)
    unit = jnp.array([0, 0, 1, 1], boxes.dtype)
    boxes, proposals = (jax.lax.stop_gradient(jnp.where(usable[:, None], b, unit)) for b in (boxes, proposals))
    scale = grid / (boxes[:, 2:] - boxes[:, :2])  # (n, (x, y))
    # A ring of zeros makes the mask end at its box; without it the border rule would repeat its last row.
    start = (proposals[:, :2] - boxes[:, :2]) * scale + 1 - 0.5
    length = (proposals[:, 2:] - proposals[:, :2]) * scale
    padded = jnp.pad(crops.astype(boxes.dtype), ((0, 0), (1, 1), (1, 1)))
    wx = axis_weights(start[:, 0], length[:, 0], size, sampling_ratio, grid + 2)
    wy = axis_weights(start[:, 1], length[:, 1], size, sampling_ratio, grid + 2)
    targets = jnp.einsum("npy,nyx,nqx->npq", wy, padded, wx, precision="highest")
    return jnp.where(usable[:, None, None], targets, 0)


def paste(
    probabilities: Float[np.ndarray, "n s s"],
    boxes: Float[np.ndarray, "n 4"],
    size: Size,
    threshold: Number | None = 0.5,
    whole_pixels: bool = True,
) -> Bool[np.ndarray, "n h w"] | Float[np.ndarray, "n h w"]:
    """Masks of the whole image from the probabilities inside each box; on the host, working inside the box alone.

    Args:
      size: (height, width) of the image.
      threshold: a pixel is set where its probability is larger; None returns the probabilities.
      whole_pixels: stretch the mask to the box rounded to whole pixels, as torchvision's ``paste_masks_in_image`` does;
        False to the box itself, which is more exact for small ones.

    The mask is zero outside its box and fades to zero over half a bin at its edge. Empty boxes give empty masks.
    """
    height, width = size
    pasted = np.zeros((len(boxes), height, width), np.float32 if threshold is None else bool)
    padded = np.pad(probabilities, ((0, 0), (1, 1), (1, 1)))
    grid = probabilities.shape[1]
    for i, box in enumerate(boxes):
        if not large_enough(box, 0):
            continue
        margin = (box[2:] - box[:2]) / grid + 2
        hull = clip(np.concatenate([box[:2] - margin, box[2:] + margin]), size)
        left, top, right, bottom = np.round(hull).astype(int).tolist()
        wy = _paste_weights(box[1], box[3], np.arange(top, bottom), grid, whole_pixels)
        wx = _paste_weights(box[0], box[2], np.arange(left, right), grid, whole_pixels)
        values = wy @ padded[i] @ wx.T
        pasted[i, top:bottom, left:right] = values if threshold is None else values > threshold
    return pasted


def paste_on_device(
    probabilities: Float[Array, "n s s"],
    boxes: Float[Array, "n 4"],
    size: Size,
    whole_pixels: bool = True,
) -> Float[Array, "n {size[0]} {size[1]}"]:
    """The probabilities that ``paste`` returns, by matrix products of static shapes, to be jitted with ``size`` static.

    With ``whole_pixels`` a box whose edge falls on a whole pixel but for the last bit may be rounded to the other side.
    """
    grid = probabilities.shape[1]
    usable = large_enough(boxes, 0)[:, None, None]
    boxes = jax.lax.stop_gradient(jnp.where(usable[:, 0], boxes, jnp.array([0, 0, 1, 1], boxes.dtype)))
    wy = _paste_weights(boxes[:, 1], boxes[:, 3], np.arange(size[0]), grid, whole_pixels)
    wx = _paste_weights(boxes[:, 0], boxes[:, 2], np.arange(size[1]), grid, whole_pixels)
    padded = jnp.pad(probabilities, ((0, 0), (1, 1), (1, 1)))
    return jnp.where(usable, jnp.einsum("nyi,nij,nxj->nyx", wy, padded, wx, precision="highest"), 0)


def _shares(
    low: np.floating, high: np.floating, bins: int, pixels: Int[np.ndarray, "p"]
) -> Float[np.ndarray, "{bins} p"]:
    """Which share of each of the bins from ``low`` to ``high`` each pixel covers."""
    edges = np.linspace(low, high, bins + 1)[:, None]
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (np.maximum(overlap, 0) / (edges[1:] - edges[:-1])).astype(np.float32)


def _paste_weights(
    low: Float[AnyArray, "*batch"],
    high: Float[AnyArray, "*batch"],
    pixels: Int[np.ndarray, "p"],
    grid: int,
    whole_pixels: bool,
) -> Float[AnyArray, "*batch p grid_plus_2"]:
    """Bilinear weights of a padded mask's rows (or columns) in the image's, for boxes from ``low`` to ``high``."""
    xp = namespace(low, high)
    # The box of the padded mask; the order of the operations is torchvision's, for the rounding.
    half, centre = (high - low) * 0.5 * ((grid + 2) / grid), (high + low) * 0.5
    low, high = (centre - half)[..., None], (centre + half)[..., None]
    if whole_pixels:
        low, high = xp.trunc(low), xp.trunc(high) + 1
    middle = (pixels + 0.5).astype(low.dtype)
    position = (middle - low) * ((grid + 2) / (high - low)) - 0.5
    inside = (middle > low) & (middle < high)
    distance = xp.abs(xp.clip(position, 0, grid + 1)[..., None] - np.arange(grid + 2, dtype=low.dtype))
    return xp.maximum(1 - distance, 0) * inside[..., None]
