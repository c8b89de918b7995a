"""Mask R-CNN against torchvision's with the same random weights: each stage, the losses, and their gradients.

The golden file holds what torchvision made of one set of weights; where it is installed another set is compared live.
Tolerances are relative to the standard deviation of the reference.
"""

import json
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from make_detector_golden import (
    BOX,
    CANONICAL_SIZE,
    CANVAS,
    CLASS_NAMES,
    GOLDEN,
    GOLDEN_SEED,
    KEPT_OF_GRADIENT,
    LIVE_SEED,
    RPN,
    SIZES,
    TRUNKS,
    TRUTH_SIDE,
    Reference,
    images,
    thin,
    trunk_image,
    truth,
    weights,
)
from make_ops_golden import load_torchvision

from wbcjax.config import BoxHeadConfig, DetectorModelConfig, RPNConfig
from wbcjax.models.backbones import BACKBONES
from wbcjax.models.mask_rcnn import MaskRCNN
from wbcjax.ops.masks import crop_to_box
from wbcjax.pretrained.key_table import destination
from wbcjax.pretrained.torchvision import load_torchvision_backbone, load_torchvision_mask_rcnn, mask_rcnn_rules
from wbcjax.typing_detection import Instances

TOLERANCE = 1e-4
ANCHORS, SLOTS = 6000, RPN["post_nms"] + 3
"""More than there are: the losses are over all anchors and all proposals, nothing is drawn."""
CONFIG = DetectorModelConfig(
    backbone="resnet50", class_names=CLASS_NAMES, canvas=CANVAS, norm="frozen", preprocessing="imagenet",
    canonical_size=float(CANONICAL_SIZE),
    rpn=RPNConfig(**RPN, sample=ANCHORS, positive_fraction=1.0),
    box=BoxHeadConfig(**BOX, sample=SLOTS, positive_fraction=1.0),
)
STAGES = (
    "c2", "c3", "c4", "c5", "p2", "p3", "p4", "p5", "p6", "rpn_logits", "rpn_deltas", "proposals", "proposal_scores",
    "box_logits", "box_deltas", "boxes", "scores", "mask_logits", "masks",
)


@pytest.fixture(scope="module", autouse=True)
def _precise():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def torchvision():
    module = load_torchvision()
    if module is None or not module.extension._has_ops():
        pytest.skip("torch and torchvision with its C++ operators are not installed")
    return module


@nnx.jit
def run(model, images, sizes, truth):
    """Every stage by the reference's names, slots that are not filled hold zeros; and the losses."""
    maps, pyramid = model.backbone.features(model.prepare(images, sizes)), model.pyramid(images, sizes)
    logits, deltas = model.rpn(pyramid)
    proposals = model.propose(logits, deltas, pyramid, sizes)
    box_logits, box_deltas = model.box_logits(pyramid, proposals.boxes)
    found = model.detect(box_logits, box_deltas, proposals, sizes)
    there = proposals.valid[..., None]
    stages = {
        **maps,
        **{f"p{level}": x for level, x in zip(CONFIG.levels, pyramid, strict=True)},
        "rpn_logits": jnp.concatenate(logits, axis=1),
        "rpn_deltas": jnp.concatenate(deltas, axis=1),
        "proposals": proposals.boxes,
        "proposal_scores": proposals.scores,
        "box_logits": jnp.where(there, box_logits, 0),
        "box_deltas": jnp.where(there[..., None], box_deltas, 0),
        "boxes": found.boxes,
        "scores": found.scores,
        "labels": jnp.where(found.valid, found.labels + 1, 0),
        "mask_logits": jnp.where(found.valid[..., None, None, None], model.mask_logits(pyramid, found.boxes), 0),
        "masks": model.masks(pyramid, found),
    }
    return stages, model.losses(images, sizes, truth, jax.random.key(0))


@nnx.jit
def differentiate(model, images, sizes, truth):
    """Gradients of the sum of the losses."""
    return nnx.grad(lambda model: sum(model.losses(images, sizes, truth, jax.random.key(0)).values()))(model)


def padded_truth():
    """The true objects as Instances."""
    m = max(len(labels) for _, labels, _ in truth())
    fields = [], [], [], []
    for boxes, labels, masks in truth():
        crops = crop_to_box(masks, boxes, TRUTH_SIDE)
        for field, values in zip(fields, (boxes, labels, np.ones(len(labels), bool), crops), strict=True):
            field.append(np.pad(values, [(0, m - len(values)), *[(0, 0)] * (values.ndim - 1)]))
    return Instances(*(jnp.asarray(np.stack(field)) for field in fields))


class Case(NamedTuple):
    """One set of weights, and what torchvision makes of it; large arrays thinned."""

    inputs: tuple
    """The filled model, images, sizes and true objects."""
    shapes: dict
    stages: dict
    losses: dict
    gradients: dict


@pytest.fixture(scope="module", params=["golden", "live"])
def case(request, golden):
    shapes = json.loads(str(golden["shapes"]))["detector"]
    if request.param == "golden":
        seed = GOLDEN_SEED
        parts = [{name.removeprefix(prefix): golden[name] for name in golden if name.startswith(prefix)}
                 for prefix in ("stage_", "loss_", "gradient_")]
    else:
        seed = LIVE_SEED
        reference = Reference(request.getfixturevalue("torchvision"), seed)
        assert {name: list(shape) for name, shape in reference.shapes.items()} == shapes
        stages, (losses, gradients) = reference.stages(), reference.training()
        parts = [{name: thin(values) for name, values in stages.items()}, losses,
                 {name: thin(values, KEPT_OF_GRADIENT) for name, values in gradients.items()}]
    # Its shapes alone: every array comes from torchvision's names.
    model = nnx.eval_shape(lambda: MaskRCNN(CONFIG, rngs=nnx.Rngs(0)))
    load_torchvision_mask_rcnn(model, weights(shapes, seed), epsilon=1e-5)
    return Case((model, jnp.asarray(images(seed)), jnp.asarray(SIZES), padded_truth()), shapes, *parts)


@pytest.fixture(scope="module")
def ours(case):
    """(our stages, our losses), the former thinned."""
    stages, losses = run(*case.inputs)
    return {name: thin(values) for name, values in stages.items()}, losses


def assert_close(ours, expected):
    deviation = expected.std()
    assert ours.shape == expected.shape and deviation > 1e-3
    np.testing.assert_allclose(ours, expected, rtol=0, atol=TOLERANCE * deviation)


@pytest.mark.parametrize("name", STAGES)
def test_stage(case, ours, name):
    assert_close(ours[0][name], case.stages[name])


def test_labels(case, ours):
    np.testing.assert_array_equal(ours[0]["labels"], case.stages["labels"])
    assert len(set(case.stages["labels"]) - {0}) >= 2


def test_losses(case, ours):
    assert set(ours[1]) == set(case.losses)
    for name, value in case.losses.items():
        assert value > 1e-3
        np.testing.assert_allclose(ours[1][name], value, rtol=TOLERANCE, err_msg=name)


@pytest.mark.slow
def test_gradients(case):
    """Of every weight; below a ReLU whose input is 0 but for rounding a gradient is another one, a little."""
    # Our batch norms are fixed.
    expected = {name: values for name, values in case.gradients.items() if not re.search(r"\.bn|downsample\.1", name)}
    ours = to_torchvision(differentiate(*case.inputs), case.shapes, expected)
    errors = {name: np.linalg.norm(ours[name] - values) / np.linalg.norm(values) for name, values in expected.items()}
    assert max(errors.values()) < 1e-2, sorted(errors.items(), key=lambda item: -item[1])[:5]
    last = [name for name in errors if re.search("rpn.head.(cls|bbox)|box_predictor|mask_fcn_logits", name)]
    assert len(last) == 10 and max(errors[name] for name in last) < 1e-4


def to_torchvision(gradients, shapes, names):
    """Our gradients by torchvision's names, thinned: the key table moves places as it moves weights."""
    ours = {"/".join(map(str, path)): np.asarray(x[...]) for path, x in nnx.to_flat_state(gradients)}
    result = {}
    for name in names:
        path, transform = destination(name, mask_rcnn_rules(CONFIG))
        places = transform(np.arange(np.prod(shapes[name])).reshape(shapes[name]))
        result[name] = np.empty(places.size, np.float32)
        result[name][places.ravel()] = ours[path].ravel()
    return {name: thin(values, KEPT_OF_GRADIENT) for name, values in result.items()}


def test_defaults(torchvision):
    """The defaults of the two stages are torchvision's, where the configuration does not say otherwise."""
    theirs = torchvision.models.detection.maskrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    ours, first, second = DetectorModelConfig(), theirs.rpn, theirs.roi_heads
    assert first.anchor_generator.sizes == tuple((2**level * ours.rpn.anchor_scales[0],) for level in ours.levels)
    assert set(first.anchor_generator.aspect_ratios) == {ours.rpn.aspect_ratios}
    matcher, sampler = first.proposal_matcher, first.fg_bg_sampler
    assert (first._pre_nms_top_n["testing"], first._post_nms_top_n["testing"], first.nms_thresh, first.min_size,
            matcher.high_threshold, matcher.low_threshold, sampler.batch_size_per_image, sampler.positive_fraction) == (
        ours.rpn.pre_nms, ours.rpn.post_nms, ours.rpn.nms_iou, ours.rpn.min_size,
        ours.rpn.foreground_iou, ours.rpn.background_iou, ours.rpn.sample, ours.rpn.positive_fraction)
    matcher, sampler = second.proposal_matcher, second.fg_bg_sampler
    assert (second.score_thresh, second.nms_thresh, second.detections_per_img, second.box_coder.weights,
            matcher.high_threshold, matcher.low_threshold, sampler.positive_fraction) == (
        ours.box.score_threshold, ours.box.nms_iou, ours.box.max_detections, ours.box.delta_weights,
        ours.box.foreground_iou, ours.box.foreground_iou, ours.box.positive_fraction)
    for pool, side in ((second.box_roi_pool, ours.box.pool), (second.mask_roi_pool, ours.mask.pool)):
        assert (pool.output_size, pool.canonical_scale, pool.sampling_ratio) == ((side, side), ours.canonical_size, 2)
    assert (second.box_head.fc6.out_features, len(second.mask_head), theirs.backbone.out_channels) == (
        ours.box.hidden, ours.mask.convs, ours.channels)


@pytest.mark.parametrize("name", TRUNKS)
def test_trunk(golden, name):
    """Maps of a classifier's trunk whose weights are loaded as those of a backbone."""
    shapes = json.loads(str(golden["shapes"]))[name]
    config = DetectorModelConfig(backbone=name, norm="frozen")
    backbone = nnx.eval_shape(lambda: BACKBONES[name](config, rngs=nnx.Rngs(0)))
    classifier = {key: np.zeros(1) for key in shapes if key.startswith(("fc.", "classifier."))}
    trunk = {key: shape for key, shape in shapes.items() if key not in classifier}
    load_torchvision_backbone(backbone, weights(trunk, GOLDEN_SEED) | classifier)
    maps = nnx.jit(lambda backbone, x: backbone.features(x))(backbone, trunk_image(GOLDEN_SEED))
    names = sorted(maps)
    for i, map_name in enumerate(names):
        assert_close(thin(maps[map_name]), golden[f"trunk_{name}_{i}"])
    assert f"trunk_{name}_{len(names)}" not in golden
