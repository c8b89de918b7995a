"""ROI Align: literal values, a plain loop, the border, both versions, empty boxes, levels of a pyramid, gradients."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wbcjax.ops.roi_align import multilevel_roi_align, pyramid_level, roi_align

methods = pytest.mark.parametrize("method", ["gather", "einsum"])
RNG = np.random.default_rng(0)
FEATURES = RNG.normal(size=(9, 12, 3)).astype(np.float32)


def bilinear(features, y, x):
    """torchvision's rule: within a pixel of the map the border's value, beyond that 0."""
    height, width, _ = features.shape
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(features.shape[2])
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = (left + 1 - x) * features[top, left] + (x - left) * features[top, right]
    lower = (left + 1 - x) * features[bottom, left] + (x - left) * features[bottom, right]
    return (top + 1 - y) * upper + (y - top) * lower


def oracle(features, boxes, out, stride=1.0, ratio=2, aligned=False):
    """The definition, as plain loops in double precision."""
    result = np.zeros((len(boxes), *out, features.shape[2]))
    for n, box in enumerate(np.asarray(boxes, np.float64)):
        if box[2] <= box[0] or box[3] <= box[1]:
            continue
        x1, y1, x2, y2 = box / stride - (0.5 if aligned else 0)
        width, height = (x2 - x1, y2 - y1) if aligned else (max(x2 - x1, 1), max(y2 - y1, 1))
        for p, q in np.ndindex(*out):
            samples = [
                bilinear(
                    features,
                    y1 + (p + (i + 0.5) / ratio) * height / out[0],
                    x1 + (q + (j + 0.5) / ratio) * width / out[1],
                )
                for i in range(ratio) for j in range(ratio)
            ]  # fmt: skip
            result[n, p, q] = np.mean(samples, axis=0)
    return result


BOXES = np.array([
    [2.0, 2, 6, 7],  # inside
    [0.0, 0, 12, 9],  # all of it
    [-0.8, -0.9, 4, 5],  # less than a pixel outside
    [-6.0, -5, 3, 4],  # far outside in part
    [9.5, 7.25, 15, 12],
    [20.0, 20, 30, 30],  # outside altogether
    [5.0, 3, 5.3, 3.2],  # smaller than a pixel
    [0.0, 0, 0, 0],  # empty from here on
    [4.0, 4, 4, 8],
    [6.0, 6, 3, 3],
], np.float32)  # fmt: skip


@methods
def test_literal_values(method):
    # A map that is its own x coordinate: each bin's value is the mean x of its samples.
    features = jnp.broadcast_to(jnp.arange(10.0), (10, 10))[..., None]
    boxes = jnp.array([[2.0, 2, 6, 6]])
    pooled = roi_align(features, boxes, 2, aligned=False, method=method)
    np.testing.assert_allclose(pooled[0, :, :, 0], [[3, 5], [3, 5]], rtol=1e-6)
    pooled = roi_align(features, boxes, 2, aligned=True, method=method)
    np.testing.assert_allclose(pooled[0, :, :, 0], [[2.5, 4.5], [2.5, 4.5]], rtol=1e-6)


@methods
@pytest.mark.parametrize("aligned", [False, True], ids=["legacy", "aligned"])
@pytest.mark.parametrize(("out", "ratio", "stride"), [((7, 7), 2, 1), ((3, 5), 1, 1), ((2, 1), 3, 4)], ids=str)
def test_equals_plain_loop(method, aligned, out, ratio, stride):
    boxes = BOXES * stride
    options = {"stride": stride, "sampling_ratio": ratio, "aligned": aligned, "method": method}
    pooled = roi_align(jnp.asarray(FEATURES), jnp.asarray(boxes), out, **options)
    np.testing.assert_allclose(pooled, oracle(FEATURES, boxes, out, stride, ratio, aligned), atol=1e-5)


coordinates = hnp.arrays(np.float32, (3, 4), elements=st.floats(-4, 16, width=32))


@settings(deadline=None, max_examples=40)
@given(coordinates, st.booleans())
def test_versions_agree(boxes, aligned):
    both = [
        roi_align(jnp.asarray(FEATURES), jnp.asarray(boxes), 3, aligned=aligned, method=method)
        for method in ("gather", "einsum")
    ]
    assert np.isfinite(both).all()
    # On the very border, where a sample is in or out by the last bit, they may differ.
    edges = np.abs(np.stack([boxes + 1, boxes - 9, boxes - 12])).min() < 1e-3
    if not edges:
        np.testing.assert_allclose(*both, atol=1e-4)


@methods
def test_constant_map_stays_constant(method):
    features = jnp.full((6, 8, 2), 3.5)
    np.testing.assert_allclose(roi_align(features, jnp.array([[0.0, 0, 8, 6]]), (3, 4), method=method), 3.5, rtol=1e-6)


@methods
def test_gradients_agree_with_finite_differences(method):
    boxes, cotangent = jnp.asarray(BOXES), RNG.normal(size=(len(BOXES), 2, 3, 3)).astype(np.float32)

    def loss(features):
        return (roi_align(features, boxes, (2, 3), method=method) * cotangent).sum()

    gradient = jax.jit(jax.grad(loss))(jnp.asarray(FEATURES))
    # Linear in the features: the difference between two maps is the gradient's product with their difference.
    change = RNG.normal(size=FEATURES.shape).astype(np.float32)
    expected = (oracle(change, BOXES, (2, 3)) * cotangent).sum()
    np.testing.assert_allclose((gradient * change).sum(), expected, rtol=1e-3, atol=1e-3)


def test_gradient_of_the_cpu_equals_automatic_differentiation(monkeypatch):
    cotangent = RNG.normal(size=(2, len(BOXES), 2, 3, 3)).astype(np.float32)
    pyramids = [jnp.asarray(RNG.normal(size=(2, 24 // s, 32 // s, 3)).astype(np.float32)) for s in (1, 2)]
    boxes = jnp.asarray(np.stack([BOXES, 2 * BOXES]))
    pool = functools.partial(
        multilevel_roi_align, output_size=(2, 3), strides=(1, 2), canonical_size=5, canonical_level=1, method="gather"
    )

    def gradient():
        return jax.grad(lambda features: (jax.vmap(pool)(features, boxes) * cotangent).sum())(pyramids)

    ours = gradient()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # the version without a rule of its own
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), ours, gradient())
    assert all(np.asarray(level).any() for level in ours)


@methods
@pytest.mark.parametrize("box", [[0.0] * 4, [4.0, 4, 4, 8], [6.0, 6, 3, 3], [np.nan] * 4], ids=str)
@pytest.mark.parametrize("aligned", [False, True], ids=["legacy", "aligned"])
def test_empty_box_gives_zeros_and_zero_gradient(method, box, aligned):
    def loss(features, boxes):
        return (roi_align(features, boxes, 2, aligned=aligned, method=method) + 1).prod()

    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(jnp.asarray(FEATURES), jnp.array([box]))
    assert value == 1
    np.testing.assert_array_equal(gradients[0], 0)
    np.testing.assert_array_equal(gradients[1], 0)


@methods
def test_boxes_get_no_gradient(method):
    features = jnp.asarray(FEATURES)
    gradient = jax.grad(lambda boxes: roi_align(features, boxes, 2, method=method).sum())(jnp.asarray(BOXES))
    np.testing.assert_array_equal(gradient, 0)


@methods
@pytest.mark.parametrize("n", [0, 1, 53])
def test_any_number_of_boxes(method, n):
    boxes = np.resize(BOXES, (n, 4))
    pooled = roi_align(jnp.asarray(FEATURES), jnp.asarray(boxes), 2, method=method)
    assert pooled.shape == (n, 2, 2, 3)
    np.testing.assert_allclose(pooled, oracle(FEATURES, boxes, (2, 2)), atol=1e-5)


@methods
def test_bfloat16(method):
    features = jnp.asarray(FEATURES).astype(jnp.bfloat16)
    pooled = roi_align(features, jnp.asarray(BOXES), 3, method=method)
    assert pooled.dtype == jnp.bfloat16
    expected = oracle(np.asarray(features, np.float32), BOXES, (3, 3))
    np.testing.assert_allclose(np.asarray(pooled, np.float32), expected, atol=0.04)


@methods
def test_vmap_over_images(method):
    images, boxes = jnp.stack([FEATURES, -2 * FEATURES]), jnp.stack([BOXES, BOXES[::-1]])
    pool = functools.partial(roi_align, output_size=2, method=method)
    batch = jax.jit(jax.vmap(pool))(images, boxes)
    for i in range(2):
        np.testing.assert_allclose(batch[i], pool(images[i], boxes[i]), atol=1e-6)


def test_pyramid_level_literal():
    sizes = [1, 55, 56, 111, 112, 223, 224, 447, 448, 2000]
    boxes = jnp.array([[0.0, 0, s, s] for s in sizes])
    np.testing.assert_array_equal(pyramid_level(boxes, 2, 5), [2, 2, 2, 2, 3, 3, 4, 4, 5, 5])
    np.testing.assert_array_equal(pyramid_level(boxes, 3, 4), [3, 3, 3, 3, 3, 3, 4, 4, 4, 4])
    # area counts, not the longer side; empty boxes are on the lowest
    np.testing.assert_array_equal(pyramid_level(jnp.array([[0.0, 0, 448, 112], [0, 0, 0, 0]]), 2, 5), [4, 2])


@methods
@pytest.mark.parametrize("aligned", [False, True], ids=["legacy", "aligned"])
def test_pyramid_takes_each_box_from_its_level(method, aligned):
    strides = (4, 8, 16)
    features = [RNG.normal(size=(64 // s, 96 // s, 2)).astype(np.float32) for s in strides]
    sizes = [4, 6, 9, 14, 22, 33, 47, 60]
    boxes = [[3 + i, 1 + i / 2, 3 + i + s, 1 + i / 2 + s] for i, s in enumerate(sizes)]
    boxes = np.array([*boxes, [0] * 4], np.float32)
    pooled = multilevel_roi_align(
        [jnp.asarray(f) for f in features], jnp.asarray(boxes), (2, 3), strides=strides, aligned=aligned,
        canonical_size=40, canonical_level=4, method=method,
    )  # fmt: skip
    levels = [min(max(math.floor(4 + math.log2(s / 40)), 2), 4) - 2 for s in sizes]
    assert set(levels) == {0, 1, 2}
    for i, level in enumerate(levels):
        expected = oracle(features[level], boxes[i : i + 1], (2, 3), strides[level], aligned=aligned)[0]
        np.testing.assert_allclose(pooled[i], expected, atol=1e-5)
    np.testing.assert_array_equal(pooled[-1], 0)


@pytest.mark.parametrize("strides", [(4,), (4, 8, 16), (4, 6)], ids=str)
def test_impossible_strides(strides):
    features = [jnp.zeros((8, 8, 1)), jnp.zeros((4, 4, 1))]
    with pytest.raises(ValueError, match="strides"):
        multilevel_roi_align(features, jnp.zeros((1, 4)), 2, strides=strides)
