"""Non-maximum suppression against the greedy loop, on random and adversarial boxes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wbcjax.ops.boxes import paired_iou
from wbcjax.ops.nms import nms, nms_by_class, top_kept

jitted = jax.jit(nms, static_argnums=3)


def greedy(boxes, scores, valid, threshold, group=None):
    """The definition, as a plain loop."""
    keep = np.zeros(len(boxes), bool)
    for i in np.argsort(-scores, kind="stable"):
        rivals = [j for j in np.flatnonzero(keep) if group is None or group[i] == group[j]]
        keep[i] = valid[i] and all(paired_iou(boxes[i], boxes[j]) <= threshold for j in rivals)
    return keep


def everything(boxes):
    return jnp.ones(len(boxes), bool)


def test_literal():
    boxes = jnp.array([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30], [0, 0, 10, 5]])
    scores = jnp.array([0.8, 0.9, 0.1, 0.7])  # IoU of 0 and 1: 0.9; of 1 and 3: 0.56; of 0 and 3: 0.5
    np.testing.assert_array_equal(jitted(boxes, scores, everything(boxes), 0.55), [False, True, True, False])
    np.testing.assert_array_equal(jitted(boxes, scores, everything(boxes), 0.6), [False, True, True, True])
    np.testing.assert_array_equal(jitted(boxes, scores, everything(boxes), 0.95), True)


def test_suppressed_box_suppresses_nothing():
    # A chain: each overlaps only its neighbours, so every second one is kept.
    x = jnp.arange(9.0) * 4
    boxes = jnp.stack([x, 0 * x, x + 10, 0 * x + 10], axis=1)
    keep = jitted(boxes, -x, everything(boxes), 0.4)  # neighbours have an IoU of 3 / 7
    np.testing.assert_array_equal(keep, [True, False] * 4 + [True])


@pytest.mark.parametrize("n", [2, 17])
def test_equal_boxes_and_scores_keep_the_first(n):
    boxes = jnp.tile(jnp.array([[1.0, 1, 5, 5]]), (n, 1))
    np.testing.assert_array_equal(jitted(boxes, jnp.zeros(n), everything(boxes), 0.5), np.arange(n) == 0)


def test_iou_equal_to_the_threshold_is_kept():
    boxes = jnp.array([[0.0, 0, 2, 2], [0, 0, 2, 4]])  # IoU exactly 0.5
    np.testing.assert_array_equal(jitted(boxes, jnp.array([1.0, 0.0]), everything(boxes), 0.5), [True, True])


def test_empty_boxes_are_kept_and_harmless():
    boxes = jnp.array([[0.0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 2, 2], [3, 3, 1, 1]])
    np.testing.assert_array_equal(jitted(boxes, jnp.arange(4.0), everything(boxes), 0.1), True)


def test_invalid_boxes_neither_stay_nor_suppress():
    boxes = jnp.array([[0.0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 2, 2]])
    keep = jitted(boxes, jnp.array([3.0, 2.0, jnp.nan]), jnp.array([False, True, False]), 0.5)
    np.testing.assert_array_equal(keep, [False, True, False])
    assert not jitted(boxes, jnp.ones(3), jnp.zeros(3, bool), 0.5).any()


def test_no_boxes():
    assert jitted(jnp.zeros((0, 4)), jnp.zeros(0), jnp.zeros(0, bool), 0.5).shape == (0,)


grid_boxes = hnp.arrays(np.float32, (10, 4), elements=st.integers(0, 6).map(float))


@settings(deadline=None, max_examples=80)
@given(
    grid_boxes,
    hnp.arrays(np.float32, 10, elements=st.integers(0, 3).map(float)),  # many ties
    hnp.arrays(bool, 10),
    hnp.arrays(np.int32, 10, elements=st.integers(0, 1)),
    st.sampled_from([0.0, 0.25, 0.5]),
)
def test_equals_greedy_loop(boxes, scores, valid, group, threshold):
    arrays = [jnp.asarray(a) for a in (boxes, scores, valid)]
    np.testing.assert_array_equal(jitted(*arrays, threshold), greedy(boxes, scores, valid, threshold))
    grouped = jitted(*arrays, threshold, jnp.asarray(group))
    np.testing.assert_array_equal(grouped, greedy(boxes, scores, valid, threshold, group))


@pytest.mark.parametrize("spread", [5, 40, 400], ids=["crowded", "mixed", "sparse"])
def test_equals_greedy_loop_on_many_boxes(spread):
    rng = np.random.default_rng(spread)
    corner, size = rng.uniform(0, spread, (200, 2)), rng.uniform(5, 30, (200, 2))
    boxes, scores = np.concatenate([corner, corner + size], 1).astype(np.float32), rng.random(200, np.float32)
    valid = rng.random(200) < 0.9
    keep = jitted(*map(jnp.asarray, (boxes, scores, valid)), 0.5)
    np.testing.assert_array_equal(keep, greedy(boxes, scores, valid, 0.5))


def test_classes_are_separate():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 20, (30, 3, 2)).astype(np.float32)
    boxes, scores = np.concatenate([corner, corner + 12], axis=-1), rng.random((30, 3), np.float32)
    valid = np.ones((30, 3), bool)
    keep = jax.jit(nms_by_class, static_argnums=3)(*map(jnp.asarray, (boxes, scores, valid)), 0.5)
    for c in range(3):
        np.testing.assert_array_equal(keep[:, c], greedy(boxes[:, c], scores[:, c], valid[:, c], 0.5))
    group = jnp.tile(jnp.arange(3), 30)
    flat = jitted(jnp.asarray(boxes.reshape(-1, 4)), jnp.asarray(scores.ravel()), jnp.ones(90, bool), 0.5, group)
    np.testing.assert_array_equal(flat.reshape(30, 3), keep)


def test_differentiable_through():
    boxes = jnp.array([[0.0, 0, 2, 2], [0, 0, 2, 2.1]])

    def loss(boxes, scores):
        return jnp.where(nms(boxes, scores, everything(boxes), 0.5), scores, 0).sum() + boxes.sum()

    d_boxes, d_scores = jax.jit(jax.grad(loss, argnums=(0, 1)))(boxes, jnp.array([1.0, 2.0]))
    np.testing.assert_array_equal(d_boxes, 1)
    np.testing.assert_array_equal(d_scores, [0, 1])


def test_top_kept():
    scores, keep = jnp.array([0.1, 0.9, 0.5, 0.5, 0.7]), jnp.array([True, False, True, True, True])
    index, valid = top_kept(scores, keep, 3)
    np.testing.assert_array_equal(index, [4, 2, 3])
    assert valid.all()
    index, valid = jax.jit(functools.partial(top_kept, k=7))(scores, keep)
    np.testing.assert_array_equal(index, [4, 2, 3, 0, 0, 0, 0])
    np.testing.assert_array_equal(valid, [True] * 4 + [False] * 3)
