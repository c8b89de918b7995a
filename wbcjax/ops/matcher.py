"""Matching: which ground-truth box each anchor or proposal (a *candidate*) is to predict, if any."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from wbcjax.ops.boxes import Number

_NONE = -1.0
"""IoU of pairs that do not count: below every true IoU, so the thresholds sort them out."""


class Matches(NamedTuple):
    """Outcome for each candidate; one that is neither foreground nor background is ignored by the losses."""

    index: Int[Array, "n"]
    """Ground truth with the highest IoU, the first of equals; it means something for foreground only, and is always a
    legal index as long as there is a slot for ground truth."""
    iou: Float[Array, "n"]
    """That highest IoU; 0 if there is no valid ground truth."""
    foreground: Bool[Array, "n"]
    background: Bool[Array, "n"]


def match(
    iou: Float[Array, "m n"],
    valid: Bool[Array, "m"],
    *,
    high: Number,
    low: Number,
    low_quality: bool = False,
    candidate_valid: Bool[Array, "n"] | None = None,
) -> Matches:
    """Assign candidates to ground truth by IoU, as ``Matcher`` of torchvision and detectron2 does.

    A candidate is foreground from ``high`` on, background below ``low`` and ignored between. With ``low_quality`` each
    ground truth also makes the candidates foreground that it overlaps best, ties included, however little that is; such
    a candidate is assigned to its own best ground truth, which may be another one.

    In two points this is stricter than torchvision: ground truth that overlaps no candidate claims none (there it
    claims every candidate of IoU 0), and invalid ground truth and candidates take no part at all.

    Args:
      iou: of each ground truth (rows) with each candidate (columns), from ``boxes.pairwise_iou``.
      valid: which rows are real.
      high, low: thresholds, ``0 <= low <= high``; torchvision has 0.7 and 0.3 for the RPN, 0.5 twice for the box head.
      candidate_valid: which columns are real; None for all. Others are neither foreground nor background.

    Raises:
      ValueError: for thresholds in the wrong order.
    """
    if not 0 <= low <= high:
        raise ValueError(f"thresholds low = {low}, high = {high} are impossible: expected 0 <= low <= high")
    slots, n = iou.shape
    if slots == 0:  # argmax needs something to look at
        iou, valid = jnp.zeros((1, n), iou.dtype), jnp.zeros(1, bool)
    counts = valid[:, None] if candidate_valid is None else valid[:, None] & candidate_valid
    iou = jnp.where(counts, jax.lax.stop_gradient(iou), _NONE)
    best = iou.max(axis=0)
    foreground, background = best >= high, best < low
    if low_quality:
        best_of_truth = iou.max(axis=1, keepdims=True, initial=_NONE)
        claimed = ((iou == best_of_truth) & (iou > 0)).any(axis=0)
        foreground, background = foreground | claimed, background & ~claimed
    # With high = 0 a candidate would be foreground of nothing.
    foreground = foreground & (best > _NONE)
    if candidate_valid is not None:
        background = background & candidate_valid
    return Matches(iou.argmax(axis=0), jnp.maximum(best, 0), foreground, background)
