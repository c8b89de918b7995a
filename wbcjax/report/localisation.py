"""Tables 2, 3 and 8: how well the colour ROI and Mask R-CNN meet the annotated boxes.

Beside the keys of ``tables``, a row may have ``unit`` (``image``, the default: one figure an image, as in the paper;
``cell``: one a true cell) and ``kind`` (``box``, the default, or ``mask``).
"""

from collections.abc import Iterator, Sequence

from wbcjax.report.cells import (
    COUNT,
    DASH,
    MODEL_NAMES,
    Cell,
    Column,
    Row,
    Table,
    cell,
    combine,
    experiments_of,
    in_model_order,
    label,
    paper_cell,
    unique,
)

IOU_METRICS = {
    "images": "images",
    "cells": "cells",
    "missed": "missed",
    "false_positives": "false",
    "mean_iou": "mean",
    "min_iou": "min",
    "max_iou": "max",
    "std_iou": "std",
    "median_iou": "median",
    "ap50": "AP50",
    "ap": "AP",
    "mask/ap50": "mask AP50",
    "mask/ap": "mask AP",
    "mask_iou": "mask IoU",
    "ms_per_image": "ms / image",
}
"""Columns of the tables of localisation: metric, after its kind where that is no box, and heading."""
LOCALISERS = ("color", "mask_rcnn")
"""How the names of models that give boxes start."""
LOCALISATION = (
    ("table2", "Table 2. Colour ROI", ("color",), "image", tuple(IOU_METRICS)),
    ("table3", "Table 3. Mask R-CNN", ("mask_rcnn",), "image", tuple(IOU_METRICS)),
    ("table3-cells", "Table 3, cell by cell. Mask R-CNN", ("mask_rcnn",), "cell",
     ("cells", "missed", "false_positives", "mean_iou", "median_iou", "ap50", "ap", "mask/ap50", "mask/ap",
      "mask_iou")),
    ("table8", "Table 8. Colour ROI and Mask R-CNN", LOCALISERS, "image",
     ("images", "mean_iou", "min_iou", "max_iou", "std_iou")),
)
"""Key, title, models, what one figure is of, and columns of each table."""
UNMARKED = ("images", "cells", "missed", "false_positives", "std_iou", "ms_per_image")
"""Of these, more than the paper's is no success."""
FORMS = {"images": COUNT, "cells": COUNT, "missed": COUNT, "false_positives": COUNT, "ms_per_image": "{:.2f}".format}
"""How a figure is written, where not with three digits."""


def localisation_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Tables 2 (colour ROI), 3 (Mask R-CNN) and 8 (both): IoU statistics, a line for each method, setting and set."""
    rows = [r for r in rows if iou_metric(r) in IOU_METRICS and r["input"] == "whole" and "class_name" not in r]
    for key, name, models, unit, columns in LOCALISATION:
        used = in_model_order(row for row in rows if row["model"].startswith(models)
                              and row.get("unit", "image") == unit and iou_metric(row) in columns)
        if key == "table8":  # what the paper compares: both methods on the same images and boxes
            used = [row for row in used if row["split"] == "detector test" and row.get("variant") != "corrected"]
            if not all(any(row["model"].startswith(model) for row in used) for model in models):
                continue
        metrics = [metric for metric in columns if any(iou_metric(row) == metric for row in used)]
        forms = [FORMS.get(metric, "{:.3f}".format) for metric in metrics]
        marks = [metric not in UNMARKED for metric in metrics]
        body = []
        for model in unique(row["model"] for row in used):
            of_model = [row for row in used if row["model"] == model]
            for line, split in unique((label(row), row["split"]) for row in of_model):
                same = [row for row in of_model if (label(row), row["split"]) == (line, split)]
                figures = [combine([row for row in same if iou_metric(row) == m], prefer=key[:6]) for m in metrics]
                body.append((Cell(line, kind="label"), Cell(split), *map(cell, figures, forms, marks)))
            # The paper states one figure a method; our variants all carry it, so it stands once, below them.
            papers = [combine([r for r in of_model if iou_metric(r) == m and "paper" in r]) for m in metrics]
            if any(papers):
                name_of_paper = Cell(f"{MODEL_NAMES.get(model, model)}, the paper's", kind="label")
                body.append((name_of_paper, Cell(DASH, kind="paper"),
                             *(paper_cell([paper], form) for paper, form in zip(papers, forms, strict=True))))
        if body:
            headings = (Column("method"), Column("set"), *(Column(IOU_METRICS[m]) for m in metrics))
            yield Table(key, f"{name}: IoU with the annotated boxes", "roi", headings, tuple(body),
                        experiments=experiments_of(used))


def iou_metric(row: Row) -> str:
    """The metric of a row, after its kind where that is no box: ``ap``, ``mask/ap``."""
    return f"mask/{row['metric']}" if row.get("kind") == "mask" else row["metric"]
