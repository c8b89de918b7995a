"""The whole detector: gradients, padding, order, degenerate truth, both stages in evaluation, types, errors."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import BoxHeadConfig, DetectorModelConfig, MaskHeadConfig, RPNConfig
from wbcjax.errors import ConfigError
from wbcjax.models import MaskRCNN, build_detector
from wbcjax.models.backbones import BACKBONES
from wbcjax.models.mask_rcnn import SLOTS_AT_ONCE, cut_to_image
from wbcjax.training import merge, split
from wbcjax.typing_detection import Instances

CANVAS = (64, 96)
CONFIG = DetectorModelConfig(
    backbone="compact", class_names=("wbc", "rbc"), canvas=CANVAS, levels=(3, 4, 5, 6), channels=8, canonical_size=32.0,
    # Samples so large that none is cut: then nothing is left to chance.
    rpn=RPNConfig(anchor_scales=(3.0,), sample=2000, positive_fraction=1.0, pre_nms=30, post_nms=20),
    box=BoxHeadConfig(pool=3, hidden=16, sample=64, positive_fraction=0.5, max_detections=6, score_threshold=0.01),
    mask=MaskHeadConfig(pool=4, channels=8, convs=1),
)
SIZES = np.array([[64, 96], [50, 80]], np.int32)
BOXES = np.array([[[10, 10, 40, 50], [60, 5, 90, 30], [20, 30, 70, 60]], [[2, 3, 50, 45], [55, 8, 78, 40], [0] * 4]],
                 np.float32)
LABELS = np.array([[0, 1, 1], [1, 0, 0]], np.int32)
VALID = np.array([[1, 1, 1], [1, 1, 0]], bool)
IMAGES = np.random.default_rng(0).random((2, *CANVAS, 3)).astype(np.float32)
MASKS = np.random.default_rng(1).random((2, 3, 16, 16)) < 0.7
QUICK = {"xla_backend_optimization_level": 0}
"""Compilation takes longer than everything computed here."""
TRUTH = Instances(BOXES, LABELS, VALID, MASKS)


def compiled(model):
    """(params, truth, sizes) -> (losses, gradients of their sum), of IMAGES."""
    graphdef, _, stats = split(model)

    def call(params, truth, sizes):
        def total(params):
            model = merge(graphdef, params, stats, training=True)
            losses = model.losses(jnp.asarray(IMAGES), sizes, truth, jax.random.key(0))
            return sum(losses.values()), losses

        return jax.grad(total, has_aux=True)(params)[::-1]

    return jax.jit(call, compiler_options=QUICK)


@pytest.fixture(scope="module")
def model():
    model = build_detector(CONFIG, seed=1)
    # Untrained masks would be 0.5 everywhere, whatever is to be learnt.
    model.mask.logits.bias[...] = jnp.array([0.0, 2.0, -1.0])
    return model


@pytest.fixture(scope="module")
def losses_of(model):
    return compiled(model)


@pytest.fixture(scope="module")
def params(model):
    return split(model)[1]


@pytest.fixture(scope="module")
def plain(losses_of, params):
    return losses_of(params, TRUTH, SIZES)


@pytest.fixture(scope="module")
def crowd():
    """300 objects an image, on a grid."""
    y, x = (g.ravel() for g in np.meshgrid(np.arange(12) * 5, np.arange(25) * 3, indexing="ij"))
    boxes = np.stack([x, y, x + 9, y + 9], axis=1).astype(np.float32)
    boxes = np.broadcast_to(boxes, (2, 300, 4))
    return Instances(boxes, np.zeros((2, 300), np.int32), np.ones((2, 300), bool), np.ones((2, 300, 16, 16), bool))


def assert_alike(found, expected):
    for name in expected[0]:
        np.testing.assert_allclose(found[0][name], expected[0][name], rtol=1e-5, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6 + 1e-5 * np.abs(b).max()),
                 found[1], expected[1])


def test_five_losses(plain):
    losses, _ = plain
    assert set(losses) == {"objectness", "rpn_box", "class", "box", "mask"}
    assert all(np.isfinite(x) and x > 0 for x in losses.values())
    assert float(losses["objectness"]) == pytest.approx(np.log(2), rel=0.1)  # an untrained network does not know


@pytest.mark.parametrize("backbone", ["compact", *(pytest.param(n, marks=pytest.mark.slow)
                                                   for n in ("vgg16", "resnet50"))])
def test_every_gradient_is_finite_and_present(backbone):
    model = build_detector(replace(CONFIG, backbone=backbone), seed=1)
    losses, gradients = compiled(model)(split(model)[1], TRUTH, SIZES)
    assert all(np.isfinite(x) and x > 0 for x in losses.values())
    for path, leaf in jax.tree_util.tree_flatten_with_path(gradients)[0]:
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
        assert np.abs(leaf).max() > 1e-9, jax.tree_util.keystr(path)


def test_empty_slots_change_nothing(losses_of, params, plain, crowd):
    """Whatever lies in them."""
    junk = jax.tree.map(lambda x: x[:, 3:], crowd._replace(labels=crowd.labels + 7, valid=~crowd.valid))
    padded = Instances(*(np.concatenate(pair, axis=1) for pair in zip(TRUTH, junk, strict=True)))
    assert_alike(losses_of(params, padded, SIZES), plain)


def test_the_order_of_the_objects_changes_nothing(losses_of, params, plain):
    turned = Instances(*(field[:, ::-1] for field in TRUTH))
    assert_alike(losses_of(params, turned, SIZES), plain)


def test_without_objects_only_the_background_is_learnt(losses_of, params, plain):
    losses, gradients = losses_of(params, TRUTH._replace(valid=np.zeros((2, 3), bool)), SIZES)
    assert {name for name, x in losses.items() if float(x) == 0} == {"rpn_box", "box", "mask"}
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((losses, gradients)))
    for part in (gradients["mask"], gradients["box"]["deltas"], gradients["rpn"]["deltas"]):
        assert not any(np.asarray(x).any() for x in jax.tree.leaves(part))
    assert all(np.asarray(x).any() for x in jax.tree.leaves(gradients["backbone"]))


def test_boxes_are_cut_to_the_image_and_masks_are_not(losses_of, params):
    """A box half outside, whose mask is its right half, is the half inside, full."""
    half = np.zeros((2, 3, 16, 16), bool)
    half[..., 8:] = True
    outside = np.array([[-40, 10, 40, 50], [70, 5, 122, 30], [-20, -20, -5, 30]], np.float32)
    inside = np.array([[0, 10, 40, 50], [70, 5, 96, 30], [0, 0, 0, 0]], np.float32)
    one = lambda boxes, masks, valid: Instances(  # noqa: E731
        np.stack([boxes, boxes * 0]), LABELS, np.array([valid, [False] * 3]), masks)
    cut, _ = losses_of(params, one(outside, half, [True, False, True]), SIZES)
    whole, _ = losses_of(params, one(inside, half | True, [True, False, False]), SIZES)
    for name in ("objectness", "rpn_box", "class", "box"):
        assert float(cut[name]) == pytest.approx(float(whole[name]), rel=1e-6), name
    assert float(cut["mask"]) == pytest.approx(float(whole["mask"]), rel=0.25)  # it fades at the edge
    other, _ = losses_of(params, one(outside, half[..., ::-1], [True, False, True]), SIZES)
    assert float(other["mask"]) > 2 * float(cut["mask"])


@pytest.mark.parametrize("case", ["everything", "one pixel", "crowd", "twice the same"])
def test_odd_objects_give_finite_losses_and_gradients(losses_of, params, crowd, case):
    boxes = crowd.boxes.copy()
    valid = np.zeros((2, 300), bool)
    match case:
        case "everything":
            boxes[:, 0], valid[:, 0] = (0, 0, 96, 64), True
        case "one pixel":
            boxes[:, :2], valid[:, :2] = [(30, 30, 31, 31), (31, 30, 32, 31)], True
        case "crowd":
            valid[:] = True
        case "twice the same":
            boxes[:, :2], valid[:, :2] = (10, 10, 40, 40), True
    losses, gradients = losses_of(params, crowd._replace(boxes=boxes, valid=valid), SIZES)
    assert all(np.isfinite(x) and x > 0 for x in losses.values()), losses
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


def test_cutting_true_objects():
    truth = TRUTH._replace(boxes=BOXES + 35)
    cut = jax.tree.map(np.asarray, jax.jit(cut_to_image)(truth, SIZES))
    np.testing.assert_array_equal(cut.boxes[0], [[45, 45, 75, 64], [95, 40, 96, 64], [0] * 4])
    np.testing.assert_array_equal(cut.valid, [[1, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(cut.labels, [[0, 1, 0], [1, 0, 0]])


@pytest.fixture(scope="module")
def stages(model):
    """Every intermediate of the evaluation of IMAGES."""
    graphdef, params, stats = split(model)

    @functools.partial(jax.jit, compiler_options=QUICK)
    def call(params, images, sizes):
        now = merge(graphdef, params, stats, training=False)
        pyramid = now.pyramid(images, sizes)
        proposals = now.propose(*now.rpn(pyramid), pyramid, sizes)
        found = now.detect(*now.box_logits(pyramid, proposals.boxes), proposals, sizes)
        return proposals, found, now.mask_logits(pyramid, found.boxes), now(images, sizes)

    return lambda *args: jax.tree.map(np.asarray, call(params, *args))


def test_detections_are_sorted_inside_the_image_and_padded_with_zeros(stages):
    proposals, found, _, detections = stages(IMAGES, SIZES)
    assert proposals.valid.any(axis=1).all()
    assert detections.masks.shape == (2, 6, 8, 8)
    assert detections.valid.sum(axis=1).min() > SLOTS_AT_ONCE  # masks come in two parts
    for field in detections._fields[:-1]:
        np.testing.assert_allclose(getattr(detections, field), getattr(found, field), rtol=1e-5, atol=1e-4)
    for boxes, scores, labels, valid, masks, (height, width) in zip(*detections, SIZES, strict=True):
        assert (np.diff(scores) <= 0).all()
        assert (boxes >= 0).all()
        assert (boxes[:, 2:] <= (width, height)).all()
        assert (boxes[valid, 2:] > boxes[valid, :2]).all()
        assert set(labels) <= {0, 1}
        assert (scores[valid] > CONFIG.box.score_threshold).all()
        assert not any(x[~valid].any() for x in (boxes, scores, labels, masks))


def test_masks_are_those_of_the_detected_class(stages):
    _, found, logits, detections = stages(IMAGES, SIZES)
    own = np.take_along_axis(logits, found.labels[..., None, None, None] + 1, axis=-1)[..., 0]
    expected = np.where(found.valid[..., None, None], 1 / (1 + np.exp(-own)), 0)
    assert expected[found.valid].std() > 3e-3
    np.testing.assert_allclose(detections.masks, expected, rtol=1e-4, atol=1e-5)


def test_an_image_does_not_depend_on_its_neighbours(stages):
    together, other = stages(IMAGES, SIZES)[-1], stages(IMAGES[[0, 0]], SIZES[[0, 0]])[-1]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b[0], rtol=1e-4, atol=1e-3), together, other)
    assert np.abs(together.boxes[1] - other.boxes[1]).max() > 1


def test_what_lies_beyond_an_image_does_not_matter(stages):
    images = IMAGES.copy()
    images[1, 50:], images[1, :, 80:] = 0, 0
    assert (IMAGES[1] != images[1]).any()
    jax.tree.map(np.testing.assert_array_equal, stages(images, SIZES)[-1], stages(IMAGES, SIZES)[-1])


def test_half_precision_computes_close_and_keeps_float32_where_it_counts(model, params, plain):
    half = build_detector(replace(CONFIG, dtype="bfloat16"), seed=1)
    assert {x.dtype for x in jax.tree.leaves(split(half)[1:])} == {jnp.dtype("float32")}
    losses, gradients = compiled(half)(params, TRUTH, SIZES)
    for name, value in losses.items():
        assert value.dtype == jnp.float32
        assert float(value) == pytest.approx(float(plain[0][name]), rel=0.1, abs=0.02), name
        assert float(value) != float(plain[0][name])
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


def test_parameters_follow_the_seed(params):
    a, b, c = (split(build_detector(CONFIG, seed))[1] for seed in (0, 0, 1))
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert not np.array_equal(a["box"]["fc6"]["kernel"], c["box"]["fc6"]["kernel"])


@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_equal_configurations_have_equal_structures(backbone):
    """Compiled functions are found by the hash."""
    config = replace(CONFIG, backbone=backbone)
    a, b = (nnx.graphdef(nnx.eval_shape(lambda s=s: MaskRCNN(config, rngs=nnx.Rngs(s)))) for s in (0, 1))
    assert a == b
    assert hash(a) == hash(b)


def test_frozen_stages_are_named_by_path():
    model = build_detector(replace(CONFIG, frozen_stages=2))
    assert model.frozen_paths == tuple(f"backbone/{name}" for name in model.backbone.stage_names[:2])
    paths = ["/".join(str(k.key) for k in path)
             for path, _ in jax.tree_util.tree_flatten_with_path(split(model)[1])[0]]
    for prefix in model.frozen_paths:
        assert any(path.startswith(prefix) for path in paths)


def test_an_unknown_backbone_names_those_there_are():
    with pytest.raises(ConfigError, match=r"model\.backbone = 'vgg99' is unknown; the backbones are: .*compact"):
        build_detector(replace(CONFIG, backbone="vgg99"))


def test_images_of_another_size_are_refused(model):
    with pytest.raises(ValueError, match=r"images of \(32, 64\) pixels do not fit the model's canvas \(64, 96\)"):
        model.pyramid(jnp.zeros((1, 32, 64, 3)), jnp.array([[32, 64]]))
