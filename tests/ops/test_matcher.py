"""Matching: literal cases, a plain loop, padding, order of the ground truth, degenerate input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wbcjax.ops.matcher import match

RPN = functools.partial(match, high=0.7, low=0.3, low_quality=True)
HEAD = functools.partial(match, high=0.5, low=0.5)
IOU = jnp.array([
    [0.8, 0.6, 0.2, 0.0, 0.0],
    [0.1, 0.2, 0.25, 0.0, 0.65],
    [0.9, 0.0, 0.25, 0.0, 0.0],  # padding in most tests
])  # fmt: skip
TWO = jnp.array([True, True, False])


def oracle(iou, valid, high, low, low_quality):
    """(index, label) of each candidate; label 1 foreground, 0 background, -1 ignored."""
    rows = [i for i in range(len(valid)) if valid[i]]
    best = {i: max(iou[i]) for i in rows if len(iou[i])}
    result = []
    for j in range(iou.shape[1]):
        index, value = 0, -1.0
        for i in rows:
            if iou[i][j] > value:
                index, value = i, iou[i][j]
        label = 1 if value >= high and rows else 0 if value < low else -1
        if low_quality and any(iou[i][j] == best[i] > 0 for i in rows):
            label = 1
        result.append((index, label))
    return result


def labels(matches):
    assert not (matches.foreground & matches.background).any()
    return np.where(matches.foreground, 1, np.where(matches.background, 0, -1))


def test_thresholds():
    matches = HEAD(IOU, TWO)
    np.testing.assert_array_equal(matches.index, [0, 0, 1, 0, 1])
    np.testing.assert_allclose(matches.iou, [0.8, 0.6, 0.25, 0, 0.65])
    np.testing.assert_array_equal(labels(matches), [1, 1, 0, 0, 1])


def test_low_quality_and_ignored():
    np.testing.assert_array_equal(labels(match(IOU, TWO, high=0.7, low=0.3)), [1, -1, 0, 0, -1])
    # the second ground truth's best is the last candidate, at 0.65
    np.testing.assert_array_equal(labels(RPN(IOU, TWO)), [1, -1, 0, 0, 1])


def test_claimed_candidate_keeps_its_own_best():
    iou = jnp.array([[0.6, 0.1], [0.5, 0.0]])  # the second ground truth's best candidate prefers the first
    matches = RPN(iou, jnp.array([True, True]))
    np.testing.assert_array_equal(matches.index, [0, 0])
    np.testing.assert_array_equal(labels(matches), [1, 0])


def test_ties_are_all_claimed_and_go_to_the_first():
    iou = jnp.array([[0.2, 0.2, 0.1], [0.2, 0.0, 0.0]])
    matches = RPN(iou, jnp.array([True, True]))
    np.testing.assert_array_equal(labels(matches), [1, 1, 0])
    assert matches.index[0] == 0


def test_ground_truth_that_meets_nothing_claims_nothing():
    matches = RPN(jnp.zeros((2, 4)), jnp.array([True, True]))
    np.testing.assert_array_equal(labels(matches), 0)


@pytest.mark.parametrize("slots", [0, 3])
def test_no_ground_truth_is_all_background(slots):
    matches = RPN(jnp.full((slots, 4), 0.9), jnp.zeros(slots, bool))
    np.testing.assert_array_equal(labels(matches), 0)
    np.testing.assert_array_equal(matches.iou, 0)
    np.testing.assert_array_equal(matches.index, 0)


def test_no_candidates():
    assert RPN(jnp.zeros((3, 0)), TWO).index.shape == (0,)


def test_invalid_candidates_are_neither():
    matches = RPN(IOU, TWO, candidate_valid=jnp.array([True, True, True, False, False]))
    np.testing.assert_array_equal(labels(matches), [1, -1, 1, -1, -1])  # the third is now the second's best


def test_impossible_thresholds():
    with pytest.raises(ValueError, match=r"low = 0\.7"):
        match(IOU, TWO, high=0.3, low=0.7)


ious = hnp.arrays(np.float32, (3, 6), elements=st.integers(0, 10).map(lambda i: np.float32(i / 10)))


@settings(deadline=None, max_examples=60)
@given(ious, hnp.arrays(bool, 3), st.booleans())
def test_equals_plain_loop(iou, valid, low_quality):
    expected = oracle(iou, valid, np.float32(0.7), np.float32(0.3), low_quality)
    matches = match(jnp.asarray(iou), jnp.asarray(valid), high=0.7, low=0.3, low_quality=low_quality)
    np.testing.assert_array_equal(labels(matches), [label for _, label in expected])
    np.testing.assert_array_equal(matches.index, [index for index, _ in expected])


@settings(deadline=None, max_examples=30)
@given(ious, st.permutations(range(3)))
def test_order_of_ground_truth_changes_no_label(iou, order):
    valid = jnp.ones(3, bool)
    first, second = RPN(jnp.asarray(iou), valid), RPN(jnp.asarray(iou[np.array(order)]), valid)
    np.testing.assert_array_equal(labels(first), labels(second))
    np.testing.assert_array_equal(first.iou, second.iou)


def test_vmap_and_jit():
    batch = jax.jit(jax.vmap(RPN))(jnp.stack([IOU, IOU]), jnp.stack([TWO, jnp.zeros(3, bool)]))
    for i, valid in enumerate((TWO, jnp.zeros(3, bool))):
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda x, i=i: x[i], batch), RPN(IOU, valid))
