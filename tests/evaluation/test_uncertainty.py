"""Bootstrap over originals within class: literal cases, and coverage by simulation."""

import numpy as np
import pytest

from wbcjax.errors import DataError
from wbcjax.evaluation import classification as cl
from wbcjax.evaluation.uncertainty import bootstrap, bootstrap_mean, resample


def confusions(right, copies, classes, num_classes=2):
    """Originals whose ``copies`` images are all right or all wrong."""
    matrices = np.zeros((len(right), num_classes, num_classes), int)
    for matrix, ok, cls in zip(matrices, right, classes, strict=True):
        matrix[cls, cls if ok else (cls + 1) % num_classes] = copies
    return matrices


def test_originals_that_are_right_or_wrong_as_a_whole():
    # One class of 4 originals, one of them wrong: the accuracy of a sample is K/4, K ~ Binomial(4, 3/4).
    # P(K = 0) = 0.4 %, P(K <= 1) = 5.1 %, P(K = 4) = 31.6 %: the 2.5 % and 97.5 % quantiles are 1/4 and 1.
    classes = [0, 0, 0, 0]
    for copies in (1, 1000):  # more copies of the same originals are no more evidence
        interval = bootstrap(confusions([1, 1, 1, 0], copies, classes), n_boot=4000)
        assert interval == (0.75, 0.25, 1.0)


def test_classes_keep_their_number_of_originals():
    weights = resample(np.array([0, 1, 1, 0, 2]), 500, seed=0)
    assert (weights[:, [0, 3]].sum(axis=1) == 2).all()
    assert (weights[:, [1, 2]].sum(axis=1) == 2).all()
    assert (weights[:, 4] == 1).all()
    assert set(np.unique(weights[:, 0])) == {0, 1, 2}


def test_a_class_of_one_original_does_not_vary():
    assert bootstrap(confusions([1, 0], 10, [0, 1])) == (0.5, 0.5, 0.5)


def test_equals_a_plain_loop_over_samples():
    rng = np.random.default_rng(3)
    classes = np.repeat([0, 1, 2], [5, 3, 8])
    matrices = np.zeros((16, 3, 3), int)
    matrices[np.arange(16), classes] = rng.integers(0, 20, (16, 3))
    values = []
    for weights in resample(classes, 200, seed=7):
        drawn = np.repeat(np.arange(16), weights.astype(int))
        values.append(cl.balanced_accuracy(matrices[drawn].sum(axis=0)))
    interval = bootstrap(matrices, cl.balanced_accuracy, n_boot=200, seed=7)
    assert interval.value == pytest.approx(float(cl.balanced_accuracy(matrices.sum(axis=0))))
    np.testing.assert_allclose(interval[1:], np.quantile(values, [0.025, 0.975]))


def test_same_seed_same_interval():
    matrices = confusions(np.random.default_rng(0).random(40) < 0.8, 3, np.arange(40) % 2)
    assert bootstrap(matrices, seed=1) == bootstrap(matrices, seed=1)


def test_one_figure_of_one_class():
    matrices = confusions([1, 1, 0, 1], 5, [0, 0, 1, 1])
    interval = bootstrap(matrices, lambda confusion: cl.recall(confusion)[..., 1])
    assert interval == (0.5, 0.0, 1.0)


def test_calibration_error_of_sources():
    rng = np.random.default_rng(0)
    probabilities, labels = rng.dirichlet(np.ones(2), 60), np.repeat([0, 1], 30)
    tables = np.stack([cl.calibration_table(probabilities[i::20], labels[i::20]) for i in range(20)])
    interval = bootstrap(tables, cl.calibration_error, classes=np.zeros(20, int))
    assert interval.value == pytest.approx(cl.expected_calibration_error(probabilities, labels))
    assert interval.low <= interval.value <= interval.high


def test_the_interval_holds_a_biased_value():
    # Originals present in a sample: 10 in the set itself, about 6.5 in a sample drawn with replacement.
    totals = np.eye(10)
    interval = bootstrap(totals, lambda sums: (sums > 0).sum(axis=-1), classes=np.zeros(10, int))
    assert interval.low < 7 and interval.value == interval.high == 10


def test_originals_without_images_are_left_out():
    matrices = confusions([1, 1, 0, 1], 5, [0, 0, 1, 1])
    padded = np.concatenate([matrices, np.zeros((3, 2, 2), int)])
    assert bootstrap(padded) == bootstrap(matrices)


def test_no_original():
    with pytest.raises(DataError, match="at least one original"):
        bootstrap(np.zeros((0, 2, 2), int))


def test_original_of_two_classes():
    with pytest.raises(DataError, match="original 1 has images of several classes"):
        bootstrap(np.array([[[1, 0], [0, 0]], [[1, 0], [0, 1]]]))


def test_coverage():
    """Originals of 10 images, each with its own accuracy: 95 % of the intervals hold the true mean."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 30)
    held, too_narrow = 0, 0
    for trial in range(200):
        right = rng.binomial(10, rng.beta(2, 1, 60))  # accuracy of a source ~ Beta(2, 1), mean 2/3
        matrices = np.zeros((60, 2, 2), int)
        matrices[np.arange(60), classes, classes] = right
        matrices[np.arange(60), classes, 1 - classes] = 10 - right
        low, high = bootstrap(matrices, n_boot=400, seed=trial)[1:]
        held += low <= 2 / 3 <= high
        half = 1.96 * np.sqrt(2 / 9 / 600)  # what counting files as independent would give
        too_narrow += abs(right.sum() / 600 - 2 / 3) <= half
    assert 0.90 <= held / 200 <= 0.99
    assert too_narrow < held


def test_mean_over_originals():
    values, sources, labels = np.array([1.0, 0.0, 0.0, 1.0]), ("b", "a", "a", "c"), np.array([0, 0, 0, 1])
    found = bootstrap_mean(values, sources, labels)
    assert found.value == 0.5, "images count, not originals"
    # Class 0 draws two of a (0, 0) and b (1); class 1 has c alone: from (0, 0, 0, 0, 1) to (1, 1, 1).
    assert found.low == pytest.approx(1 / 5) and found.high == 1
    alone = bootstrap_mean(np.full(3, 0.25), tuple("abc"), np.zeros(3, int))
    assert alone == (0.25, 0.25, 0.25)
    with pytest.raises(DataError, match="3 values, 2 sources"):
        bootstrap_mean(np.zeros(3), ("a", "b"), np.zeros(3, int))
