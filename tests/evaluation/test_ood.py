"""Scores of foreign images: distances by hand, the area under the ROC against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import NearestNeighbors

from wbcjax.errors import DataError
from wbcjax.evaluation import ood
from wbcjax.evaluation.uncertainty import bootstrap_images


def sample(seed, n=80):
    rng = np.random.default_rng(seed)
    out = rng.random(n) < 0.4
    return np.round(rng.normal(size=n) + out, 1), out  # rounded: many scores are equal


def ones(n):
    return np.ones((1, n))


def test_scores_of_logits_by_hand():
    logits = np.log(np.array([[1.0, 1.0, 2.0], [4.0, 4.0, 8.0]]))
    np.testing.assert_allclose(ood.max_softmax(logits), [0.5, 0.5])
    np.testing.assert_allclose(ood.energy(logits), [-np.log(4), -np.log(16)])
    np.testing.assert_allclose(ood.energy(np.float32([[1000, 0]])), [-1000])


@pytest.mark.parametrize("seed", range(4))
def test_area_is_that_of_scikit_learn(seed):
    scores, out = sample(seed)
    assert ood.auroc(scores, out, ones(80))[0] == pytest.approx(roc_auc_score(out, scores))
    # Accepting images of the distribution is the positive decision: the curve of the negated score.
    false, true, _ = roc_curve(~out, -scores, drop_intermediate=False)
    np.testing.assert_allclose(ood.roc(scores, out), (false, true))
    assert ood.false_positive_rate(scores, out, ones(80))[0] == pytest.approx(false[(true >= 0.95).argmax()])


def test_extremes():
    out = np.arange(20) >= 10
    assert ood.auroc(out.astype(float), out, ones(20)) == 1
    assert ood.false_positive_rate(out.astype(float), out, ones(20)) == 0
    assert ood.auroc(1 - out.astype(float), out, ones(20)) == 0
    assert ood.auroc(np.zeros(20), out, ones(20)) == 0.5
    assert ood.false_positive_rate(np.zeros(20), out, ones(20)) == 1


def test_weights_repeat_images():
    scores, out = sample(9, 40)
    weights = np.random.default_rng(0).integers(0, 3, (5, 40)).astype(float)
    for k, weight in enumerate(weights):
        again = np.repeat(np.arange(40), weight.astype(int))
        assert ood.auroc(scores, out, weights)[k] == pytest.approx(roc_auc_score(out[again], scores[again]))
        assert ood.false_positive_rate(scores, out, weights)[k] == pytest.approx(
            ood.false_positive_rate(scores[again], out[again], ones(len(again)))[0])


def test_mahalanobis():
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 2
    features = rng.normal(size=(4000, 3)) * [1, 2, 0] + np.c_[10.0 * labels, 0 * labels, 0 * labels]
    fitted = ood.fit_gaussians(features, labels)
    np.testing.assert_allclose(fitted.means, [[0, 0, 0], [10, 0, 0]], atol=0.1)
    new = np.array([[0.0, 0, 0], [10, 4, 0], [5, 0, 0], [0, 0, 1]])
    found = ood.mahalanobis(new, fitted)
    np.testing.assert_allclose(found[:3], [0, 4, 25], atol=1.5)
    assert found[3] > 50  # along a feature that never varied, a little is far
    by_hand = np.linalg.inv(fitted.whitening @ fitted.whitening.T)
    covariance = np.cov((features - fitted.means[labels]).T, bias=True)
    np.testing.assert_allclose(by_hand, 0.99 * covariance + 0.01 * np.trace(covariance) / 3 * np.eye(3), atol=1e-6)


def test_nearest_neighbours_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    train, new = rng.normal(size=(60, 5)), rng.normal(size=(7, 5))
    unit = lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)  # noqa: E731
    distances, _ = NearestNeighbors(n_neighbors=4).fit(unit(train)).kneighbors(unit(new))
    np.testing.assert_allclose(ood.nearest_neighbours(new, train, 4), distances[:, -1])
    np.testing.assert_allclose(ood.nearest_neighbours(3 * train[:2], train, 1), 0, atol=1e-7)


def test_bootstrap_takes_originals_whole():
    # Four foreign originals of ten images: two far out, two in the middle of the others.
    scores = np.r_[np.zeros(20), np.repeat([1.0, 1.0, 0.0, 0.0], 10)]
    out, sources = np.arange(60) >= 20, [f"s{k // 10}" for k in range(60)]
    area = bootstrap_images(lambda w: ood.auroc(scores, out, w), sources, out.astype(int))
    assert area == (0.75, 0.5, 1.0)


def test_nothing_to_fit():
    with pytest.raises(DataError, match="0 features"):
        ood.fit_gaussians(np.zeros((0, 3)), np.zeros(0, int))
    with pytest.raises(DataError, match="all alike"):
        ood.fit_gaussians(np.ones((3, 3)), np.zeros(3, int))
    with pytest.raises(DataError, match="k = 5 of 4"):
        ood.nearest_neighbours(np.ones((1, 2)), np.ones((4, 2)), 5)
    with pytest.raises(DataError, match="one of each per image"):
        bootstrap_images(lambda w: w[:, 0], [], np.zeros(0, int))
