"""Abstention: a network that leaves its least certain images to a person, and how wrong it is on the rest.

The risk–coverage curve gives the share of wrong predictions among the images whose confidence reaches a threshold,
against the share of images that does (El-Yaniv and Wiener 2010). AURC, the area under it, is the mean risk over the
images' own thresholds (Geifman, Uziel and El-Yaniv 2019): 0 for a network that is always right, its error rate for one
whose confidence says nothing. Weights are ``(samples, n)``, as ``bootstrap_images`` gives them.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from wbcjax.errors import ConfigError
from wbcjax.evaluation.ranking import steps


def selective_accuracy(
    confidence: Float[np.ndarray, "n"],
    right: Bool[np.ndarray, "n"],
    weights: Float[np.ndarray, "samples n"],
    coverage: float | int,
) -> Float[np.ndarray, "samples"]:
    """Accuracy on the most certain images, as many as make this share of all.

    Of images of equal confidence at the threshold the part that fills the share counts, with their mean accuracy.

    Raises:
      ConfigError: for a coverage outside (0, 1].
    """
    if not 0 < coverage <= 1:
        raise ConfigError(f"coverage = {coverage} is impossible: expected 0 < coverage <= 1")
    images, hits = steps(-confidence, weights, weights * right)
    wanted = coverage * images.sum(axis=1, keepdims=True)
    before = np.cumsum(images, axis=1) - images
    share = np.clip(wanted - before, 0, images) / np.maximum(images, 1e-300)
    return (share * hits).sum(axis=1) / wanted[:, 0]


def aurc(
    confidence: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"], weights: Float[np.ndarray, "samples n"]
) -> Float[np.ndarray, "samples"]:
    """Area under the risk–coverage curve: at each image's confidence the share of wrong ones among those at least as
    certain, averaged over the images."""
    images, wrong = steps(-confidence, weights, weights * ~right)
    seen = np.cumsum(images, axis=1)
    risk = np.cumsum(wrong, axis=1) / np.maximum(seen, 1e-300)
    return (images * risk).sum(axis=1) / seen[:, -1]


def risk_coverage(
    confidence: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"], coverages: Sequence[float]
) -> Float[np.ndarray, "coverages"]:
    """Share of wrong predictions among the most certain images, at each coverage."""
    weights = np.ones((1, len(right)))
    return np.array([1 - selective_accuracy(confidence, right, weights, c)[0] for c in coverages])
