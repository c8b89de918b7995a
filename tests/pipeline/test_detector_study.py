"""What a detector's rows say of known detections, and the study from training to results file on tiny data."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from wbcjax import config as cfg
from wbcjax.data import DetectionSet
from wbcjax.evaluation.detection import ImageDetections
from wbcjax.pipeline.detector_study import detection_rows

SIZE = (40, 60)
MODEL = cfg.DetectorModelConfig(class_names=("wbc", "rbc"))


def filled(boxes) -> np.ndarray:
    masks = np.zeros((len(boxes), *SIZE), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, np.asarray(boxes, int), strict=True):
        mask[y0:y1, x0:x1] = True
    return masks


def truth(*boxes: list, labels=None) -> DetectionSet:
    arrays = tuple(np.array(b, np.float32).reshape(-1, 4) for b in boxes)
    labels = labels or [[0] * len(b) for b in boxes]
    return DetectionSet(tuple(Path(f"{i}.png") for i in range(len(boxes))), arrays,
                        tuple(np.array(k, np.int32) for k in labels), ("wbc", "rbc"), (SIZE,) * len(boxes),
                        tuple(map(filled, arrays)))


def found(*boxes: list, scores=None, labels=None) -> list[ImageDetections]:
    return [ImageDetections(np.array(b, np.float32).reshape(-1, 4),
                            np.array(scores[i] if scores else [0.9] * len(b), np.float32),
                            np.array(labels[i] if labels else [0] * len(b), np.int32),
                            filled(np.array(b).reshape(-1, 4))) for i, b in enumerate(boxes)]


def values(rows: list[dict], **keys) -> dict[str, float]:
    """Metric -> value of the rows without a class that have these keys."""
    chosen = [r for r in rows if all(r.get(k) == v for k, v in keys.items()) and "class_name" not in r]
    return {r["metric"]: r["value"] for r in chosen if r["metric"] != "iou_fraction"}


COMMON = {"model": "mask_rcnn_vgg16", "input": "whole", "split": "x", "seed": 0}
CELL, OTHER = [10, 10, 30, 30], [40, 5, 55, 25]


def test_perfect_detections_score_one():
    rows = detection_rows(found([CELL, OTHER], [OTHER]), truth([CELL, OTHER], [OTHER]), MODEL, **COMMON)
    image, cell = values(rows, unit="image"), values(rows, unit="cell")
    assert image["mean_iou"] == image["min_iou"] == 1 and (image["images"], image["missed"]) == (2, 0)
    assert (cell["cells"], cell["missed"], cell["false_positives"], cell["mask_iou"]) == (3, 0, 0, 1)
    for kind in ("box", "mask"):
        assert values(rows, kind=kind) == {"ap": 1, "ap50": 1, "ap75": 1}
    top = [r for r in rows if r["metric"] == "iou_fraction" and r["bin_high"] == 1]
    assert [r["value"] for r in top] == [1]


def test_a_missed_cell_and_a_false_box_are_counted_by_cell_alone():
    rows = detection_rows(found([CELL, OTHER], []), truth([CELL], [CELL]), MODEL, **COMMON)
    assert values(rows, unit="image")["mean_iou"] == 0.5 and values(rows, unit="image")["missed"] == 1
    cell = values(rows, unit="cell")
    assert (cell["mean_iou"], cell["missed"], cell["false_positives"]) == (0.5, 1, 1)


def test_a_doubtful_box_counts_for_the_image_and_not_for_the_cell():
    rows = detection_rows(found([CELL], scores=[[0.3]]), truth([CELL]), MODEL, **COMMON)
    assert values(rows, unit="image")["mean_iou"] == 1 and values(rows, unit="cell")["missed"] == 1
    assert values(rows, kind="box")["ap"] == 1


def test_other_classes_have_average_precision_and_no_iou():
    rows = detection_rows(found([CELL, OTHER], labels=[[0, 0]]), truth([CELL, OTHER], labels=[[0, 1]]), MODEL, **COMMON)
    assert values(rows, unit="cell")["cells"] == 1 and values(rows, unit="cell")["false_positives"] == 1
    assert {r["class_name"]: r["value"] for r in rows if r["metric"] == "ap" and r["kind"] == "box"
            and "class_name" in r} == {"wbc": 1, "rbc": 0}


def test_labels_are_matched_by_name():
    swapped = replace(truth([CELL], labels=[[1]]), class_names=("rbc", "wbc"))
    assert values(detection_rows(found([CELL]), swapped, MODEL, **COMMON), unit="cell")["mean_iou"] == 1


def test_without_true_masks_boxes_alone_are_compared():
    rows = detection_rows(found([CELL]), replace(truth([CELL]), masks=None), MODEL, **COMMON)
    assert "mask_iou" not in values(rows) and values(rows, kind="mask") == {}


def test_the_papers_figure_stands_beside_the_published_boxes_by_image():
    rows = [row for variant in ("published", "corrected")
            for row in detection_rows(found([CELL]), truth([CELL]), MODEL, **COMMON, variant=variant)]
    assert [(r["variant"], r["unit"], r["metric"], r["paper"]) for r in rows if "paper" in r] == [
        ("published", "image", "mean_iou", 0.71)]
