"""Confidence: by hand, what it promises in simulation, and impossible values."""

import math

import numpy as np
import pytest

from wbcjax.errors import ConfigError, DataError
from wbcjax.evaluation.calibration import fit_temperature, softmax
from wbcjax.evaluation.confidence import Confidence, fit_confidence


def drawn(seed, originals, copies=3, scale=2.5):
    """Logits too sure by ``scale``, nearly the same for all copies of an original."""
    rng = np.random.default_rng(seed)
    logits = 1.5 * rng.normal(size=(originals, 4))
    labels = (softmax(logits).cumsum(axis=1) < rng.random((originals, 1))).sum(axis=1).clip(0, 3)
    logits = np.repeat(logits, copies, axis=0) + 0.05 * rng.normal(size=(originals * copies, 4))
    sources = [f"s{k}" for k in range(originals) for _ in range(copies)]
    return scale * logits, np.repeat(labels, copies), sources


def test_sets_by_hand():
    confidence = Confidence(2.0, 0.7, 0.05, 20)
    p = confidence.probabilities(np.array([[2 * np.log(8.0), 2 * np.log(2.0), 0.0, 0.0]]))
    np.testing.assert_allclose(p, [[8 / 12, 2 / 12, 1 / 12, 1 / 12]])
    sets = confidence.sets(np.array([[0.65, 0.35, 0.0, 0.0], [0.8, 0.2, 0.0, 0.0], [0.25, 0.25, 0.29, 0.21]]))
    # From 0.3 on; the likeliest is in even where it is below.
    np.testing.assert_array_equal(sets, [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]])


def test_it_fits_the_temperature_and_keeps_its_promise_on_new_originals():
    confidence = fit_confidence(*drawn(0, 300), alpha=0.1)
    assert confidence.temperature == fit_temperature(*drawn(0, 300)[:2])
    assert 2 < confidence.temperature < 3.2 and confidence.originals == 300 and confidence.alpha == 0.1
    logits, labels, _ = drawn(1, 2000)
    sets = confidence.sets(confidence.probabilities(logits))
    covered = sets[np.arange(len(labels)), labels].mean()
    assert 0.87 < covered < 0.95  # 0.9 but for the draw of 300 and of 2000 originals
    assert 1 < sets.sum(axis=1).mean() < 3


def test_too_few_originals_promise_nothing_so_that_all_classes_are_candidates():
    confidence = fit_confidence(*drawn(0, 18))
    assert confidence.threshold == 1
    assert confidence.sets(np.array([[1.0, 0.0, 0.0, 0.0]])).all()


def test_what_cannot_be_fitted():
    logits, labels, sources = drawn(0, 20)
    with pytest.raises(DataError, match="temperature"):
        fit_confidence(logits[:0], labels[:0], [])
    with pytest.raises(DataError, match="alpha"):
        fit_confidence(logits, labels, sources, alpha=1.0)


@pytest.mark.parametrize(("name", "value"), [
    ("temperature", 0.0), ("temperature", -1.0), ("temperature", math.inf), ("temperature", math.nan),
    ("threshold", 1.1), ("threshold", -0.1), ("alpha", 0.0), ("alpha", 1.0), ("originals", 0),
])
def test_impossible_values_are_named(name, value):
    good = {"temperature": 1.0, "threshold": 0.5, "alpha": 0.05, "originals": 20}
    with pytest.raises(ConfigError, match=rf"confidence\.{name} = "):
        Confidence(**(good | {name: value}))
