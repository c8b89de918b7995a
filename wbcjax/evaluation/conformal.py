"""Conformal prediction: sets of classes that hold the true one with a promised probability, for originals.

The files are copies of few originals, and copies of one cell are not exchangeable with those of others: counted as if
they were, 9,957 files would promise a precision that 277 originals cannot keep. Exchangeable are whole originals, in
the two-layer sense of Dunn, Wasserman and Ramdas (2023): an original is drawn, then copies of it. The quantile here is
that of hierarchical conformal prediction (Lee, Barber and Willett 2023): each of the K originals weighs 1/(K + 1),
shared by its copies, and the rest lies at infinity. Then a random copy of a new original is covered with probability
1 - alpha or more, whatever the numbers of copies; no copy is drawn and the others thrown away, as subsampling does, and
unlike with pooled distributions the promise holds for any K. With one copy an original it is the usual quantile,
the ceil((K + 1)(1 - alpha))-th smallest score. ``worst_copy`` gives sets that hold for all copies of an original
together.

A score is higher the less a class fits.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from wbcjax.errors import DataError
from wbcjax.evaluation.uncertainty import groups_of

SLACK = 1e-12
"""Sums of weights are rounded; none of them comes so close to 1 - alpha from below by chance."""


def least_ambiguous(probabilities: Float[np.ndarray, "n c"]) -> Float[np.ndarray, "n c"]:
    """1 - the class's probability: the smallest sets on average (LAC; Sadinle, Lei and Wasserman 2019)."""
    return 1 - probabilities


def adaptive(
    probabilities: Float[np.ndarray, "n c"],
    penalty: float = 0.0,
    free: int = 1,
    *,
    cut: Float[np.ndarray, "n"] | None = None,
) -> Float[np.ndarray, "n c"]:
    """Summed probability down to the class by falling probability (APS; Romano, Sesia and Candès 2020), plus
    ``penalty`` for each rank beyond the first ``free`` (RAPS; Angelopoulos et al. 2021).

    Args:
      cut: a uniform random number an image, the share of the class's own probability that is left out of its sum.
        Without it a network that is sure of most images gets sets of two classes almost always, since the scores of
        the first and of the second class are then both next to 1.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    summed = np.cumsum(ranked, axis=1) - (0 if cut is None else cut[:, None] * ranked)
    summed += penalty * np.maximum(np.arange(1, probabilities.shape[1] + 1) - free, 0)
    scores = np.empty_like(summed)
    np.put_along_axis(scores, order, summed, axis=1)
    return scores


def true_scores(scores: Float[np.ndarray, "n c"], labels: Int[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Each image's score of its true class."""
    return scores[np.arange(len(labels)), labels]


def worst_copy(
    scores: Float[np.ndarray, "n"], sources: Sequence[str]
) -> tuple[Float[np.ndarray, "originals"], list[str]]:
    """The largest score of each original's copies, and the originals' names: calibrated on these, sets hold the true
    class on all copies of an original at once."""
    index = groups_of(sources)
    worst = np.full(index.max(initial=-1) + 1, -np.inf)
    np.maximum.at(worst, index, scores)
    return worst, sorted(set(sources))


def source_weights(sources: Sequence[str]) -> Float[np.ndarray, "n"]:
    """Weight of each copy: 1/(K + 1) over the number of its original's copies, with K originals."""
    index = groups_of(sources)
    copies = np.bincount(index)
    return 1 / ((len(copies) + 1) * copies[index])


def threshold(scores: Float[np.ndarray, "n"], sources: Sequence[str], alpha: float) -> float:
    """The largest score that a class in the set may have; infinite where there are too few originals for 1 - alpha.

    Args:
      scores: of the true class of each calibration image.
      sources: the original of each.
      alpha: the probability to miss the true class, in (0, 1).

    Raises:
      DataError: without a score, or for an alpha outside (0, 1).
    """
    if not len(scores) or len(scores) != len(sources) or not 0 < alpha < 1:
        raise DataError(f"{len(scores)} scores of {len(sources)} sources at alpha = {alpha}: give one source each, at "
                        "least one, and 0 < alpha < 1")
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(source_weights(sources)[order]) >= 1 - alpha - SLACK
    return float(scores[order][reached.argmax()]) if reached.any() else np.inf


def cross_conformal_sets(
    scores: Float[np.ndarray, "n"],
    sources: Sequence[str],
    folds: Int[np.ndarray, "n"],
    test_scores: Float[np.ndarray, "folds m c"],
    alpha: float,
) -> Bool[np.ndarray, "m c"]:
    """Sets from networks that each left out one fold (CV+; Romano, Sesia and Candès 2020), with originals weighted as
    in ``threshold``: a class is in unless its score, by the network that left out an image, is above that image's for a
    weight of 1 - alpha. Covers 1 - 2 alpha at least, and about 1 - alpha in practice.

    Args:
      scores: of the true class of each training image, by the network of its fold.
      folds: 0..folds-1 of each.
      test_scores: of every class of the new images, by each fold's network.
    """
    weights = source_weights(sources)
    above = np.zeros(test_scores.shape[1:])
    for fold, new in enumerate(test_scores):
        members = np.flatnonzero(folds == fold)
        members = members[np.argsort(scores[members], kind="stable")]
        below = np.r_[0, np.cumsum(weights[members])]
        above += below[np.searchsorted(scores[members], new, side="left")]
    return above < 1 - alpha - SLACK


def class_thresholds(
    scores: Float[np.ndarray, "n"],
    labels: Int[np.ndarray, "n"],
    sources: Sequence[str],
    alpha: float,
    num_classes: int,
) -> Float[np.ndarray, "c"]:
    """``threshold`` of each class on its own images: coverage within every class (Vovk 2012). A class needs
    1/alpha - 1 originals or more; with fewer, or none, it is in every set."""
    sources = np.asarray(sources, str)
    return np.array([threshold(scores[labels == k], sources[labels == k].tolist(), alpha) if (labels == k).any()
                     else np.inf for k in range(num_classes)])
