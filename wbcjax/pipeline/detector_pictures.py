"""The figures of one detector: the distribution of its IoU, and the images it does worst on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wbcjax import config as cfg
from wbcjax.data import DetectionSet
from wbcjax.evaluation.detection import ImageDetections
from wbcjax.evaluation.iou import best_iou
from wbcjax.evaluation.results import PAPER
from wbcjax.pipeline.detector_runs import judged
from wbcjax.report import figures as draw
from wbcjax.report.cells import MODEL_NAMES
from wbcjax.report.html import add_figure
from wbcjax.typing import Box, Float, Image

WORST = 5
NUMBERS = {"mask_rcnn_vgg16": "Figure 9. ", "mask_rcnn_resnet50": "Figure 10. "}
"""The paper's figures."""


def draw_detector(
    model: str, images: Sequence[Image], found: Sequence[ImageDetections], truth: DetectionSet,
    config: cfg.DetectorModelConfig, folder: Path,
) -> None:
    """Draw both figures of ``model`` into ``folder``, and enter them in the index that the report reads.

    Args:
      truth: the annotated cells of each image, with masks.
    """
    name, cell = MODEL_NAMES.get(model, model), judged(config)
    label = config.class_names.index(cell)
    cells = [image.of_class(label) for image in found]
    iou = image_iou(cells, truth.boxes_of(cell))
    paper = PAPER.get((model, "whole", "mean_iou"))
    path = draw.iou_distribution({name: iou}, folder / f"{model}_iou.png", paper_mean={name: paper} if paper else None)
    add_figure(path, "roi", f"{NUMBERS.get(model, '')}Distribution of the IoU, {name}",
               "Over the detector's test images, against the corrected boxes.")
    order = np.argsort(iou, kind="stable")  # NaN, of images without a cell, comes last
    worst = order[np.isfinite(iou[order])][:WORST]
    true = truth.of_classes([cell])
    best = [cells[i].where(cells[i].scores.argsort()[::-1][:1]) for i in worst]
    path = draw.masked_detections(
        [images[i] for i in worst], [one.boxes for one in best], [one.masks for one in best],
        [true.boxes[i] for i in worst], [true.masks[i] for i in worst], folder / f"{model}_worst.png",
        titles=[f"{truth.names[i]} · IoU {iou[i]:.2f}" for i in worst],
    )
    add_figure(path, "roi", f"Worst images, {name}", "The box of highest score and its mask, and the annotated ones.")


def image_iou(
    cells: Sequence[ImageDetections], true: Sequence[Float[np.ndarray, "_ 4"]]
) -> Float[np.ndarray, "images"]:
    """The paper's IoU: the box of highest score against the best of an image's cells; NaN without a cell."""
    return best_iou([best_box(image) for image in cells], true)


def best_box(image: ImageDetections) -> Box | None:
    """The box of highest score."""
    return image.boxes[image.scores.argmax()] if len(image) else None
