"""95 % intervals by bootstrap over originals within class.

The images of one original are copies of one cell: they are right or wrong together, so resampling files would
give intervals several times too narrow. Here originals are drawn with replacement, within each class (the
numbers of originals of the classes stay what they are), and all images of an original go together.

A class of few originals makes its interval narrow and coarse (four monocyte originals allow few distinct
samples, a single one only itself): intervals are then too short, as those of any percentile bootstrap.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Num

from wbcjax.errors import DataError
from wbcjax.evaluation.classification import accuracy


class Interval(NamedTuple):
    """A figure and the bounds of its interval, None where it has none: ``row(..., **interval._asdict())``."""

    value: float
    low: float | None = None
    high: float | None = None


def bootstrap(
    totals: Num[np.ndarray, "sources *shape"],
    statistic: Callable = accuracy,
    *,
    classes: Int[np.ndarray, "sources"] | None = None,
    n_boot: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Percentile interval of a statistic, from the sums over each original's images.

    Args:
      totals: for each original what adds up over its images: its confusion matrix (``confusion_by_source``),
        or any other sufficient statistic such as its calibration table.
      statistic: maps sums of totals ``(n_boot, *shape)`` to ``(n_boot,)``: ``accuracy``,
        ``balanced_accuracy``, ``lambda c: recall(c)[..., k]``, ``calibration_error``.
      classes: the class of each original; None reads it from confusion matrices (the row that has counts).
      level: share of the bootstrap distribution inside the interval.

    Returns:
      The statistic of the set itself with its bounds. The interval is extended to hold the value, which a
      biased statistic (a calibration error) may have outside its own bootstrap distribution.

    Raises:
      DataError: there is no original with images, or one has images of several classes.
    """
    if classes is None:
        totals, classes = _classes_of(totals)
    if not len(totals) or len(classes) != len(totals):
        raise DataError(f"{len(totals)} originals with {len(classes)} classes: an interval needs at least "
                        "one original, and the class of each")
    weights = resample(classes, n_boot, seed)
    flat = totals.reshape(len(totals), -1).astype(np.float64)
    sums = (weights @ flat).reshape(n_boot, *totals.shape[1:])
    return _interval(statistic(flat.sum(axis=0).reshape(1, *totals.shape[1:])), statistic(sums), level)


def bootstrap_images(
    statistic: Callable,
    sources: Sequence[str],
    strata: Int[np.ndarray, "n"],
    *,
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """As ``bootstrap``, of a statistic that is no function of sums over originals, such as one of ranks.

    Args:
      statistic: maps weights of the images ``(n_boot, n)``, how often each stands in the sample, to ``(n_boot,)``.
      sources: the original of each image.
      strata: the class of each image; that of an original is its first image's.

    Raises:
      DataError: there is no image, or lengths differ.
    """
    if not len(sources) or len(strata) != len(sources):
        raise DataError(f"{len(sources)} sources and {len(strata)} strata: give one of each per image, and at least "
                        "one image")
    index = groups_of(sources)
    _, first = np.unique(index, return_index=True)
    weights = resample(strata[first], n_boot, seed)[:, index]
    return _interval(statistic(np.ones((1, len(index)))), statistic(weights), level)


def bootstrap_mean(
    values: Float[np.ndarray, "n"], sources: Sequence[str], labels: Int[np.ndarray, "n"], **options
) -> Interval:
    """Mean of one figure an image, and its interval over originals within class.

    Args:
      sources: the original of each image; where each image is its own, any different names.
      labels: the class of each image; that of an original is its first image's.
      options: of ``bootstrap``.

    Raises:
      DataError: as ``bootstrap`` does, or lengths differ.
    """
    if not len(values) == len(sources) == len(labels):
        raise DataError(f"{len(values)} values, {len(sources)} sources and {len(labels)} labels: give one of each per "
                        "image")
    number = groups_of(sources)
    _, first = np.unique(number, return_index=True)
    totals = np.stack([np.bincount(number, weights=weights) for weights in (values, np.ones(len(values)))], axis=1)
    return bootstrap(totals, lambda sums: sums[:, 0] / sums[:, 1], classes=labels[first], **options)


def groups_of(sources: Sequence[str]) -> Int[np.ndarray, "n"]:
    """Number of the original of each image, in the order of their names."""
    return np.unique(np.asarray(sources, str), return_inverse=True)[1]


def _interval(of_set: Num[np.ndarray, "1"], of_samples: Num[np.ndarray, "n_boot"], level: float) -> Interval:
    """The statistic of the set, and the percentiles of those of its samples, extended to hold it."""
    value, tail = float(of_set[0]), (1 - level) / 2
    low, high = np.quantile(np.asarray(of_samples, np.float64), [tail, 1 - tail])
    return Interval(value, min(float(low), value), max(float(high), value))


def resample(
    classes: Int[np.ndarray, "sources"], n_boot: int, seed: int
) -> Float[np.ndarray, "n_boot sources"]:
    """How often each original is drawn in each sample; a class keeps its number of originals."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((n_boot, len(classes)))
    for cls in np.unique(classes):
        members = np.flatnonzero(classes == cls)
        size = len(members)
        weights[:, members] = rng.multinomial(size, np.full(size, 1 / size), size=n_boot)
    return weights


def _classes_of(
    confusions: Num[np.ndarray, "sources c c"],
) -> tuple[Num[np.ndarray, "kept c c"], Int[np.ndarray, "kept"]]:
    """Originals that have images, and their class: the one row of their confusion matrix that has counts."""
    counts = confusions.sum(axis=2)
    several = (counts > 0).sum(axis=1) > 1
    if several.any():
        worst = int(np.argmax(several))
        rows = np.flatnonzero(counts[worst]).tolist()
        raise DataError(f"original {worst} has images of several classes (rows {rows} of its matrix); give "
                        "each class its own sources, or pass classes=")
    kept = counts.any(axis=1)
    return confusions[kept], counts[kept].argmax(axis=1)
