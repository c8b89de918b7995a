"""How far probabilities can be believed: temperature scaling, likelihood, Brier score, calibration in equal-mass bins.

Everything here is NumPy in float64. The expected calibration error in bins of equal width is in ``classification``. Its
bins are nearly empty but for the last when a network is sure of most images; bins of equal mass hold the same number of
images each (Nguyen and O'Connor 2015), so no gap rests on a handful of images.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from wbcjax.errors import DataError
from wbcjax.evaluation.uncertainty import Interval, groups_of

LIMITS = (1e-2, 1e2)
"""Temperatures outside are not looked for: a network that is always right wants 0, one that knows nothing infinity."""


def log_softmax(logits: Float[np.ndarray, "*batch c"]) -> Float[np.ndarray, "*batch c"]:
    """Logarithm of the class probabilities, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(logits: Float[np.ndarray, "*batch c"], temperature: float | int = 1.0) -> Float[np.ndarray, "*batch c"]:
    """Class probabilities of logits over ``temperature`` (above 0), in float64."""
    return np.exp(log_softmax(logits.astype(np.float64) / temperature))


def negative_log_likelihood(
    probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n"]:
    """-log of the true class's probability, in nats, of each image; infinite where that is 0."""
    with np.errstate(divide="ignore"):
        return -np.log(probabilities[np.arange(len(labels)), labels])


def brier(probabilities: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Squared distance of the probabilities from the truth, summed over classes, of each image: 0..2 (Brier 1950)."""
    return ((probabilities - np.eye(probabilities.shape[1])[labels]) ** 2).sum(axis=1)


def fit_temperature(
    logits: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n"], *, tolerance: float = 1e-10
) -> float:
    """The temperature of the smallest mean negative log-likelihood (Guo et al. 2017), within ``LIMITS``.

    In 1/T the likelihood is convex: its derivative is the mean over images of the logit expected under the model less
    the true class's, its second derivative the mean variance of the logit. Newton's steps find the root; one that
    leaves the bracket is replaced by its middle, so it is always found.

    Raises:
      DataError: if there is no image, or a logit is not finite.
    """
    if not len(labels) or not np.isfinite(logits).all():
        raise DataError(f"a temperature cannot be fitted to {len(labels)} images with logits up to "
                        f"{np.max(logits, initial=-np.inf)}: give at least one image, and finite logits")
    scores = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    true = scores[np.arange(len(labels)), labels]

    def slope(beta: float) -> tuple[float, float]:
        p = softmax(beta * scores)
        mean = (p * scores).sum(axis=1)
        return float((mean - true).mean()), float(((p * scores**2).sum(axis=1) - mean**2).mean())

    low, high = 1 / LIMITS[1], 1 / LIMITS[0]
    if slope(low)[0] >= 0:
        return LIMITS[1]
    if slope(high)[0] <= 0:
        return LIMITS[0]
    beta = 1.0
    while high - low > tolerance * beta:
        value, curvature = slope(beta)
        low, high = (beta, high) if value < 0 else (low, beta)
        step = beta - value / curvature if curvature > 0 else low
        following = step if low < step < high else (low + high) / 2
        if abs(following - beta) <= tolerance * beta:
            return 1 / following
        beta = following
    return 1 / beta


def equal_mass_edges(confidence: Float[np.ndarray, "n"], bins: int = 15) -> Float[np.ndarray, "edges"]:
    """Upper bounds of all bins but the last, each with as many images as the others, as far as equal confidences, which
    stay together, allow."""
    return np.unique(np.quantile(confidence, np.arange(1, bins) / bins, method="inverted_cdf"))


def binned(
    confidence: Float[np.ndarray, "n"], right: Bool[np.ndarray, "n"], edges: Float[np.ndarray, "edges"]
) -> Float[np.ndarray, "bins 3"]:
    """Images, summed confidence and right predictions of each bin, as ``classification.calibration_table`` gives them;
    bin k holds edge k-1 < confidence <= edge k."""
    index = np.searchsorted(edges, confidence, side="left")
    columns = (np.ones_like(confidence), confidence, right.astype(np.float64))
    return np.stack([np.bincount(index, column, minlength=len(edges) + 1) for column in columns], axis=1)


def tables_by_source(
    confidence: Float[np.ndarray, "n"],
    right: Bool[np.ndarray, "n"],
    edges: Float[np.ndarray, "edges"],
    sources: Sequence[str],
) -> Float[np.ndarray, "sources bins 3"]:
    """``binned`` of each original, by their sorted names: what ``bootstrap(…, calibration_error)`` takes."""
    names, index = np.unique(np.asarray(sources, str), return_inverse=True)
    return np.stack([binned(confidence[index == k], right[index == k], edges) for k in range(len(names))])


def calibrated_error(
    confidence: Float[np.ndarray, "n"],
    edges: Float[np.ndarray, "edges"],
    sources: Sequence[str],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Interval:
    """Expected calibration error that a perfectly calibrated network shows by chance on these images: its mean, and the
    bounds of 95 % of the draws.

    One uniform number an original decides which of its copies are read right, those of confidence above it: each image
    is right with the probability that it states, and copies of one cell are right or wrong together, as far as their
    confidences allow. An error within these bounds is no evidence against calibration.
    """
    index = groups_of(sources)
    place = np.searchsorted(edges, confidence, side="left")
    member = np.eye(len(edges) + 1)[place]  # (n, bins)
    uniform = np.random.default_rng(seed).random((draws, int(index.max()) + 1))
    gap = ((uniform[:, index] < confidence) - confidence) @ member
    errors = np.abs(gap).sum(axis=1) / len(confidence)
    low, high = np.quantile(errors, [0.025, 0.975])
    return Interval(float(errors.mean()), float(low), float(high))
