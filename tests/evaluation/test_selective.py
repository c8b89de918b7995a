"""Abstention: curves by hand, ties, and weights that repeat images."""

import numpy as np
import pytest

from wbcjax.errors import ConfigError
from wbcjax.evaluation.ranking import steps
from wbcjax.evaluation.selective import aurc, risk_coverage, selective_accuracy


def ones(n):
    return np.ones((1, n))


def test_four_images_by_hand():
    confidence, right = np.array([0.6, 0.9, 0.7, 0.8]), np.array([False, True, False, True])
    np.testing.assert_allclose(risk_coverage(confidence, right, [0.25, 0.5, 0.75, 1.0]), [0, 0, 1 / 3, 1 / 2])
    np.testing.assert_allclose(aurc(confidence, right, ones(4)), [(0 + 0 + 1 / 3 + 1 / 2) / 4])
    np.testing.assert_allclose(selective_accuracy(confidence, right, ones(4), 0.625), [2 / 2.5])  # half of the third


def test_equal_confidences_cannot_be_parted():
    confidence = np.full(4, 0.9)
    for right in (np.array([True, False, False, False]), np.array([False, False, False, True])):
        np.testing.assert_allclose(risk_coverage(confidence, right, [0.25, 0.5, 1.0]), [0.75, 0.75, 0.75])
        np.testing.assert_allclose(aurc(confidence, right, ones(4)), [0.75])


def test_perfect_and_useless_confidence():
    rng = np.random.default_rng(0)
    right = rng.random(5000) < 0.8
    assert aurc(rng.random(5000), right, ones(5000))[0] == pytest.approx(0.2, abs=0.02)
    assert aurc(rng.random(50), np.ones(50, bool), ones(50))[0] == 0
    # Of the best possible order the risk is 0 up to 80 %, then (c - 0.8) / c: e + (1 - e) log(1 - e).
    e = (~right).mean()
    assert aurc(right.astype(float) + rng.random(5000) / 2, right, ones(5000))[0] == pytest.approx(
        e + (1 - e) * np.log(1 - e), abs=1e-3)


def test_weights_repeat_images():
    rng = np.random.default_rng(1)
    confidence, right = rng.integers(0, 5, 30) / 5, rng.random(30) < 0.7
    weights = rng.integers(0, 4, (6, 30)).astype(float)
    for k, weight in enumerate(weights):
        again = np.repeat(np.arange(30), weight.astype(int))
        plain = confidence[again], right[again], ones(len(again))
        assert aurc(confidence, right, weights)[k] == pytest.approx(aurc(*plain)[0])
        assert selective_accuracy(confidence, right, weights, 0.9)[k] == pytest.approx(
            selective_accuracy(*plain, 0.9)[0])


def test_steps():
    summed, = steps(np.array([2.0, 1.0, 2.0]), np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]]))
    np.testing.assert_array_equal(summed, [[2, 4], [0, 1]])


@pytest.mark.parametrize("coverage", [0, 1.1])
def test_impossible_coverage(coverage):
    with pytest.raises(ConfigError, match="expected 0 < coverage <= 1"):
        selective_accuracy(np.ones(2), np.ones(2, bool), ones(2), coverage)
