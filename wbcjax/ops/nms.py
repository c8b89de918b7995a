"""Non-maximum suppression: the exact greedy result, as a mask of fixed shape."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from wbcjax.ops.boxes import Number, pairwise_iou


def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, "n"],
    valid: Bool[Array, "n"],
    iou_threshold: Number,
    group: Int[Array, "n"] | None = None,
) -> Bool[Array, "n"]:
    """Which boxes are kept: each that no kept box of higher score overlaps with an IoU above the threshold.

    Exactly what going through the boxes by descending score gives (``torchvision.ops.nms``); of equal scores the lower
    index goes first. An empty box has IoU 0 with every other, so it neither suppresses nor is suppressed.

    The greedy loop is replaced by the iteration "keep j if no kept i < j overlaps it", until nothing changes. After t
    rounds the first t boxes are right whatever came before, so the fixed point is the greedy result; it is reached in
    as many rounds as the longest chain of boxes that suppress each other, which is short in practice. Memory is
    quadratic in ``n``: select the best few thousand first (``top_kept``).

    Args:
      valid: boxes that are not valid are not kept and suppress nothing.
      group: boxes of different groups (classes, pyramid levels) do not suppress each other; None for one group. With
        the classes on an axis of its own, as in a box head's output, see ``nms_by_class``.
    """
    boxes, scores = jax.lax.stop_gradient((boxes, scores))
    order = jnp.argsort(-jnp.where(valid, scores, -jnp.inf), stable=True)
    boxes, eligible = boxes[order], valid[order]
    suppresses = jnp.triu(pairwise_iou(boxes, boxes) > iou_threshold, k=1)  # [i, j]: i has the higher score
    if group is not None:
        suppresses &= group[order][:, None] == group[order]

    def improve(state):
        keep, _ = state
        better = eligible & ~(suppresses & keep[:, None]).any(axis=0)
        return better, (better != keep).any()

    keep, _ = jax.lax.while_loop(lambda state: state[1], improve, (eligible, jnp.array(True)))
    return jnp.zeros_like(keep).at[order].set(keep, unique_indices=True)


def nms_by_class(
    boxes: Float[Array, "n classes 4"],
    scores: Float[Array, "n classes"],
    valid: Bool[Array, "n classes"],
    iou_threshold: Number,
) -> Bool[Array, "n classes"]:
    """``nms`` of each class on its own; the classes are a batch axis, no coordinates are shifted."""
    return jax.vmap(nms, in_axes=(1, 1, 1, None), out_axes=1)(boxes, scores, valid, iou_threshold)


def top_kept(
    scores: Float[Array, "n"], keep: Bool[Array, "n"], k: int
) -> tuple[Int[Array, "k"], Bool[Array, "k"]]:
    """Indices of the ``k`` kept entries of highest score, best first, and which of these slots are filled.

    Of equal scores the lower index goes first. Unfilled slots have index 0.
    """
    missing = max(0, k - scores.shape[0])
    scores = jnp.where(keep, jax.lax.stop_gradient(scores), -jnp.inf)
    _, index = jax.lax.top_k(jnp.pad(scores, (0, missing), constant_values=-jnp.inf), k)
    valid = jnp.pad(keep, (0, missing))[index]
    return jnp.where(valid, index, 0), valid
