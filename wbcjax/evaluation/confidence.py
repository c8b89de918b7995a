"""How far to trust a network on new cells, fitted on cells that it, or networks trained like it, had not seen.

A temperature for its probabilities, and sets of classes that hold the true one with a promised probability.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from wbcjax.config.base import require
from wbcjax.evaluation.calibration import fit_temperature, softmax
from wbcjax.evaluation.conformal import least_ambiguous, threshold, true_scores


@dataclass(frozen=True)
class Confidence:
    """What was fitted.

    Raises:
      ConfigError: if a value is impossible.
    """

    temperature: float
    """What logits are divided by, above 0."""
    threshold: float
    """1 - the smallest probability of a class in the set, 0..1."""
    alpha: float
    """The probability that the set of a new cell misses its class is at most this, in (0, 1)."""
    originals: int
    """Cells that it was fitted on."""

    def __post_init__(self) -> None:
        require(0 < self.temperature < np.inf, "confidence.temperature", self.temperature, "a finite number > 0")
        require(0 <= self.threshold <= 1, "confidence.threshold", self.threshold, "0..1")
        require(0 < self.alpha < 1, "confidence.alpha", self.alpha, "a number between 0 and 1")
        require(self.originals >= 1, "confidence.originals", self.originals, ">= 1")

    def probabilities(self, logits: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
        """Calibrated class probabilities (Guo et al. 2017)."""
        return softmax(logits, self.temperature)

    def sets(self, probabilities: Float[np.ndarray, "n c"]) -> Bool[np.ndarray, "n c"]:
        """The classes in the set of each image, the likeliest always (LAC; Sadinle, Lei and Wasserman 2019)."""
        likeliest = probabilities == probabilities.max(axis=1, keepdims=True)
        return likeliest | (least_ambiguous(probabilities) <= self.threshold)


def fit_confidence(
    logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n"], sources: Sequence[str], alpha: float = 0.05
) -> Confidence:
    """Fit both on images that the network had not seen, copies of an original weighing together as one.

    Where there are too few originals for ``alpha`` every class is in every set.

    Args:
      sources: the original of each image.

    Raises:
      DataError: if there is no image, a logit is not finite, or ``alpha`` outside (0, 1).
    """
    temperature = fit_temperature(logits, labels)
    scores = true_scores(least_ambiguous(softmax(logits, temperature)), labels)
    return Confidence(temperature, min(threshold(scores, sources, alpha), 1.0), alpha, len(set(sources)))
