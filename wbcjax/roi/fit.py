"""Fits the expanded colour ROI to annotated boxes: a coordinate search for the highest mean IoU.

Give it training images only. ``EXPANDED`` is what it finds on the detector's 220 training images.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float

from wbcjax.config import ColorRoiConfig
from wbcjax.errors import DataError
from wbcjax.ops import boxes as box_ops
from wbcjax.roi.color import FAITHFUL, REFERENCE_WIDTH, tight_box

START = replace(FAITHFUL, close_kernel=33, cytoplasm_reach=36.0, cytoplasm_open=17, min_area=500.0, work_width=320)
"""Half a nucleus' gap to close, half a nucleus around it to look for cytoplasm."""

GRID: dict[str, tuple[Any, ...]] = {
    "close_kernel": (9, 17, 25, 33, 41, 49),
    "open_kernel": (0, 5, 9, 13, 17, 25),
    "hsv_low": ((80, 60, 140), (115, 60, 140), (120, 60, 140), (80, 50, 140), (80, 70, 140), (80, 60, 120)),
    "cytoplasm_reach": (0.0, 12.0, 20.0, 28.0, 36.0, 44.0, 52.0),
    "cytoplasm_low": tuple((hue, saturation, 120) for hue in (100, 110, 120) for saturation in (12, 15, 18, 22)),
    "cytoplasm_high": tuple((hue, 255, 255) for hue in (142, 146, 150, 154, 158)),
    "cytoplasm_open": (0, 5, 9, 13, 17, 21, 25, 33),
}
"""Values tried for each field; the box's ``scale`` and ``pad`` are searched anew for every one of them."""

SCALES = tuple(np.arange(1.0, 1.31, 0.025).round(3).tolist())
PADS = tuple(np.arange(0.0, 25.0, 1.0).tolist())


def fit(
    images: Sequence[np.ndarray] | np.ndarray,
    boxes: Sequence[np.ndarray],
    start: ColorRoiConfig = START,
    grid: Mapping[str, Sequence[Any]] = GRID,
) -> ColorRoiConfig:
    """The config with the highest mean IoU over the images, by coordinate search.

    One field after the other takes its best value, with the best ``scale`` and ``pad`` for it, until a whole
    round over the fields improves nothing. Of equally good values the one already held stays.

    Args:
      images: RGB uint8 training images.
      boxes: for each image the true boxes, (m, 4) xyxy; images without any are left out.
      start: values of the fields that are not in ``grid``, and where the search starts.
      grid: candidates by field name.

    Raises:
      DataError: no image has a box.
    """
    pairs = [(image, true) for image, true in zip(images, boxes, strict=True) if len(true)]
    if not pairs:
        raise DataError("no image to fit the colour ROI on has a box: give annotated images")
    best, best_iou = _fit_enlargement(pairs, start)
    improved = True
    while improved:
        improved = False
        for name, values in grid.items():
            for value in values:
                candidate, iou = _fit_enlargement(pairs, replace(best, **{name: value}))
                if iou > best_iou:
                    best, best_iou, improved = candidate, iou, True
    return best


def _fit_enlargement(
    pairs: list[tuple[np.ndarray, np.ndarray]], config: ColorRoiConfig
) -> tuple[ColorRoiConfig, float]:
    """``scale`` and ``pad`` with the highest mean IoU for the tight boxes of a config, over all pairs of both."""
    found = [tight_box(image, config) for image, _ in pairs]
    kept = [i for i, box in enumerate(found) if box is not None]
    if not kept:
        return config, 0.0
    tight = np.stack([found[i] for i in kept])
    sizes = np.array([pairs[i][0].shape[:2] for i in kept], np.float32)
    true = _padded([pairs[i][1] for i in kept])
    scores = {
        (scale, pad): _sum_iou(tight, sizes, true, scale, pad) / len(pairs) for scale in SCALES for pad in PADS
    }
    (scale, pad), iou = max(scores.items(), key=lambda item: item[1])
    return replace(config, scale=scale, pad=pad), iou


def _sum_iou(tight: np.ndarray, sizes: np.ndarray, true: np.ndarray, scale: float, pad: float) -> float:
    """Sum over the images of the best IoU after enlargement: ``color.enlarge`` for all images at once."""
    height, width = sizes[:, :1], sizes[:, 1:]
    centre, half = (tight[:, :2] + tight[:, 2:]) / 2, (tight[:, 2:] - tight[:, :2]) / 2
    half = half * scale + pad * width / REFERENCE_WIDTH
    limit = np.concatenate([width, height], axis=1)
    box = np.concatenate([np.clip(centre - half, 0, limit), np.clip(centre + half, 0, limit)], axis=1)
    return float(box_ops.pairwise_iou(box[:, None], true).max(axis=(1, 2)).sum())


def _padded(boxes: list[np.ndarray]) -> Float[np.ndarray, "n m 4"]:
    """The true boxes as one array, empty boxes in the unused places."""
    padded = np.zeros((len(boxes), max(len(b) for b in boxes), 4), np.float32)
    for row, b in zip(padded, boxes, strict=True):
        row[: len(b)] = b
    return padded
