"""Every operation against torchvision: a golden file that it made, and live, on other inputs, where it is installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from make_ops_golden import (
    CANONICAL,
    GOLDEN,
    IMAGE,
    IOU_THRESHOLD,
    MASK_BINS,
    RATIOS,
    SIZES,
    STRIDES,
    WEIGHTS,
    inputs,
    load_torchvision,
    outputs,
)

from wbcjax.ops import boxes as box_ops
from wbcjax.ops.anchors import pyramid_anchors, strides_of
from wbcjax.ops.masks import crop_to_box, mask_targets, paste, paste_on_device
from wbcjax.ops.matcher import match
from wbcjax.ops.nms import nms
from wbcjax.ops.roi_align import multilevel_roi_align, pyramid_level, roi_align


@pytest.fixture(scope="module", params=["golden", "live"])
def case(request):
    """(inputs as NumPy arrays, the same as JAX arrays, torchvision's outputs)."""
    if request.param == "golden":
        with np.load(GOLDEN) as file:
            given, expected = ({k[len(p) :]: file[k] for k in file if k.startswith(p)} for p in ("in_", "out_"))
    else:
        torchvision = load_torchvision()
        if torchvision is None:
            pytest.skip("torch and torchvision are not installed")
        given = inputs(seed=1)
        expected = outputs(given, torchvision)
    return given, {name: jnp.asarray(value) for name, value in given.items()}, expected


def assert_close(ours, expected):
    """To 1e-4 of the reference's standard deviation, which is not near 0."""
    deviation = expected.std()
    assert ours.shape == expected.shape and deviation > 1e-2
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-4 * deviation)


def test_iou_and_giou(case):
    _, given, expected = case
    assert_close(box_ops.pairwise_iou(given["truth"], given["boxes"]), expected["iou"])
    assert_close(box_ops.pairwise_giou(given["truth"], given["boxes"]), expected["giou"])


def test_clip_and_size(case):
    _, given, expected = case
    np.testing.assert_allclose(box_ops.clip(given["boxes"] * 1.5 - 20, IMAGE), expected["clipped"], atol=1e-4)
    np.testing.assert_array_equal(box_ops.large_enough(given["boxes"], 12.0), expected["large"])


def test_deltas(case):
    _, given, expected = case
    boxes = given["boxes"]
    assert_close(box_ops.encode(boxes, jnp.roll(boxes, 1, axis=0), WEIGHTS), expected["encoded"])
    decoded = box_ops.decode(given["deltas"], boxes, WEIGHTS)
    assert_close(decoded, expected["decoded"].reshape(decoded.shape))


def test_anchors(case):
    shapes = [(IMAGE[0] // s, IMAGE[1] // s) for s in STRIDES]
    anchors = pyramid_anchors(shapes, strides_of(IMAGE, shapes), SIZES, [RATIOS] * 3)
    np.testing.assert_array_equal(np.concatenate(anchors), case[2]["anchors"])


@pytest.mark.parametrize(("name", "high", "low"), [("rpn", 0.7, 0.3), ("head", 0.5, 0.5)])
def test_matcher(case, name, high, low):
    matches = match(jnp.asarray(case[2]["iou"]), jnp.ones(5, bool), high=high, low=low, low_quality=name == "rpn")
    ours = jnp.where(matches.foreground, matches.index, jnp.where(matches.background, -1, -2))
    np.testing.assert_array_equal(ours, case[2][f"matched_{name}"])


@pytest.mark.parametrize("name", ["nms", "nms_by_class"])
def test_nms(case, name):
    _, given, expected = case
    if name not in expected:
        pytest.skip("this torchvision has no C++ operators, and nms exists only there")
    group = given["classes"] if name == "nms_by_class" else None
    keep = nms(given["boxes"], given["scores"], jnp.ones(40, bool), IOU_THRESHOLD, group)
    np.testing.assert_array_equal(keep, expected[name])


@pytest.mark.parametrize("method", ["gather", "einsum"])
def test_roi_align(case, method):
    _, given, expected = case
    features, boxes = [given[f"features{s}"] for s in STRIDES], given["roi_boxes"]
    legacy = roi_align(features[0], boxes, (3, 5), stride=STRIDES[0], method=method)
    assert_close(legacy, expected["roi_legacy"])
    aligned = roi_align(features[0], boxes, (4, 3), stride=STRIDES[0], sampling_ratio=3, aligned=True, method=method)
    assert_close(aligned, expected["roi_aligned"])
    np.testing.assert_array_equal(pyramid_level(boxes, 2, 4, CANONICAL) - 2, expected["levels"])
    assert set(expected["levels"]) == {0, 1, 2}
    pyramid = multilevel_roi_align(features, boxes, 3, strides=STRIDES, canonical_size=CANONICAL, method=method)
    assert_close(pyramid, expected["roi_pyramid"])


def test_mask_targets(case):
    host, given, expected = case
    crops = crop_to_box(host["masks"], host["mask_boxes"], 32)
    ours = mask_targets(jnp.asarray(crops), given["mask_boxes"], given["mask_proposals"], MASK_BINS)
    assert_close(ours, expected["targets"])


def test_paste(case):
    host, given, expected = case
    assert_close(paste(host["probabilities"], host["paste_boxes"], (32, 40), threshold=None), expected["pasted"])
    on_device = jax.jit(paste_on_device, static_argnums=2)(given["probabilities"], given["paste_boxes"], (32, 40))
    assert_close(on_device, expected["pasted"])
