"""Second stage, boxes (Girshick 2015): the class of each proposal, and its exact box for each class.

Everything here follows torchvision's ``RoIHeads``. Logit 0 is the background, logit k + 1 is class k.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from wbcjax.config import BoxHeadConfig
from wbcjax.models.rpn import Proposals, smooth_l1
from wbcjax.ops import boxes as box_ops
from wbcjax.ops.matcher import match
from wbcjax.ops.nms import nms_by_class, top_kept
from wbcjax.ops.sampling import balanced_sample, max_positives
from wbcjax.typing_detection import Instances

MIN_SIZE = 1e-2
"""Detections with a side shorter than this, in pixels, are dropped."""


class BoxHead(nnx.Module):
    """Two dense layers on the pooled features of a box; float32 logits and deltas."""

    def __init__(self, config: BoxHeadConfig, channels: int, classes: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        he = nnx.initializers.he_normal()
        self.fc6 = nnx.Linear(config.pool**2 * channels, config.hidden, kernel_init=he, dtype=dtype, rngs=rngs)
        self.fc7 = nnx.Linear(config.hidden, config.hidden, kernel_init=he, dtype=dtype, rngs=rngs)
        self.logits = nnx.Linear(config.hidden, classes + 1, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)
        self.deltas = nnx.Linear(
            config.hidden, 4 * (classes + 1), kernel_init=nnx.initializers.normal(0.001), rngs=rngs
        )

    def __call__(
        self, features: Float[Array, "*b p p c"]
    ) -> tuple[Float[Array, "*b classes"], Float[Array, "*b classes 4"]]:
        """Logits and deltas of each box, from its features flattened in the order (row, column, channel)."""
        hidden = features.reshape(*features.shape[:-3], -1)
        hidden = nnx.relu(self.fc7(nnx.relu(self.fc6(hidden)))).astype(jnp.float32)
        logits, deltas = self.logits(hidden), self.deltas(hidden)
        return logits, deltas.reshape(*logits.shape, 4)


class BoxSample(NamedTuple):
    """Proposals of the loss and what they are to become; positives fill the first slots."""

    boxes: Float[Array, "*b s 4"]
    valid: Bool[Array, "*b s"]
    positive: Bool[Array, "*b s"]
    truth: Int[Array, "*b s"]
    """Slot of the true object of a positive one."""
    labels: Int[Array, "*b s"]
    """0 for the background, k + 1 for class k."""
    deltas: Float[Array, "*b s 4"]


def sample_proposals(
    key: PRNGKeyArray, proposals: Proposals, truth: Instances, config: BoxHeadConfig
) -> BoxSample:
    """Draw the proposals of one image for the loss, at most a given share of them positive.

    The true boxes, cut to the image, are proposals too, so that there are positives from the first step on.
    """
    boxes = jnp.concatenate([proposals.boxes, truth.boxes])
    usable = jnp.concatenate([proposals.valid, truth.valid])
    matches = match(box_ops.pairwise_iou(truth.boxes, boxes), truth.valid, high=config.foreground_iou,
                    low=config.foreground_iou, candidate_valid=usable)
    sample = balanced_sample(key, matches.foreground, matches.background, config.sample, config.positive_fraction)
    boxes = jnp.where(sample.valid[:, None], boxes[sample.index], 0)
    matched = jnp.where(sample.positive, matches.index[sample.index], 0)
    return BoxSample(
        boxes=boxes,
        valid=sample.valid,
        positive=sample.positive,
        truth=matched,
        labels=jnp.where(sample.positive, truth.labels[matched] + 1, 0),
        deltas=box_ops.encode(truth.boxes[matched], boxes, config.delta_weights),
    )


def positives(sample: BoxSample, config: BoxHeadConfig) -> BoxSample:
    """The leading slots of a batch of samples, which hold every positive one."""
    k = max_positives(config.sample, config.positive_fraction)
    return BoxSample(*(field[:, :k] for field in sample))


def box_losses(
    logits: Float[Array, "b s classes"], deltas: Float[Array, "b s classes 4"], sample: BoxSample
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Losses of the classes and of the boxes of a batch; the boxes of the true class alone count."""
    count = jnp.maximum(sample.valid.sum(), 1)
    classes = optax.softmax_cross_entropy_with_integer_labels(logits, sample.labels)
    own = jnp.take_along_axis(deltas, sample.labels[..., None, None], axis=2)[:, :, 0]
    boxes = smooth_l1(own, sample.deltas)
    return (jnp.where(sample.valid, classes, 0).sum() / count, jnp.where(sample.positive, boxes, 0).sum() / count)


class ScoredBoxes(NamedTuple):
    """Detections before their masks, by falling score; slots that are not valid hold zeros."""

    boxes: Float[Array, "*b d 4"]
    scores: Float[Array, "*b d"]
    labels: Int[Array, "*b d"]
    """Class, without the background."""
    valid: Bool[Array, "*b d"]


def select_boxes(
    logits: Float[Array, "n classes"],
    deltas: Float[Array, "n classes 4"],
    proposals: Proposals,
    size: Int[Array, "2"],
    config: BoxHeadConfig,
) -> ScoredBoxes:
    """Detections of one image: decoded, cut to it, above the threshold, the best of those that overlap in a class."""
    scores = jax.nn.softmax(logits)[:, 1:]
    boxes = box_ops.decode(deltas[:, 1:], proposals.boxes[:, None], config.delta_weights)
    boxes = box_ops.clip(boxes, size)  # (n, classes - 1, 4)
    good = (scores > config.score_threshold) & box_ops.large_enough(boxes, MIN_SIZE) & proposals.valid[:, None]
    keep = nms_by_class(boxes, scores, good, config.nms_iou)
    index, valid = top_kept(scores.ravel(), keep.ravel(), config.max_detections)
    return ScoredBoxes(
        boxes=jnp.where(valid[:, None], boxes.reshape(-1, 4)[index], 0),
        scores=jnp.where(valid, scores.ravel()[index], 0),
        labels=jnp.where(valid, index % scores.shape[1], 0),
        valid=valid,
    )
