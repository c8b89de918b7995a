"""Temperatures that are known, figures against scikit-learn, and errors of calibration that chance alone makes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from wbcjax.errors import DataError
from wbcjax.evaluation import calibration as cal
from wbcjax.evaluation.classification import calibration_error, calibration_table, expected_calibration_error


def drawn(seed, n=400, temperature=1.0):
    """Logits, and labels drawn from the softmax of logits / temperature."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, 4))
    p = cal.softmax(logits, temperature)
    return logits, (p.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)


def nll(logits, labels, temperature):
    return cal.negative_log_likelihood(cal.softmax(logits, temperature), labels).mean()


def test_two_classes_by_hand():
    # Three of four right with logits (a, 0): the likelihood wants sigmoid(a / T) = 3/4, so T = a / log 3.
    logits = np.tile([4.0, 0.0], (4, 1))
    assert cal.fit_temperature(logits, np.array([0, 0, 0, 1])) == pytest.approx(4 / np.log(3))
    np.testing.assert_allclose(cal.softmax(logits[0], 4 / np.log(3)), [0.75, 0.25])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_of_the_labels_is_found(temperature):
    assert cal.fit_temperature(*drawn(0, 20_000, temperature)) == pytest.approx(temperature, rel=0.05)


@given(st.integers(0, 1000), st.floats(0.05, 20))
def test_it_is_the_minimum(seed, scale):
    logits, labels = drawn(seed, 30)
    logits = logits * scale
    fitted = cal.fit_temperature(logits, labels)
    best = nll(logits, labels, fitted)
    assert best <= nll(logits, labels, 1) + 1e-12
    assert all(best <= nll(logits, labels, t) + 1e-12 for t in np.geomspace(*cal.LIMITS, 200))


def test_ends_of_the_range():
    logits = np.eye(3)
    assert cal.fit_temperature(logits, np.arange(3)) == cal.LIMITS[0]  # always right
    assert cal.fit_temperature(logits, np.array([1, 2, 0])) == cal.LIMITS[1]  # always wrong
    assert cal.fit_temperature(np.zeros((5, 3)), np.zeros(5, int)) == cal.LIMITS[1]  # says nothing


def test_nothing_to_fit():
    with pytest.raises(DataError, match="0 images"):
        cal.fit_temperature(np.zeros((0, 4)), np.zeros(0, int))
    with pytest.raises(DataError, match="finite"):
        cal.fit_temperature(np.array([[np.inf, 0.0]]), np.array([0]))


def test_likelihood_and_brier_are_those_of_scikit_learn():
    logits, labels = drawn(1)
    p = cal.softmax(logits)
    assert cal.negative_log_likelihood(p, labels).mean() == pytest.approx(log_loss(labels, p))
    assert cal.brier(p, labels).mean() == pytest.approx(brier_score_loss(labels, p, scale_by_half=False))
    np.testing.assert_allclose(cal.brier(np.eye(2), np.array([0, 0])), [0, 2])
    np.testing.assert_array_equal(cal.negative_log_likelihood(np.eye(2), np.array([0, 0])), [0, np.inf])


def test_large_logits_do_not_overflow():
    np.testing.assert_allclose(cal.softmax(np.float32([[1e4, 0, -1e4]])), [[1, 0, 0]])


def test_bins_of_equal_mass():
    confidence = np.arange(1, 13) / 12
    edges = cal.equal_mass_edges(confidence, 4)
    np.testing.assert_allclose(edges, [3 / 12, 6 / 12, 9 / 12])
    table = cal.binned(confidence, np.arange(12) % 2 == 0, edges)
    np.testing.assert_array_equal(table[:, 0], [3, 3, 3, 3])
    np.testing.assert_allclose(table[:, 1], [6 / 12, 15 / 12, 24 / 12, 33 / 12])
    np.testing.assert_array_equal(table[:, 2], [2, 1, 2, 1])
    # Bins of equal width have fixed edges, and give the same figures as the table that has them built in.
    width = cal.binned(confidence, np.ones(12, bool), np.arange(1, 4) / 4)
    np.testing.assert_allclose(width, calibration_table(np.c_[confidence, 0 * confidence], np.zeros(12, int), 4))


def test_equal_confidences_stay_together():
    confidence = np.array([0.5, 0.9, 0.9, 0.9, 0.9])
    edges = cal.equal_mass_edges(confidence, 5)
    np.testing.assert_allclose(edges, [0.5, 0.9])
    np.testing.assert_array_equal(cal.binned(confidence, confidence > 0, edges)[:, 0], [1, 4, 0])


def test_tables_of_originals_add_up():
    logits, labels = drawn(2)
    p = cal.softmax(logits)
    confidence, right = p.max(axis=1), p.argmax(axis=1) == labels
    edges = np.arange(1, 15) / 15
    tables = cal.tables_by_source(confidence, right, edges, [f"s{k % 7}" for k in range(400)])
    assert tables.shape == (7, 15, 3)
    error = calibration_error(tables.sum(axis=0))
    assert float(error) == pytest.approx(float(expected_calibration_error(p, labels)))


def test_error_by_chance():
    sources = [f"s{k}" for k in range(100)]
    confidence = np.full(100, 0.8)
    edges = np.array([])
    alone = cal.calibrated_error(confidence, edges, sources)
    # One bin: |K/100 - 0.8|, K ~ Binomial(100, 0.8), of mean deviation 0.0321 (0.8 std of 0.04).
    assert alone.value == pytest.approx(0.032, abs=0.002) and alone.low < 0.005 and 0.07 < alone.high < 0.09
    copies = cal.calibrated_error(np.full(1000, 0.8), edges, [f"s{k % 100}" for k in range(1000)])
    assert copies.value == pytest.approx(alone.value)  # more copies of the same originals are no more evidence
    one = cal.calibrated_error(np.full(50, 0.8), edges, ["s"] * 50)
    assert one.value == pytest.approx(0.8 * 0.2 + 0.2 * 0.8, abs=0.02)  # all right or all wrong
    assert cal.calibrated_error(np.ones(9), edges, sources[:9]) == (0, 0, 0)
