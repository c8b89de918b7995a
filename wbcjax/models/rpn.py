"""First stage (Ren et al. 2015, section 3): which boxes of an image are worth a second look, of whatever class.

Every location of every pyramid level has a few anchors (``ops.anchors``); the head gives each a score and a box
relative to it. Everything here follows torchvision's ``RegionProposalNetwork``.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from wbcjax.config import RPNConfig
from wbcjax.models.layers import Conv
from wbcjax.ops import boxes as box_ops
from wbcjax.ops.anchors import pyramid_anchors, strides_of
from wbcjax.ops.matcher import match
from wbcjax.ops.nms import nms, top_kept
from wbcjax.ops.sampling import balanced_sample
from wbcjax.ops.shares import per_image
from wbcjax.typing import Size

SMOOTH_L1_BETA = 1 / 9
"""Errors of box deltas below this count squared, larger ones linearly, in both stages."""


class Proposals(NamedTuple):
    """Boxes that may hold an object, by falling score; leading batch axes as given."""

    boxes: Float[Array, "*b n 4"]
    scores: Float[Array, "*b n"]
    """Probability of an object."""
    valid: Bool[Array, "*b n"]


class RPNHead(nnx.Module):
    """A 3×3 convolution, and for each anchor a logit and four deltas; the same weights on every level."""

    def __init__(self, channels: int, anchors: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        small = nnx.initializers.normal(0.01)
        self.conv = Conv(channels, channels, kernel_init=small, dtype=dtype, rngs=rngs)
        self.logits = Conv(channels, anchors, 1, kernel_init=small, dtype=dtype, rngs=rngs)
        self.deltas = Conv(channels, 4 * anchors, 1, kernel_init=small, dtype=dtype, rngs=rngs)

    def __call__(
        self, pyramid: Sequence[Float[Array, "b _ _ c"]]
    ) -> tuple[list[Float[Array, "b _"]], list[Float[Array, "b _ 4"]]]:
        """Logits and deltas of every anchor of each level, float32, in the order of ``ops.anchors``."""
        logits, deltas = [], []
        for features in pyramid:
            hidden = nnx.relu(self.conv(features))
            batch = len(features)
            logits.append(self.logits(hidden).reshape(batch, -1).astype(jnp.float32))
            deltas.append(self.deltas(hidden).reshape(batch, -1, 4).astype(jnp.float32))
        return logits, deltas


def level_anchors(
    config: RPNConfig, levels: Sequence[int], canvas: Size, feature_shapes: Sequence[Size]
) -> tuple[Float[np.ndarray, "_ 4"], ...]:
    """Anchors of each level of a pyramid on a canvas: constants of the traced function."""
    sizes = [[scale * 2**level for scale in config.anchor_scales] for level in levels]
    ratios = [config.aspect_ratios] * len(levels)
    return pyramid_anchors(feature_shapes, strides_of(canvas, feature_shapes), sizes, ratios)


def propose(
    logits: Sequence[Float[Array, "_"]],
    deltas: Sequence[Float[Array, "_ 4"]],
    anchors: Sequence[Float[np.ndarray, "_ 4"]],
    size: Int[Array, "2"],
    config: RPNConfig,
) -> Proposals:
    """The best boxes of an image, without a gradient.

    Of each level the ``pre_nms`` anchors of highest score are decoded and cut to the image; small ones and those that
    overlap a better one of their level are dropped. The best ``post_nms`` of all levels remain.

    Args:
      logits, deltas, anchors: of each level.
      size: true (height, width) of the image on its canvas.
    """
    logits, deltas = jax.lax.stop_gradient((list(logits), list(deltas)))
    boxes, scores, keep = [], [], []
    for level_logits, level_deltas, level_anchors in zip(logits, deltas, anchors, strict=True):
        best, index = jax.lax.top_k(level_logits, min(config.pre_nms, len(level_logits)))
        level_boxes = box_ops.decode(level_deltas[index], jnp.asarray(level_anchors, jnp.float32)[index])
        level_boxes = box_ops.clip(level_boxes, size)
        level_scores = jax.nn.sigmoid(best)
        large = box_ops.large_enough(level_boxes, config.min_size)
        boxes.append(level_boxes)
        scores.append(level_scores)
        keep.append(nms(level_boxes, level_scores, large, config.nms_iou))
    boxes, scores, keep = jnp.concatenate(boxes), jnp.concatenate(scores), jnp.concatenate(keep)
    index, valid = top_kept(scores, keep, config.post_nms)
    return Proposals(jnp.where(valid[:, None], boxes[index], 0), jnp.where(valid, scores[index], 0), valid)


def rpn_losses(
    key: PRNGKeyArray,
    logits: Float[Array, "b n"],
    deltas: Float[Array, "b n 4"],
    anchors: Float[np.ndarray, "n 4"],
    boxes: Float[Array, "b m 4"],
    valid: Bool[Array, "b m"],
    config: RPNConfig,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Losses of the scores and of the boxes of a batch, over a sample of anchors of each image.

    An anchor is to be an object where its IoU with a true box is at least ``foreground_iou`` or the highest of all
    anchors with that box, and background where all its IoU are below ``background_iou``.

    Args:
      logits, deltas, anchors: of all levels together.
      boxes, valid: the true ones, cut to their image.
    """
    anchors = jnp.asarray(anchors, jnp.float32)

    def sums(key, logits, deltas, boxes, valid):
        matches = match(box_ops.pairwise_iou(boxes, anchors), valid, high=config.foreground_iou,
                        low=config.background_iou, low_quality=True)
        sample = balanced_sample(key, matches.foreground, matches.background, config.sample, config.positive_fraction)
        objectness = optax.sigmoid_binary_cross_entropy(logits[sample.index], sample.positive)
        targets = box_ops.encode(boxes[matches.index[sample.index]], anchors[sample.index])
        box = smooth_l1(deltas[sample.index], targets)
        return (jnp.where(sample.valid, objectness, 0).sum(), jnp.where(sample.positive, box, 0).sum(),
                sample.valid.sum())

    objectness, box, count = per_image(sums)(jax.random.split(key, len(logits)), logits, deltas, boxes, valid)
    count = jnp.maximum(count.sum(), 1)
    return objectness.sum() / count, box.sum() / count


def smooth_l1(deltas: Float[Array, "*b 4"], targets: Float[Array, "*b 4"]) -> Float[Array, "*b"]:
    """Smooth L1 loss of each set of deltas (Girshick 2015, equation 3, with a narrower squared part)."""
    return optax.huber_loss(deltas, targets, delta=SMOOTH_L1_BETA).sum(axis=-1) / SMOOTH_L1_BETA
