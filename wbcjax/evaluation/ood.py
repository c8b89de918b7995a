"""Images that are none of the classes: scores of how far out one lies, and how well they tell it from the rest.

Every score is higher the further out an image lies. Figures take scores of images in and out of the distribution with
weights ``(samples, n)``, as ``bootstrap_images`` gives them; accepting images of the distribution counts as the
positive decision, so the false positive rate is the share of foreign images that is accepted.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from wbcjax.errors import DataError
from wbcjax.evaluation.calibration import softmax
from wbcjax.evaluation.ranking import steps

SHRINKAGE = 1e-2
"""Share of the mean variance in the covariance of ``fit_gaussians``: features that are always 0 have none of their
own."""


def max_softmax(logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n"]:
    """1 - the largest probability (Hendrycks and Gimpel 2017)."""
    return 1 - softmax(logits).max(axis=1)


def energy(logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n"]:
    """-log of the summed exponentials of the logits (Liu et al. 2020)."""
    largest = logits.max(axis=1).astype(np.float64)
    return -(largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1)))


class Gaussians(NamedTuple):
    """One Gaussian a class, of a common covariance."""

    means: Float[np.ndarray, "c f"]
    whitening: Float[np.ndarray, "f f"]
    """Features times this have the unit matrix as covariance."""


def fit_gaussians(features: Float[np.ndarray, "n f"], labels: Int[np.ndarray, "n"]) -> Gaussians:
    """Class means and the common covariance of training features (Lee et al. 2018), shrunk by ``SHRINKAGE``.

    Raises:
      DataError: without features, or if they do not vary within a class.
    """
    if not len(features) or len(features) != len(labels):
        raise DataError(f"{len(features)} features with {len(labels)} labels: give one label each, and at least one")
    features = features.astype(np.float64)
    classes, index = np.unique(labels, return_inverse=True)
    means = np.stack([features[index == k].mean(axis=0) for k in range(len(classes))])
    within = features - means[index]
    covariance = within.T @ within / len(features)
    scale = np.trace(covariance) / len(covariance)
    if not scale > 0:
        raise DataError("features of one class are all alike: no distance can be measured in them")
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * scale * np.eye(len(covariance))
    return Gaussians(means, np.linalg.cholesky(np.linalg.inv(covariance)))


def mahalanobis(features: Float[np.ndarray, "n f"], fitted: Gaussians) -> Float[np.ndarray, "n"]:
    """Squared Mahalanobis distance from the nearest class mean."""
    white, means = features.astype(np.float64) @ fitted.whitening, fitted.means @ fitted.whitening
    return np.stack([((white - mean) ** 2).sum(axis=1) for mean in means]).min(axis=0)


def nearest_neighbours(
    features: Float[np.ndarray, "n f"], train: Float[np.ndarray, "m f"], k: int = 50
) -> Float[np.ndarray, "n"]:
    """Distance from the ``k``-th nearest training feature, all scaled to length 1 (Sun et al. 2022).

    Raises:
      DataError: if there are fewer than ``k`` training features.
    """
    if not 1 <= k <= len(train):
        raise DataError(f"k = {k} of {len(train)} training features is impossible: give 1..{len(train)}")
    near, far = _unit(features), _unit(train)
    squared = np.maximum(2 - 2 * near @ far.T, 0)
    return np.sqrt(np.partition(squared, k - 1, axis=1)[:, k - 1])


def auroc(
    scores: Float[np.ndarray, "n"], out: Bool[np.ndarray, "n"], weights: Float[np.ndarray, "samples n"]
) -> Float[np.ndarray, "samples"]:
    """Area under the ROC: the chance that a foreign image (``out``) scores higher than one of the distribution, ties
    counting half."""
    inside, outside = steps(scores, weights * ~out, weights * out)
    below = np.cumsum(inside, axis=1) - inside / 2
    return (outside * below).sum(axis=1) / (inside.sum(axis=1) * outside.sum(axis=1))


def false_positive_rate(
    scores: Float[np.ndarray, "n"],
    out: Bool[np.ndarray, "n"],
    weights: Float[np.ndarray, "samples n"],
    true_positive_rate: float | int = 0.95,
) -> Float[np.ndarray, "samples"]:
    """Share of the foreign images accepted at the lowest threshold that accepts this share of the distribution's."""
    inside, outside = (np.cumsum(part, axis=1) for part in steps(scores, weights * ~out, weights * out))
    reached = inside >= true_positive_rate * inside[:, -1:] * (1 - 1e-12)  # sums of weights are rounded
    at = reached.argmax(axis=1)[:, None]
    return np.take_along_axis(outside, at, axis=1)[:, 0] / outside[:, -1]


def roc(
    scores: Float[np.ndarray, "n"], out: Bool[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """False and true positive rates at every threshold, from (0, 0) to (1, 1)."""
    weights = np.ones((1, len(scores)))
    inside, outside = (np.cumsum(part[0]) for part in steps(scores, weights * ~out, weights * out))
    return np.r_[0, outside / outside[-1]], np.r_[0, inside / inside[-1]]


def _unit(features: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n f"]:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(length, 1e-12)
