"""Classification figures from confusion matrices: Tables 4–7 and 9 of the paper.

The confusion matrix is the sufficient statistic: element (i, j) counts the images of true class i predicted
as class j, matrices of parts of a set add up to the matrix of the whole, and every figure is a function of
matrices ``(*batch, c, c)``, so one call serves one matrix or a thousand bootstrap samples. They work on NumPy
and JAX arrays alike. A quotient 0 / 0 (a class without images, or never predicted) is 0, as scikit-learn's
``zero_division=0``.
"""

from collections.abc import Sequence
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, Num

from wbcjax.errors import DataError

AnyArray = np.ndarray | np.generic | jax.Array


def confusion_matrix(
    labels: Int[AnyArray, "n"],
    predictions: Int[AnyArray, "n"],
    num_classes: int,
    mask: Bool[AnyArray, "n"] | None = None,
) -> Int[AnyArray, "c c"]:
    """Count images by true class (row) and predicted class (column), without those whose ``mask`` is False.

    JAX arrays give a JAX array, also under jit; there a label outside 0..num_classes-1 cannot
    raise and is not counted.

    Raises:
      DataError: a counted label or prediction on the host lies outside 0..num_classes-1.
    """
    on_device = isinstance(labels, jax.Array) or isinstance(predictions, jax.Array)
    xp = jnp if on_device else np
    counted = xp.ones(labels.shape, bool) if mask is None else mask
    if not on_device:
        _check_range(labels[counted], "label", num_classes)
        _check_range(predictions[counted], "prediction", num_classes)
    classes = xp.arange(num_classes)
    rows = (labels[:, None] == classes) & counted[:, None]  # (n, c)
    return rows.astype(np.int32).T @ (predictions[:, None] == classes).astype(np.int32)


def confusion_by_source(
    labels: Int[np.ndarray, "n"],
    predictions: Int[np.ndarray, "n"],
    sources: Sequence[str],
    num_classes: int,
) -> tuple[tuple[str, ...], Int[np.ndarray, "s c c"]]:
    """One confusion matrix for all copies of each original: sorted names of the originals, and their
    matrices.

    Raises:
      DataError: lengths differ, or a label or prediction lies outside 0..num_classes-1.
    """
    if not len(labels) == len(predictions) == len(sources):
        raise DataError(f"{len(labels)} labels, {len(predictions)} predictions and {len(sources)} sources: "
                        "give one of each per image")
    _check_range(labels, "label", num_classes)
    _check_range(predictions, "prediction", num_classes)
    names, index = np.unique(np.asarray(sources, dtype=str), return_inverse=True)
    flat = (index * num_classes + labels) * num_classes + predictions
    counts = np.bincount(flat, minlength=len(names) * num_classes**2)
    return tuple(names.tolist()), counts.reshape(len(names), num_classes, num_classes)


def normalize_rows(confusion: Num[AnyArray, "*batch c c"]) -> Float[AnyArray, "*batch c c"]:
    """Divide by the images of each true class: the diagonal is the recall."""
    return _ratio(confusion, confusion.sum(axis=-1, keepdims=True))


def normalize_columns(confusion: Num[AnyArray, "*batch c c"]) -> Float[AnyArray, "*batch c c"]:
    """Divide by the predictions of each class: the diagonal is the precision."""
    return _ratio(confusion, confusion.sum(axis=-2, keepdims=True))


def accuracy(confusion: Num[AnyArray, "*batch c c"]) -> Float[AnyArray, "*batch"]:
    """Share of the images predicted right."""
    return _ratio(_diagonal(confusion).sum(axis=-1), confusion.sum(axis=(-2, -1)))


def balanced_accuracy(confusion: Num[AnyArray, "*batch c c"]) -> Float[AnyArray, "*batch"]:
    """Mean recall over the classes that have images."""
    present = confusion.sum(axis=-1) > 0
    return _ratio(recall(confusion).sum(axis=-1), present.sum(axis=-1))


def recall(confusion: Num[AnyArray, "*batch c c"]) -> Float[AnyArray, "*batch c"]:
    """Share of the images of each class that are predicted as it."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-1))


def precision(confusion: Num[AnyArray, "*batch c c"]) -> Float[AnyArray, "*batch c"]:
    """Share of the predictions of each class that are right."""
    return _ratio(_diagonal(confusion), confusion.sum(axis=-2))


def f1(confusion: Num[AnyArray, "*batch c c"]) -> Float[AnyArray, "*batch c"]:
    """Harmonic mean of precision and recall of each class, 2 TP / (2 TP + FP + FN)."""
    return _ratio(2 * _diagonal(confusion), confusion.sum(axis=-1) + confusion.sum(axis=-2))


def per_source_accuracy(
    labels: Int[np.ndarray, "n"], predictions: Int[np.ndarray, "n"], sources: Sequence[str]
) -> dict[str, float]:
    """Accuracy on the copies of each original, by its name, worst first (then by name).

    Raises:
      DataError: as ``confusion_by_source``.
    """
    classes = int(max(labels.max(initial=0), predictions.max(initial=0))) + 1
    names, confusion = confusion_by_source(labels, predictions, sources, classes)
    ranked = sorted(zip(accuracy(confusion).tolist(), names, strict=True))
    return {name: value for value, name in ranked}


def calibration_table(
    probabilities: Float[AnyArray, "n c"],
    labels: Int[AnyArray, "n"],
    bins: int = 15,
    mask: Bool[AnyArray, "n"] | None = None,
) -> Float[AnyArray, "bins 3"]:
    """Images, summed confidence and right predictions per bin of confidence.

    Confidence is the largest probability; bin k of equal width holds k/bins < confidence <= (k+1)/bins.
    Tables of parts of a set add up, and calibration depends on nothing else.
    """
    xp = _namespace(probabilities, labels)
    confidence = probabilities.max(axis=-1)
    right = probabilities.argmax(axis=-1) == labels
    index = xp.clip(xp.ceil(confidence * bins).astype(np.int32) - 1, 0, bins - 1)
    member = index[None, :] == xp.arange(bins)[:, None]  # (bins, n)
    if mask is not None:
        member = member & mask
    columns = xp.stack([xp.ones_like(confidence), confidence, right.astype(confidence.dtype)], axis=-1)
    # Masked sums, not a matrix product: accelerators would round the factors of one to bfloat16.
    return xp.where(member[:, :, None], columns[None], 0).sum(axis=1)


def calibration_error(table: Float[AnyArray, "*batch bins 3"]) -> Float[AnyArray, "*batch"]:
    """Expected calibration error: |confidence - accuracy| of each bin, averaged over the images."""
    gap = abs(table[..., 1] - table[..., 2])
    return _ratio(gap.sum(axis=-1), table[..., 0].sum(axis=-1))


def expected_calibration_error(
    probabilities: Float[AnyArray, "n c"],
    labels: Int[AnyArray, "n"],
    bins: int = 15,
    mask: Bool[AnyArray, "n"] | None = None,
) -> Float[AnyArray, ""]:
    """Expected calibration error of class probabilities, in [0, 1] (Guo et al. 2017, bins of equal width)."""
    return calibration_error(calibration_table(probabilities, labels, bins, mask))


def _namespace(*arrays: AnyArray) -> ModuleType:
    return jnp if any(isinstance(array, jax.Array) for array in arrays) else np


def _diagonal(matrices: AnyArray) -> AnyArray:
    return _namespace(matrices).diagonal(matrices, axis1=-2, axis2=-1)


def _ratio(numerator: AnyArray, denominator: AnyArray) -> AnyArray:
    """Quotient, 0 where the denominator is 0."""
    xp = _namespace(numerator, denominator)
    return xp.where(denominator > 0, numerator / xp.where(denominator > 0, denominator, 1), 0)


def _check_range(values: np.ndarray, what: str, num_classes: int) -> None:
    outside = (values < 0) | (values >= num_classes)
    if outside.any():
        raise DataError(f"{what} {values[outside][0]} is outside 0..{num_classes - 1}; check the class names")
