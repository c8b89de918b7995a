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
