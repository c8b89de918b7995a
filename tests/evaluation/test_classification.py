"""Confusion matrices and what follows from them, against scikit-learn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from wbcjax.errors import DataError
from wbcjax.evaluation import classification as cl

# Three images of class 0, one of class 1, none of class 2; class 1 is never predicted.
LABELS = np.array([0, 0, 0, 1])
PREDICTIONS = np.array([0, 0, 2, 0])
LITERAL = np.array([[2, 0, 1], [1, 0, 0], [0, 0, 0]])

pairs = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


def test_rows_are_true_classes():
    np.testing.assert_array_equal(cl.confusion_matrix(LABELS, PREDICTIONS, 3), LITERAL)


def test_normalised_by_row_and_column():
    np.testing.assert_allclose(cl.normalize_rows(LITERAL), [[2 / 3, 0, 1 / 3], [1, 0, 0], [0, 0, 0]])
    np.testing.assert_allclose(cl.normalize_columns(LITERAL), [[2 / 3, 0, 1], [1 / 3, 0, 0], [0, 0, 0]])


def test_literal_figures():
    assert cl.accuracy(LITERAL) == 0.5
    assert cl.balanced_accuracy(LITERAL) == pytest.approx(1 / 3)  # (2/3 + 0) / 2: class 2 has no image
    np.testing.assert_allclose(cl.recall(LITERAL), [2 / 3, 0, 0])
    np.testing.assert_allclose(cl.precision(LITERAL), [2 / 3, 0, 0])
    np.testing.assert_allclose(cl.f1(LITERAL), [2 / 3, 0, 0])


@settings(deadline=None)
@given(pairs)
def test_equals_scikit_learn(items):
    labels, predictions = np.array(items).T
    confusion = cl.confusion_matrix(labels, predictions, 4)
    options = dict(labels=range(4), average=None, zero_division=0)
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(labels, predictions, labels=range(4)))
    assert cl.accuracy(confusion) == pytest.approx(sk.accuracy_score(labels, predictions))
    oracles = {cl.precision: sk.precision_score, cl.recall: sk.recall_score, cl.f1: sk.f1_score}
    for ours, theirs in oracles.items():
        np.testing.assert_allclose(ours(confusion), theirs(labels, predictions, **options))
    present = np.unique(labels)
    expected = sk.recall_score(labels, predictions, labels=present, average="macro", zero_division=0)
    assert cl.balanced_accuracy(confusion) == pytest.approx(expected)
    by_row = sk.confusion_matrix(labels, predictions, labels=range(4), normalize="true")
    np.testing.assert_allclose(cl.normalize_rows(confusion), by_row)
    by_column = sk.confusion_matrix(labels, predictions, labels=range(4), normalize="pred")
    np.testing.assert_allclose(cl.normalize_columns(confusion), by_column)


@settings(deadline=None)
@given(pairs, pairs)
def test_matrices_of_parts_add_up(first, second):
    parts = [cl.confusion_matrix(*np.array(items).T, 4) for items in (first, second)]
    np.testing.assert_array_equal(sum(parts), cl.confusion_matrix(*np.array(first + second).T, 4))


def test_masked_images_change_nothing():
    mask = np.array([True] * 4 + [False] * 2)
    padded = cl.confusion_matrix(np.append(LABELS, [0, 9]), np.append(PREDICTIONS, [-1, 1]), 3, mask)
    np.testing.assert_array_equal(padded, LITERAL)


def test_jax_arrays_under_jit():
    counted = jax.jit(cl.confusion_matrix, static_argnums=2)(jnp.asarray(LABELS), jnp.asarray(PREDICTIONS), 3)
    assert isinstance(counted, jax.Array)
    np.testing.assert_array_equal(counted, LITERAL)
    for figure in (cl.accuracy, cl.balanced_accuracy, cl.recall, cl.precision, cl.f1):
        result = figure(counted)
        assert isinstance(result, jax.Array)
        np.testing.assert_allclose(result, figure(LITERAL), rtol=1e-6)


def test_figures_of_many_matrices_at_once():
    stack = np.stack([LITERAL, np.eye(3, dtype=int), np.zeros((3, 3), int)])
    np.testing.assert_allclose(cl.accuracy(stack), [0.5, 1, 0])
    np.testing.assert_allclose(cl.balanced_accuracy(stack), [1 / 3, 1, 0])
    assert cl.f1(stack).shape == (3, 3)


@pytest.mark.parametrize(
    "labels, predictions, what", [([0, 3], [0, 0], "label 3"), ([0, 1], [0, -1], "prediction -1")]
)
def test_class_out_of_range(labels, predictions, what):
    with pytest.raises(DataError, match=f"{what} is outside 0..2"):
        cl.confusion_matrix(np.array(labels), np.array(predictions), 3)


def test_confusion_by_source():
    names, matrices = cl.confusion_by_source(LABELS, PREDICTIONS, ["b", "a", "b", "c"], 3)
    assert names == ("a", "b", "c")
    np.testing.assert_array_equal(matrices.sum(axis=0), LITERAL)
    np.testing.assert_array_equal(matrices[1], [[1, 0, 1], [0, 0, 0], [0, 0, 0]])
    with pytest.raises(DataError, match="one of each per image"):
        cl.confusion_by_source(LABELS, PREDICTIONS, ["b"], 3)


def test_per_source_accuracy_worst_first():
    result = cl.per_source_accuracy(LABELS, PREDICTIONS, ["b", "a", "b", "c"])
    assert list(result.items()) == [("c", 0.0), ("b", 0.5), ("a", 1.0)]


def test_calibration_literal():
    # Two bins of width 1/2: confidences 0.6 and 1.0 lie in the upper one, one of the two is right.
    probabilities = np.array([[0.6, 0.4], [0.0, 1.0]])
    labels = np.array([0, 0])
    np.testing.assert_allclose(cl.calibration_table(probabilities, labels, 2), [[0, 0, 0], [2, 1.6, 1]])
    assert cl.expected_calibration_error(probabilities, labels, 2) == pytest.approx(0.3)


def test_calibrated_predictions_have_no_error():
    probabilities = np.tile([0.75, 0.25], (4, 1))
    assert cl.expected_calibration_error(probabilities, np.array([0, 0, 0, 1])) == pytest.approx(0)


def test_bin_edges_belong_to_the_lower_bin():
    probabilities = np.array([[0.5, 0.5]])
    assert cl.calibration_table(probabilities, np.array([0]), 2)[:, 0].tolist() == [1, 0]
    assert cl.calibration_table(np.zeros((1, 2)), np.array([0]), 2)[:, 0].tolist() == [1, 0]


def test_calibration_equals_a_plain_loop():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), 200)
    labels = rng.integers(0, 4, 200)
    total = 0.0
    for k in range(15):
        inside = [i for i in range(200) if k / 15 < probabilities[i].max() <= (k + 1) / 15]
        if inside:
            confidence = np.mean([probabilities[i].max() for i in inside])
            accuracy = np.mean([probabilities[i].argmax() == labels[i] for i in inside])
            total += len(inside) / 200 * abs(confidence - accuracy)
    assert cl.expected_calibration_error(probabilities, labels) == pytest.approx(total)
    on_device = jax.jit(cl.expected_calibration_error)(jnp.asarray(probabilities), jnp.asarray(labels))
    assert float(on_device) == pytest.approx(total, abs=1e-5)


def test_calibration_tables_of_parts_add_up_and_masked_images_count_nothing():
    rng = np.random.default_rng(1)
    probabilities, labels = rng.dirichlet(np.ones(4), 30), rng.integers(0, 4, 30)
    whole = cl.calibration_table(probabilities, labels)
    first = cl.calibration_table(probabilities, labels, mask=np.arange(30) < 10)
    second = cl.calibration_table(probabilities[10:], labels[10:])
    np.testing.assert_allclose(first + second, whole)
