"""Boxes: literal cases, empty boxes and their gradients, NumPy and JAX, a second oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wbcjax.ops import boxes as box_ops

UNIT = [0.0, 0.0, 1.0, 1.0]
EMPTY = {
    "zeros": [0.0, 0.0, 0.0, 0.0],
    "no width": [0.5, 0.0, 0.5, 1.0],
    "no height": [0.0, 0.5, 1.0, 0.5],
    "turned in x": [1.0, 0.0, 0.0, 1.0],
    "turned in both": [1.0, 1.0, 0.0, 0.0],
}
namespaces = pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])


def oracle(a, b):
    """IoU of two boxes on the integer grid, by counting pixels."""
    first, second = (
        {(x, y) for x in range(*box[::2].astype(int)) for y in range(*box[1::2].astype(int))}
        for box in (a, b)
    )
    return len(first & second) / max(1, len(first | second))


def grid_boxes(rows):
    return hnp.arrays(np.float32, (rows, 4), elements=st.integers(0, 8).map(float))


@namespaces
def test_area(xp):
    boxes = xp.array([UNIT, [1.0, 2.0, 4.0, 4.5], *EMPTY.values()])
    np.testing.assert_allclose(box_ops.area(boxes), [1, 7.5, 0, 0, 0, 0, 0])


@namespaces
def test_pairwise_iou_literal(xp):
    a = xp.array([[0.0, 0, 2, 2], [0, 0, 4, 4]])
    b = xp.array([[0.0, 0, 2, 2], [1, 1, 3, 3], [2, 0, 4, 2]])  # the last one touches the first box of a
    iou = box_ops.pairwise_iou(a, b)
    assert isinstance(iou, np.ndarray if xp is np else jax.Array)
    np.testing.assert_allclose(iou, [[1, 1 / 7, 0], [1 / 4, 1 / 4, 1 / 4]], rtol=1e-6)


@namespaces
@pytest.mark.parametrize("box", EMPTY.values(), ids=EMPTY)
def test_empty_boxes_meet_nothing(xp, box):
    empty = xp.array([box])
    assert float(box_ops.paired_iou(empty, empty)[0]) == 0
    assert float(box_ops.pairwise_iou(empty, xp.array([UNIT]))[0, 0]) == 0


@pytest.mark.parametrize("box", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("other", [UNIT, EMPTY["zeros"]], ids=["unit", "zeros"])
def test_empty_boxes_have_zero_gradient(box, other):
    gradients = jax.grad(box_ops.paired_iou, argnums=(0, 1))(jnp.array(box), jnp.array(other))
    np.testing.assert_array_equal(gradients, np.zeros((2, 4)))
    np.testing.assert_array_equal(jax.grad(box_ops.area)(jnp.array(box)), np.zeros(4))


def test_gradient_equals_finite_differences():
    a, b = np.array([0.0, 0, 2, 3]), np.array([1.0, 1, 4, 4])
    gradient = jax.grad(box_ops.paired_iou)(jnp.array(a, jnp.float32), jnp.array(b, jnp.float32))
    step, others = 1e-6 * np.eye(4), np.tile(b, (4, 1))
    expected = (box_ops.paired_iou(a + step, others) - box_ops.paired_iou(a - step, others)) / 2e-6
    np.testing.assert_allclose(gradient, expected, atol=1e-5)


@settings(deadline=None, max_examples=50)
@given(grid_boxes(3), grid_boxes(4))
def test_equals_counting_pixels(a, b):
    expected = [[oracle(x, y) for y in b] for x in a]
    np.testing.assert_allclose(box_ops.pairwise_iou(a, b), expected, rtol=1e-6)


@settings(deadline=None)
@given(hnp.arrays(np.float32, (2, 5, 4), elements=st.floats(-1e4, 1e4, width=32)))
def test_range_symmetry_and_self(pair):
    a, b = pair
    iou = box_ops.pairwise_iou(a, b)
    assert ((iou >= 0) & (iou <= 1)).all()
    np.testing.assert_array_equal(iou, box_ops.pairwise_iou(b, a).T)
    np.testing.assert_array_equal(np.diagonal(iou), box_ops.paired_iou(a, b))
    np.testing.assert_array_equal(box_ops.paired_iou(a, a), box_ops.area(a) > 0)


def test_vmap_equals_leading_axes():
    a, b = (jax.random.uniform(key, (3, 5, 4)) for key in jax.random.split(jax.random.key(0)))
    mapped = jax.jit(jax.vmap(box_ops.pairwise_iou))(a, b)
    on_host = box_ops.pairwise_iou(np.asarray(a), np.asarray(b))
    np.testing.assert_allclose(mapped, on_host, rtol=1e-5, atol=1e-7)


def test_no_boxes():
    assert box_ops.pairwise_iou(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)


@namespaces
def test_clip(xp):
    boxes = xp.array([[-3.0, 2, 5, 30], [25.0, 2, 30, 8]], dtype=xp.float32)
    clipped = box_ops.clip(boxes, (10, 20))
    np.testing.assert_array_equal(clipped, [[0, 2, 5, 10], [20, 2, 20, 8]])
    np.testing.assert_array_equal(box_ops.area(clipped), [40, 0])
    assert clipped.dtype == np.float32


def test_clip_each_image_to_its_own_size():
    boxes = jnp.array([[[0.0, 0, 9, 9]], [[0.0, 0, 9, 9]]])
    clipped = jax.vmap(box_ops.clip)(boxes, jnp.array([[5, 6], [7, 8]]))
    np.testing.assert_array_equal(clipped, [[[0, 0, 6, 5]], [[0, 0, 8, 7]]])


def test_clip_keeps_the_type():
    assert box_ops.clip(np.zeros((1, 4), np.float32), np.array([480, 640])).dtype == np.float32


def giou_oracle(a, b):
    """Generalised IoU of two boxes on the integer grid, by counting pixels."""
    hull = np.array([*np.minimum(a[:2], b[:2]), *np.maximum(a[2:], b[2:])])
    pixels = [
        {(x, y) for x in range(*box[::2].astype(int)) for y in range(*box[1::2].astype(int))} for box in (a, b, hull)
    ]
    if not pixels[0] or not pixels[1]:
        return -1.0
    union = len(pixels[0] | pixels[1])
    return len(pixels[0] & pixels[1]) / union - 1 + union / len(pixels[2])


@namespaces
def test_giou_literal(xp):
    a, b = xp.array([UNIT, UNIT, UNIT]), xp.array([UNIT, [1.0, 0, 2, 1], [3.0, 0, 4, 1]])
    np.testing.assert_allclose(box_ops.paired_giou(a, b), [1, 0, -0.5], atol=1e-6)


@settings(deadline=None, max_examples=50)
@given(grid_boxes(3), grid_boxes(4))
def test_giou_equals_counting_pixels(a, b):
    expected = [[giou_oracle(x, y) for y in b] for x in a]
    np.testing.assert_allclose(box_ops.pairwise_giou(a, b), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("box", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("function", [box_ops.paired_giou, box_ops.encode], ids=["giou", "encode"])
@pytest.mark.parametrize("other", [UNIT, EMPTY["zeros"]], ids=["unit", "zeros"])
def test_empty_boxes_give_constants_and_zero_gradients(box, function, other):
    for pair in ((box, other), (other, box)):
        pair = jnp.array(pair)
        np.testing.assert_array_equal(function(*pair), -1 if function is box_ops.paired_giou else 0)
        gradients = jax.grad(lambda a, b: function(a, b).sum(), argnums=(0, 1))(*pair)
        np.testing.assert_array_equal(gradients, np.zeros((2, 4)))


def test_disjoint_boxes_have_a_giou_gradient():
    gradient = jax.grad(box_ops.paired_giou)(jnp.array(UNIT), jnp.array([5.0, 5, 6, 6]))
    assert (np.asarray(gradient)[2:] > 0).all() and np.isfinite(gradient).all()


@namespaces
def test_large_enough(xp):
    boxes = xp.array([[0.0, 0, 2, 2], [0.0, 0, 2, 1.9], [0.0, 0, 1.9, 2], *EMPTY.values()])
    np.testing.assert_array_equal(box_ops.large_enough(boxes, 2), [True, *[False] * 7])
    np.testing.assert_array_equal(box_ops.large_enough(boxes, 0), [True] * 3 + [False] * 5)


@namespaces
def test_encode_and_decode_literal(xp):
    anchors = xp.array([[0.0, 0, 10, 20]], dtype=xp.float32)
    boxes = xp.array([[5.0, 0, 25, 20]], dtype=xp.float32)  # one side to the right, twice as wide
    deltas = box_ops.encode(boxes, anchors, (10, 10, 5, 5))
    assert deltas.dtype == np.float32 and isinstance(deltas, np.ndarray if xp is np else jax.Array)
    np.testing.assert_allclose(deltas, [[10, 0, 5 * np.log(2), 0]], rtol=1e-6)
    np.testing.assert_allclose(box_ops.decode(deltas, anchors, (10, 10, 5, 5)), boxes, rtol=1e-6)


proper_boxes = hnp.arrays(np.float32, (5, 4), elements=st.floats(1, 500, width=32)).map(
    lambda b: np.concatenate([b[:, :2], b[:, :2] + b[:, 2:]], axis=1)
)


@settings(deadline=None)
@given(proper_boxes, proper_boxes)
def test_decode_undoes_encode(boxes, anchors):
    large = box_ops.decode(box_ops.encode(boxes, anchors), anchors, max_log_scale=10)
    np.testing.assert_allclose(large, boxes, rtol=1e-4, atol=5e-3)


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.float32, (2, 4, 4), elements=st.floats(-1e6, 1e6, width=32)))
def test_encode_is_finite_for_any_boxes(pair):
    deltas, gradient = jax.value_and_grad(lambda a, b: box_ops.encode(a, b).sum())(*jnp.asarray(pair))
    assert np.isfinite(deltas) and np.isfinite(gradient).all()


def test_decode_limits_the_growth():
    anchor, deltas = jnp.array([0.0, 0, 10, 10]), jnp.array([0.0, 0, 100, 100])
    decoded, gradient = jax.value_and_grad(lambda d: box_ops.area(box_ops.decode(d, anchor)))(deltas)
    np.testing.assert_allclose(decoded, 625**2, rtol=1e-5)
    np.testing.assert_array_equal(gradient, 0)


def test_decode_computes_in_the_type_of_the_anchors_and_broadcasts():
    deltas, anchors = jnp.zeros((3, 2, 4), jnp.bfloat16), jnp.array([[1.0, 2, 301, 402]] * 3)
    boxes = box_ops.decode(deltas, anchors[:, None])
    assert boxes.dtype == jnp.float32
    np.testing.assert_array_equal(boxes, np.broadcast_to(anchors[:, None], (3, 2, 4)))
