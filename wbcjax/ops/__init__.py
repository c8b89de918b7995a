"""The operations of a two-stage detector as pure functions of arrays with static shapes.

None knows a batch, but for ``shares``: apply ``jax.vmap`` where they are used. Slots that hold nothing are marked by
boolean ``valid`` masks, never by special values, and change nothing, in the result or in a gradient.
"""

from wbcjax.ops import anchors, boxes, masks, matcher, nms, roi_align, sampling, shares

__all__ = ["anchors", "boxes", "masks", "matcher", "nms", "roi_align", "sampling", "shares"]
