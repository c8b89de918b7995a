"""Best IoU of each image against a plain loop; images without predicted or true boxes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbcjax.errors import DataError
from wbcjax.evaluation.iou import best_iou, distribution, iou_statistics, pad, padded_best_iou

PREDICTED = [
    np.array([0.0, 0, 2, 2]),  # one box
    None,  # nothing found
    np.array([[0.0, 0, 1, 1], [0, 0, 2, 4]], np.float32),  # two boxes, the second is right
    np.zeros((0, 4), np.float32),  # nothing found, as an array
    np.array([0.0, 0, 2, 2]),  # no true box
    np.array([7.0, 7, 9, 9]),  # misses both
]
TRUE = [
    np.array([[0.0, 0, 2, 4]]),
    np.array([[0.0, 0, 2, 4]]),
    np.array([[5.0, 5, 6, 6], [0, 0, 2, 4]], np.float32),
    np.array([[0.0, 0, 2, 4]]),
    np.zeros((0, 4)),
    np.array([[0.0, 0, 2, 4], [3, 3, 4, 4]]),
]
BEST = [0.5, 0.0, 1.0, 0.0, np.nan, 0.0]


def plain_loop(predicted, true):
    values = []
    for p_boxes, t_boxes in zip(predicted, true, strict=True):
        best = 0.0 if len(t_boxes) else np.nan
        for p in [] if p_boxes is None else np.reshape(p_boxes, (-1, 4)).tolist():
            for t in t_boxes.tolist():
                width, height = min(p[2], t[2]) - max(p[0], t[0]), min(p[3], t[3]) - max(p[1], t[1])
                if width > 0 and height > 0:
                    union = (p[2] - p[0]) * (p[3] - p[1]) + (t[2] - t[0]) * (t[3] - t[1]) - width * height
                    best = max(best, width * height / union)
        values.append(best)
    return values


def random_boxes(rng, count):
    corner = rng.uniform(0, 60, (count, 2))
    return np.concatenate([corner, corner + rng.uniform(1, 40, (count, 2))], axis=1).astype(np.float32)


def test_literal():
    np.testing.assert_allclose(best_iou(PREDICTED, TRUE), BEST)
    np.testing.assert_allclose(plain_loop(PREDICTED, TRUE), BEST)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 3)), max_size=20), st.integers(0, 1000))
def test_equals_the_plain_loop(counts, seed):
    rng = np.random.default_rng(seed)
    predicted = [None if p < 0 else random_boxes(rng, p) for p, _ in counts]
    true = [random_boxes(rng, t) for _, t in counts]
    np.testing.assert_allclose(best_iou(predicted, true), plain_loop(predicted, true), rtol=1e-5)


def test_jitted_on_jax_arrays():
    arrays = [jnp.asarray(array) for array in (*pad(PREDICTED), *pad(TRUE))]
    result = jax.jit(padded_best_iou)(*arrays)
    assert isinstance(result, jax.Array)
    np.testing.assert_allclose(result, BEST, rtol=1e-6)


@pytest.mark.parametrize("filling", [0.0, 1.0, np.nan, np.inf])
def test_padded_slots_change_nothing(filling):
    arrays = []
    for boxes, valid in (pad(PREDICTED), pad(TRUE)):
        extra = np.full((len(boxes), 5, 4), filling, np.float32)
        arrays += [np.concatenate([boxes, extra], axis=1), np.pad(valid, ((0, 0), (0, 5)))]
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(padded_best_iou(*arrays), BEST)


def test_order_of_true_boxes_changes_nothing():
    reordered = [boxes[::-1] for boxes in TRUE]
    np.testing.assert_array_equal(best_iou(PREDICTED, reordered), best_iou(PREDICTED, TRUE))


def test_no_image():
    assert best_iou([], []).shape == (0,)


def test_different_lengths():
    with pytest.raises(DataError, match="2 predictions for 1 images"):
        best_iou([None, None], [np.zeros((1, 4))])


def test_box_that_is_not_finite():
    with pytest.raises(DataError, match="image 1 of the set has a box that is not finite"):
        best_iou([None, np.array([0.0, 0, np.nan, 1])], [np.ones((1, 4)), np.ones((1, 4))])


def test_statistics_of_the_defined_images():
    statistics = iou_statistics(np.array(BEST))
    assert statistics == pytest.approx(
        {"mean": 0.3, "min": 0.0, "max": 1.0, "std": np.std([0.5, 0, 1, 0, 0]), "median": 0.0}
    )
    with pytest.raises(DataError, match="no image of the set has a true box"):
        iou_statistics(np.array([np.nan]))


def test_distribution():
    counts, edges = distribution(np.array(BEST), bins=4)
    assert counts.tolist() == [3, 0, 1, 1]  # 0.5 opens the third bin, 1.0 closes the last
    np.testing.assert_allclose(edges, [0, 0.25, 0.5, 0.75, 1])
