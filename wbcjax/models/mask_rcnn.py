"""Mask R-CNN (He et al. 2017) over a feature pyramid: both stages, told in order.

Stage by stage it is torchvision's ``maskrcnn_resnet50_fpn``, with static shapes: images lie on a canvas of fixed size,
boxes fill a fixed number of slots with a boolean ``valid`` beside them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from wbcjax.config import DetectorModelConfig
from wbcjax.errors import ConfigError
from wbcjax.models import box_head, mask_head, rpn
from wbcjax.models.backbones import BACKBONES
from wbcjax.models.fpn import FPN
from wbcjax.models.preprocessing import preprocess
from wbcjax.ops import boxes as box_ops
from wbcjax.ops.masks import mask_targets
from wbcjax.ops.roi_align import multilevel_roi_align
from wbcjax.ops.shares import per_image
from wbcjax.typing_detection import Detections, Instances

SLOTS_AT_ONCE = 4
"""Most images hold one or two white cells, so most of the slots for detections are empty."""

Pyramid = list[Float[Array, "b _ _ c"]]


class MaskRCNN(nnx.Module):
    """Finds the objects of an image: class, score, box and mask of each.

    Attributes:
      frozen_paths: where the paths of parameters start that training leaves as they are.
    """

    def __init__(self, config: DetectorModelConfig, *, rngs: nnx.Rngs):
        """Build the model.

        Raises:
          ConfigError: if there is no backbone of that name, or it lacks the finest level.
        """
        if config.backbone not in BACKBONES:
            raise ConfigError(f"model.backbone = {config.backbone!r} is unknown; the backbones are: "
                              f"{', '.join(sorted(BACKBONES))}")
        self.config = config
        classes, channels = len(config.class_names), config.channels
        shared = {"dtype": jnp.dtype(config.dtype), "rngs": rngs}
        self.backbone = BACKBONES[config.backbone](config, rngs=rngs)
        self.fpn = FPN(self.backbone.channels, config.levels, channels, **shared)
        anchors = len(config.rpn.anchor_scales) * len(config.rpn.aspect_ratios)
        self.rpn = rpn.RPNHead(channels, anchors, **shared)
        self.box = box_head.BoxHead(config.box, channels, classes, **shared)
        self.mask = mask_head.MaskHead(config.mask, channels, classes, **shared)
        self.frozen_paths = tuple(f"backbone/{name}" for name in self.backbone.stage_names[: config.frozen_stages])

    def pyramid(self, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"]) -> Pyramid:
        """Feature maps of images in [0, 1] on the canvas, finest level first."""
        return self.fpn(self.backbone.features(self.prepare(images, sizes)))

    def frozen_features(self, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"]) -> Float[Array, "b _ _ _"]:
        """What the backbone's frozen stages make of images; training changes nothing about it."""
        return self.backbone.frozen_features(self.prepare(images, sizes))

    def pyramid_of_frozen(self, features: Float[Array, "b _ _ _"]) -> Pyramid:
        """``pyramid`` of the images whose ``frozen_features`` are given."""
        return self.fpn(self.backbone.features(features, done=self.config.frozen_stages))

    def prepare(self, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"]) -> Float[Array, "b h w 3"]:
        """What the backbone sees: images preprocessed, and zeros, a medium colour then, beyond each one's size."""
        if images.shape[1:3] != self.config.canvas:
            raise ValueError(f"images of {images.shape[1:3]} pixels do not fit the model's canvas "
                             f"{self.config.canvas}: bring them there with data.canvas.to_canvas")
        rows, columns = (jnp.arange(side) < sizes[:, i, None] for i, side in enumerate(self.config.canvas))
        inside = rows[:, :, None, None] & columns[:, None, :, None]
        return jnp.where(inside, preprocess(images, self.config.preprocessing), 0)

    def anchors(self, pyramid: Pyramid) -> tuple[Float[np.ndarray, "_ 4"], ...]:
        """Anchors of each level, as constants."""
        shapes = [features.shape[1:3] for features in pyramid]
        return rpn.level_anchors(self.config.rpn, self.config.levels, self.config.canvas, shapes)

    def propose(
        self, logits: list[Float[Array, "b _"]], deltas: list[Float[Array, "b _ 4"]], pyramid: Pyramid,
        sizes: Int[Array, "b 2"],
    ) -> rpn.Proposals:
        """First stage: the boxes worth a second look, from what ``self.rpn`` says of the pyramid's anchors."""
        anchors = self.anchors(pyramid)
        one = lambda logits, deltas, size: rpn.propose(logits, deltas, anchors, size, self.config.rpn)  # noqa: E731
        return per_image(one)(logits, deltas, sizes)

    def pool(self, pyramid: Pyramid, boxes: Float[Array, "b n 4"], size: int) -> Float[Array, "b n p p c"]:
        """Features of each box on a grid of ``size``, from the level that suits it (pooled levels serve none)."""
        levels = range(len(self.fpn.names))
        strides = [2 ** self.config.levels[i] for i in levels]
        one = lambda maps, boxes: multilevel_roi_align(  # noqa: E731
            maps, boxes, size, strides=strides, canonical_size=self.config.canonical_size)
        return jax.vmap(one)([pyramid[i] for i in levels], boxes)

    def box_logits(
        self, pyramid: Pyramid, boxes: Float[Array, "b n 4"]
    ) -> tuple[Float[Array, "b n classes"], Float[Array, "b n classes 4"]]:
        """Second stage: logits and deltas of each box for each class, the background first."""
        return self.box(self.pool(pyramid, boxes, self.config.box.pool))

    def detect(
        self, logits: Float[Array, "b n classes"], deltas: Float[Array, "b n classes 4"], proposals: rpn.Proposals,
        sizes: Int[Array, "b 2"],
    ) -> box_head.ScoredBoxes:
        """Second stage: the detections, by falling score, without their masks."""
        one = lambda *args: box_head.select_boxes(*args, self.config.box)  # noqa: E731
        return per_image(one)(logits, deltas, proposals, sizes)

    def mask_logits(self, pyramid: Pyramid, boxes: Float[Array, "b n 4"]) -> Float[Array, "b n p p classes"]:
        """Second stage: the mask inside each box for each class, the background first."""
        features = self.pool(pyramid, boxes, self.config.mask.pool)
        logits = self.mask(features.reshape(-1, *features.shape[2:]))
        return logits.reshape(*boxes.shape[:2], *logits.shape[1:])

    def __call__(self, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"]) -> Detections:
        """Detections in images in [0, 1] on the canvas, whose true (height, width) are ``sizes``."""
        pyramid = self.pyramid(images, sizes)
        proposals = self.propose(*self.rpn(pyramid), pyramid, sizes)
        found = self.detect(*self.box_logits(pyramid, proposals.boxes), proposals, sizes)
        return Detections(*found, masks=self.masks(pyramid, found))

    def masks(self, pyramid: Pyramid, found: box_head.ScoredBoxes) -> Float[Array, "b d p p"]:
        """Second stage: the probabilities inside each detection; a few slots at a time, until the rest is empty."""
        batch, slots = found.valid.shape
        count = found.valid.sum(axis=1).max()  # the filled slots come first
        step = min(SLOTS_AT_ONCE, slots)

        def add(i, masks):
            part = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * step, step, axis=1), found)
            logits = mask_head.mask_of_class(self.mask_logits(pyramid, part.boxes), part.labels + 1)
            probabilities = jnp.where(part.valid[..., None, None], jax.nn.sigmoid(logits), 0)
            return jax.lax.dynamic_update_slice_in_dim(masks, probabilities, i * step, axis=1)

        side = 2 * self.config.mask.pool
        return jax.lax.fori_loop(0, -(-count // step), add, jnp.zeros((batch, slots, side, side)))

    def losses(
        self, images: Float[Array, "b h w 3"], sizes: Int[Array, "b 2"], truth: Instances, key: PRNGKeyArray
    ) -> dict[str, Float[Array, ""]]:
        """The five losses of a batch, whose sum is to fall; the sampling of anchors and proposals follows ``key``."""
        return self.losses_of(self.pyramid(images, sizes), sizes, truth, key)

    def losses_of(
        self, pyramid: Pyramid, sizes: Int[Array, "b 2"], truth: Instances, key: PRNGKeyArray
    ) -> dict[str, Float[Array, ""]]:
        """``losses`` of the images whose pyramid is given."""
        config = self.config
        rpn_key, box_key = jax.random.split(key)
        target = cut_to_image(truth, sizes)
        logits, deltas = self.rpn(pyramid)
        objectness, rpn_box = rpn.rpn_losses(
            rpn_key, jnp.concatenate(logits, axis=1), jnp.concatenate(deltas, axis=1),
            np.concatenate(self.anchors(pyramid)), target.boxes, target.valid, config.rpn)

        proposals = self.propose(logits, deltas, pyramid, sizes)
        draw = lambda *args: box_head.sample_proposals(*args, config.box)  # noqa: E731
        sample = per_image(draw)(jax.random.split(box_key, len(sizes)), proposals, target)
        classes, box = box_head.box_losses(*self.box_logits(pyramid, sample.boxes), sample)

        chosen = box_head.positives(sample, config.box)
        masks = mask_head.mask_of_class(self.mask_logits(pyramid, chosen.boxes), chosen.labels)
        # The masks fill the whole boxes, not the part of them that lies in the image.
        targets = jax.vmap(lambda crops, boxes, index, proposals: mask_targets(
            crops[index], boxes[index], proposals, 2 * config.mask.pool))(
            truth.masks, truth.boxes, chosen.truth, chosen.boxes)
        mask = mask_head.mask_loss(masks, targets, chosen.positive)
        return {"objectness": objectness, "rpn_box": rpn_box, "class": classes, "box": box, "mask": mask}


def cut_to_image(truth: Instances, sizes: Int[Array, "b 2"]) -> Instances:
    """True objects with their boxes cut to the image; slots that are not valid, or outside, hold zeros."""
    boxes = jax.vmap(box_ops.clip)(truth.boxes.astype(jnp.float32), sizes)
    valid = truth.valid & box_ops.large_enough(boxes, 0)
    return truth._replace(
        boxes=jnp.where(valid[..., None], boxes, 0), labels=jnp.where(valid, truth.labels, 0), valid=valid)


def build_detector(config: DetectorModelConfig, seed: int = 0) -> MaskRCNN:
    """The model of ``config`` with parameters drawn from ``seed``, built under jit (eager building is slow).

    Raises:
      ConfigError: if there is no backbone of that name, or it lacks the finest level.
    """
    graphdefs = []

    def arrays(key):
        graphdef, state = nnx.split(MaskRCNN(config, rngs=nnx.Rngs(key)))
        graphdefs.append(graphdef)
        return state

    # It runs once: code that is compiled in a fifth of the time, and slow, will do.
    build = jax.jit(arrays, compiler_options={"xla_backend_optimization_level": 0})
    state = build(jax.random.key(seed))
    return nnx.merge(graphdefs[0], state)
