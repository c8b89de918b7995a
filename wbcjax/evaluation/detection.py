"""How well detections meet the annotated cells: COCO's average precision, and the paper's IoU statistics.

Average precision asks how complete and how pure the detections are over all scores; the paper (Tables 3 and 8) asks how
well the best box of an image fits. The second alone is blind to missed cells and to false ones, so ``wbc_statistics``
counts those as well.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval import mask as rle
from jaxtyping import Bool, Float, Int

from wbcjax.data.sets import DetectionSet
from wbcjax.errors import DataError
from wbcjax.evaluation.iou import best_iou, iou_statistics
from wbcjax.evaluation.uncertainty import Interval, bootstrap
from wbcjax.ops.boxes import pairwise_iou

MATCH_IOU = 0.5
"""A detection that overlaps a cell by less has not found it."""
METRICS = {"ap": slice(None), "ap50": 0, "ap75": 5}
"""Which of COCO's IoU thresholds 0.5, 0.55 … 0.95 each averages over."""

TrueBoxes = Sequence[Float[np.ndarray, "_ 4"]]
Scores = list[Float[np.ndarray, "_"]]
"""For each image a figure for each of its true cells."""


@dataclass(frozen=True, eq=False)
class ImageDetections:
    """What was found in one image, in pixels of the image."""

    boxes: Float[np.ndarray, "n 4"]
    scores: Float[np.ndarray, "n"]
    labels: Int[np.ndarray, "n"]
    masks: Bool[np.ndarray, "n h w"] | None = None
    """Of the whole image."""

    def __len__(self) -> int:
        return len(self.boxes)

    def where(self, keep: Bool[np.ndarray, "n"] | Int[np.ndarray, "k"]) -> "ImageDetections":
        """Those that ``keep`` selects, in its order."""
        masks = None if self.masks is None else self.masks[keep]
        return ImageDetections(self.boxes[keep], self.scores[keep], self.labels[keep], masks)

    def of_class(self, label: int) -> "ImageDetections":
        return self.where(self.labels == label)


def coco_metrics(
    found: Sequence[ImageDetections], truth: DetectionSet, *, class_names: Sequence[str], masks: bool
) -> dict[str, float]:
    """Average precision as COCO defines it (101 recall levels, at most 100 detections an image, objects of all sizes).

    Args:
      found: the detections in each image of ``truth``.
      class_names: what their labels stand for. Classes without a true box are left out.
      masks: compare masks, besides boxes.

    Returns:
      ``kind/metric`` with the mean over the classes, and ``kind/metric/class``; the kind is ``box`` or ``mask``, the
      metric ``ap`` (mean over IoU thresholds 0.5 to 0.95), ``ap50`` or ``ap75``.

    Raises:
      DataError: lengths differ, no class has a true box, or masks are wanted and missing.
    """
    _check_lengths(found, truth.boxes)
    present = [name for name in class_names if name in truth.class_names and any(map(len, truth.boxes_of(name)))]
    if not present:
        raise DataError(f"no image has a true box of {', '.join(class_names)} among those of "
                        f"{', '.join(truth.class_names)}: average precision needs one")
    if masks:
        _check_masks(found, truth.names)
        if truth.masks is None:
            raise DataError("the annotations have no masks; give masks=False to compare boxes alone")
    shapes = truth.masks or [None] * len(truth)
    true = [ImageDetections(boxes, np.ones(len(boxes), np.float32), labels, shape)
            for boxes, labels, shape in zip(truth.boxes, truth.labels, shapes, strict=True)]
    categories = {name: number for number, name in enumerate(present, start=1)}
    metrics = {}
    for kind in ("box", "mask") if masks else ("box",):
        evaluation = COCOeval_faster(_coco(true, truth.class_names, categories, kind),
                                     _coco(found, class_names, categories, kind), "bbox" if kind == "box" else "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (IoU thresholds, recall levels, classes)
        for metric, thresholds in METRICS.items():
            values = precision[thresholds].reshape(-1, len(present)).mean(axis=0)  # 0 beyond the recall reached
            metrics[f"{kind}/{metric}"] = float(values.mean())
            metrics |= {f"{kind}/{metric}/{name}": float(v) for name, v in zip(present, values, strict=True)}
    return metrics


def _coco(images: Sequence[ImageDetections], names: Sequence[str], categories: Mapping[str, int], kind: str) -> COCO:
    """Objects of the ``categories`` as a COCO file has them, in memory."""
    objects = []
    for number, image in enumerate(images):
        kept = np.flatnonzero(np.isin(image.labels, [i for i, name in enumerate(names) if name in categories]))
        corner, opposite = image.boxes[kept, :2], image.boxes[kept, 2:]
        shapes = [{}] * len(kept)
        if kind == "mask" and len(kept):
            # Run lengths go down the columns: transposed masks need no copy, and their overlaps are the same.
            shapes = rle.encode(image.masks[kept].view(np.uint8).T)
        objects += [
            {"id": len(objects) + i, "image_id": number, "category_id": categories[names[label]], "bbox": box,
             "area": box[2] * box[3], "iscrowd": 0, "score": score, "segmentation": shape}
            for i, (label, box, score, shape) in enumerate(zip(
                image.labels[kept].tolist(), np.hstack([corner, opposite - corner]).tolist(),
                image.scores[kept].tolist(), shapes, strict=True), start=1)
        ]
    return COCO({"images": [{"id": number, "height": 0, "width": 0} for number in range(len(images))],
                 "categories": [{"id": number, "name": name} for name, number in categories.items()],
                 "annotations": objects})


def wbc_statistics(
    found: Sequence[ImageDetections], true_boxes: TrueBoxes, *, score_threshold: float = 0.5
) -> dict[str, dict[str, Interval]]:
    """The paper's statistics of one class, with 95 % intervals over images for sums, means and medians.

    Args:
      found: the detections of the class in each image (``ImageDetections.of_class``).
      true_boxes: its true boxes (``DetectionSet.boxes_of``).
      score_threshold: detections below it are not reported by the detector; only under ``cell``.

    Returns:
      Under ``image``, the paper's way: the box of highest score against the best of the image's cells, 0 without a box,
      over images with a cell (``images``); ``missed`` of them have no box. Under ``cell``: for each true cell the
      best IoU among the detections, 0 without one; ``missed`` cells and ``false_positives`` are those left over when
      detections take, by falling score, the free cell that they overlap most, by at least 0.5.

    Raises:
      DataError: lengths differ, or no image has a true box.
    """
    _check_lengths(found, true_boxes)
    best = [image.boxes[image.scores.argmax()] if len(image) else None for image in found]
    of_image = best_iou(best, true_boxes)
    no_box = np.array([box is None and len(true) > 0 for box, true in zip(best, true_boxes, strict=True)])
    left = np.array([_left_over(image, true, score_threshold) for image, true in zip(found, true_boxes, strict=True)])
    return {
        "image": {
            **_statistics(list(of_image[~np.isnan(of_image), None])),
            "missed": _sum(no_box),
            "images": Interval(float((~np.isnan(of_image)).sum())),
        },
        "cell": {
            **_statistics(cell_iou(found, true_boxes, score_threshold=score_threshold)),
            "missed": _sum(left[:, 0]),
            "false_positives": _sum(left[:, 1]),
            "cells": Interval(float(sum(map(len, true_boxes)))),
        },
    }


def cell_iou(found: Sequence[ImageDetections], true_boxes: TrueBoxes, *, score_threshold: float = 0.5) -> Scores:
    """For each true box the best IoU among the detections of at least ``score_threshold``; 0 without one."""
    return [
        pairwise_iou(image.boxes[image.scores >= score_threshold], true).max(axis=0, initial=0)
        for image, true in zip(found, true_boxes, strict=True)
    ]


def mask_iou(
    found: Sequence[ImageDetections],
    true_boxes: TrueBoxes,
    true_masks: Sequence[Bool[np.ndarray, "_ _ _"]],
    *,
    score_threshold: float = 0.5,
) -> dict[str, Interval]:
    """Mean (``mask_iou``) and median (``median_mask_iou``) overlap of the true masks of one class with those found.

    Each is compared with the mask of the detection, of at least ``score_threshold``, whose box meets its box best;
    without one that overlaps it counts as 0.

    Raises:
      DataError: lengths differ, detections have no masks, or no image has a true mask.
    """
    _check_lengths(found, true_masks)
    _check_masks(found, range(len(found)))
    values = []
    for image, boxes, masks in zip(found, true_boxes, true_masks, strict=True):
        image = image.where(image.scores >= score_threshold)
        if not len(image):
            values.append(np.zeros(len(boxes)))
            continue
        overlap = pairwise_iou(image.boxes, boxes)
        iou = paired_mask_iou(image.masks[overlap.argmax(axis=0)], masks)
        values.append(np.where(overlap.max(axis=0) > 0, iou, 0))
    statistics = _statistics(values)
    return {"mask_iou": statistics["mean_iou"], "median_mask_iou": statistics["median_iou"]}


def paired_mask_iou(a: Bool[np.ndarray, "n h w"], b: Bool[np.ndarray, "n h w"]) -> Float[np.ndarray, "n"]:
    """IoU of the i-th mask of ``a`` with the i-th of ``b``; 0 where both are empty."""
    both, either = (np.count_nonzero(mask, axis=(1, 2)) for mask in (a & b, a | b))
    return both / np.maximum(either, 1)


def _left_over(image: ImageDetections, true: Float[np.ndarray, "t 4"], score_threshold: float) -> tuple[int, int]:
    """Missed cells and false detections of one image."""
    order = np.argsort(-image.scores, kind="stable")
    order = order[image.scores[order] >= score_threshold]
    free, false = np.ones(len(true), bool), 0
    for overlap in pairwise_iou(image.boxes[order], true):
        overlap = overlap * free
        if overlap.max(initial=0) >= MATCH_IOU:
            free[overlap.argmax()] = False
        else:
            false += 1
    return int(free.sum()), false


def _statistics(values: Scores) -> dict[str, Interval]:
    """``iou_statistics`` of all values, mean and median with intervals over images."""
    image = np.repeat(np.arange(len(values)), [len(v) for v in values])
    flat = np.hstack([*values, np.empty(0)])  # float64, also without values
    plain = iou_statistics(flat)
    order = np.argsort(flat)
    flat, image = flat[order], image[order]
    drawn = image == np.unique(image)[:, None]  # (images with values, values): a sample counts each so many times
    intervals = {
        "mean": _interval(drawn, lambda counts: counts @ flat / counts.sum(axis=-1)),
        "median": _interval(drawn, lambda counts: _median(flat, counts)),
    }
    return {f"{name}_iou": intervals.get(name, Interval(value)) for name, value in plain.items()}


def _median(ordered: Float[np.ndarray, "v"], counts: Float[np.ndarray, "b v"]) -> Float[np.ndarray, "b"]:
    """Median of each sample, which holds the i-th of the ``ordered`` values ``counts[:, i]`` times."""
    until = np.cumsum(counts, axis=1)
    at = lambda rank: ordered[(until > rank[:, None]).argmax(axis=1)]  # noqa: E731
    total = until[:, -1]
    return (at((total - 1) // 2) + at(total // 2)) / 2


def _sum(counts: Int[np.ndarray, "images"] | Bool[np.ndarray, "images"]) -> Interval:
    return _interval(counts[:, None], lambda sums: sums[:, 0])


def _interval(totals: np.ndarray, statistic: Callable) -> Interval:
    """Over images, all of one kind."""
    return bootstrap(totals.astype(float), statistic, classes=np.zeros(len(totals), int))


def _check_lengths(found: Sequence, true: Sequence) -> None:
    if len(found) != len(true):
        raise DataError(f"detections in {len(found)} images for {len(true)} images: give one entry each")


def _check_masks(found: Sequence[ImageDetections], names: Sequence) -> None:
    for name, image in zip(names, found, strict=True):
        if image.masks is None:
            raise DataError(f"image {name} has detections without masks; paste them, or compare boxes alone")
