"""Conformal sets: quantiles by hand, and the promised coverage of new originals in simulation."""

import numpy as np
import pytest

from wbcjax.errors import DataError
from wbcjax.evaluation import conformal as cp


def names(n, copies=1):
    return [f"s{k:03}" for k in range(n) for _ in range(copies)]


def test_scores_by_hand():
    p = np.array([[0.5, 0.2, 0.3], [0.0, 1.0, 0.0]])
    np.testing.assert_allclose(cp.least_ambiguous(p), [[0.5, 0.8, 0.7], [1, 0, 1]])
    np.testing.assert_allclose(cp.adaptive(p)[0], [0.5, 1.0, 0.8])
    np.testing.assert_allclose(cp.adaptive(p, penalty=0.1)[0], [0.5, 1.2, 0.9])
    np.testing.assert_allclose(cp.adaptive(p, penalty=0.1, free=2)[0], [0.5, 1.1, 0.8])
    np.testing.assert_allclose(cp.adaptive(p, cut=np.array([0.5, 1.0])), [[0.25, 0.9, 0.65], [1, 0, 1]])
    np.testing.assert_allclose(cp.true_scores(cp.adaptive(p), np.array([2, 1])), [0.8, 1.0])


@pytest.mark.parametrize("n", [19, 20, 39, 277])
def test_one_copy_an_original_is_the_usual_quantile(n):
    scores = np.random.default_rng(n).permutation(n).astype(float)
    rank = int(np.ceil((n + 1) * 0.95 - 1e-9))
    assert cp.threshold(scores, names(n), 0.05) == rank - 1


def test_too_few_originals_promise_nothing():
    assert cp.threshold(np.zeros(18), names(18), 0.05) == np.inf
    assert cp.threshold(np.zeros(19), names(19), 0.05) == 0
    assert cp.threshold(np.zeros(18 * 50), names(18, 50), 0.05) == np.inf  # copies are no originals


def test_originals_weigh_the_same_whatever_their_copies():
    # Three originals at alpha 1/2: weights 1/4 each. Of "a" three copies, of the others one.
    scores, sources = np.array([1.0, 2.0, 3.0, 10.0, 20.0]), ["a", "a", "a", "b", "c"]
    np.testing.assert_allclose(cp.source_weights(sources), [1 / 12, 1 / 12, 1 / 12, 1 / 4, 1 / 4])
    assert cp.threshold(scores, sources, 0.5) == 10
    assert cp.threshold(scores, sources, 0.75) == 3
    worst, of = cp.worst_copy(scores, sources)
    np.testing.assert_array_equal(worst, [3, 10, 20])
    assert of == ["a", "b", "c"]


def clustered(rng, originals, copies=10):
    """Scores of originals whose copies share most of their error."""
    return rng.exponential(size=(originals, 1)) + 0.1 * rng.exponential(size=(originals, copies))


def test_coverage_of_new_originals():
    rng = np.random.default_rng(0)
    one, every = [], []
    for _ in range(400):
        scores = clustered(rng, 40)
        new = clustered(rng, 20)
        sources = names(40, 10)
        one.append((new <= cp.threshold(scores.ravel(), sources, 0.1)).mean())
        every.append((new.max(axis=1) <= cp.threshold(*cp.worst_copy(scores.ravel(), sources), 0.1)).mean())
    for covered in (one, every):
        assert 0.9 - 0.01 <= np.mean(covered) <= 0.93


def test_one_fold_is_split_conformal():
    rng = np.random.default_rng(1)
    scores, sources, new = rng.random(60), names(20, 3), rng.random((1, 30, 4))
    sets = cp.cross_conformal_sets(scores, sources, np.zeros(60, int), new, 0.2)
    np.testing.assert_array_equal(sets, new[0] <= cp.threshold(scores, sources, 0.2))


def test_cross_conformal_by_its_definition():
    rng = np.random.default_rng(2)
    scores, folds, new = rng.integers(0, 9, 24).astype(float), rng.integers(0, 3, 24), rng.integers(0, 9, (3, 7, 4)) / 1
    sources = names(8, 3)
    weights = cp.source_weights(sources)
    sets = cp.cross_conformal_sets(scores, sources, folds, new, 0.25)
    for i, c in np.ndindex(7, 4):
        above = sum(w for w, s, f in zip(weights, scores, folds, strict=True) if s < new[f, i, c])
        assert sets[i, c] == (above < 0.75 - 1e-12)


def test_thresholds_of_classes():
    labels = np.repeat([0, 1], [20, 10])
    found = cp.class_thresholds(np.arange(30.0), labels, names(30), 0.05, 3)
    np.testing.assert_array_equal(found, [19, np.inf, np.inf])


@pytest.mark.parametrize(("n", "alpha"), [(0, 0.05), (3, 0.0), (3, 1.0)])
def test_nothing_to_calibrate_on(n, alpha):
    with pytest.raises(DataError, match="give one source each"):
        cp.threshold(np.zeros(n), names(n), alpha)
