"""How well one predicted box per image meets the annotated cells: Tables 2, 3 and 8 of the paper.

The score of an image is the best IoU among all pairs of its predicted and its true boxes. An image without a
predicted box counts as 0. An image without a true box has no IoU: it is NaN, and the statistics leave it out,
so a set of annotations that misses a cell is neither rewarded nor punished for it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from wbcjax.errors import DataError
from wbcjax.ops import boxes as box_ops

AnyArray = np.ndarray | jax.Array


def best_iou(
    predicted: Sequence[Float[np.ndarray, "4"] | Float[np.ndarray, "_ 4"] | None],
    true: Sequence[Float[np.ndarray, "_ 4"]],
) -> Float[np.ndarray, "images"]:
    """Best IoU of each image, for the whole set in one call.

    Args:
      predicted: for each image its predicted box, several of them, or None. To score a detector as the paper
        does, give the box of highest score: with several boxes the best one counts.
      true: for each image the boxes of its cells.

    Returns:
      IoU in [0, 1]; 0 for an image with no predicted box, NaN for one with no true box.

    Raises:
      DataError: the two lists differ in length, or a box is not finite.
    """
    if len(predicted) != len(true):
        raise DataError(f"{len(predicted)} predictions for {len(true)} images: give one entry (or None) each")
    return padded_best_iou(*pad(predicted), *pad(true))


def padded_best_iou(
    predicted: Float[AnyArray, "images p 4"],
    predicted_valid: Bool[AnyArray, "images p"],
    true: Float[AnyArray, "images t 4"],
    true_valid: Bool[AnyArray, "images t"],
) -> Float[AnyArray, "images"]:
    """``best_iou`` on padded arrays, NumPy or JAX (jittable); what the padded slots hold does not matter."""
    xp = jnp if isinstance(predicted, jax.Array) else np
    iou = box_ops.pairwise_iou(predicted, true)  # (images, p, t)
    valid = predicted_valid[:, :, None] & true_valid[:, None, :]
    best = xp.max(xp.where(valid, iou, 0), axis=(1, 2), initial=0)
    return xp.where(xp.any(true_valid, axis=1), best, xp.nan)


def pad(
    boxes: Sequence[Float[np.ndarray, "4"] | Float[np.ndarray, "_ 4"] | None],
) -> tuple[Float[np.ndarray, "images k 4"], Bool[np.ndarray, "images k"]]:
    """Boxes of each image as one array, zeros in the unused slots, and the mask of the used ones (k >= 1).

    Raises:
      DataError: a box is not finite.
    """
    counts = np.array([0 if b is None else b.size // 4 for b in boxes], np.int64)
    valid = np.arange(max(1, counts.max(initial=0))) < counts[:, None]
    padded = np.zeros((*valid.shape, 4), np.float32)
    given = [b.ravel() for b in boxes if b is not None]
    if given:
        padded[valid] = np.concatenate(given).reshape(-1, 4)
    if not np.isfinite(padded).all():
        image = int(np.argmin(np.isfinite(padded).all(axis=(1, 2))))
        raise DataError(f"image {image} of the set has a box that is not finite: {padded[image].tolist()}; "
                        "give None where no box was found")
    return padded, valid


def iou_statistics(values: Float[np.ndarray, "images"]) -> dict[str, float]:
    """Mean, min, max, (population) std and median of the images' IoU, undefined (NaN) ones left out.

    The keys are ``mean``, ``min``, ``max``, ``std``, ``median``: with ``_iou`` appended, the metric names of
    the results.

    Raises:
      DataError: no image has a true box.
    """
    defined = np.asarray(values, np.float64)[~np.isnan(values)]
    if not defined.size:
        raise DataError("no image of the set has a true box: IoU statistics need at least one")
    return {name: float(getattr(np, name)(defined)) for name in ("mean", "min", "max", "std", "median")}


def distribution(
    values: Float[np.ndarray, "images"], bins: int = 10
) -> tuple[Int[np.ndarray, "bins"], Float[np.ndarray, "edges"]]:
    """Histogram of the images' IoU over [0, 1], NaN left out: counts and ``bins + 1`` edges."""
    return np.histogram(values[~np.isnan(values)], bins=bins, range=(0.0, 1.0))
