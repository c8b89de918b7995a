"""The study of the paper's Table 2: the colour ROI against the annotated boxes."""

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from wbcjax import config as cfg
from wbcjax.data import DetectionSet, load_images, voc
from wbcjax.data.splits import detector_split
from wbcjax.evaluation.iou import best_iou, distribution, iou_statistics
from wbcjax.evaluation.results import PAPER, row, write_results
from wbcjax.pipeline.inputs import data_root
from wbcjax.roi import EXPANDED, FAITHFUL, color_roi, color_rois
from wbcjax.typing import Box

VARIANTS: dict[str, cfg.ColorRoiConfig] = {"faithful": FAITHFUL, "expanded": EXPANDED}

TEST, TRAIN, ALL = "detector test", "detector train", "BCCD"
"""The detector's split, and every image. ``EXPANDED`` was fitted on TRAIN: its figures on TRAIN and ALL flatter it."""

NOTES = (
    "IoU of an image: its predicted box with the best of its annotated white cells, 0 without a prediction. "
    "Images without an annotated white cell have no IoU and are left out of all figures but the misses.",
    "The expanded variant was fitted on the detector's training images, so only its figures on the detector's test "
    "images are evidence.",
    "ms / image: the colour ROI of a 640×480 image in memory, processor time of one core, fastest of three passes.",
)


def color_roi_study(
    data: cfg.DataConfig, *, experiment: str, results: Path, progress: Callable[[int, int], None] | None = None
) -> list[dict]:
    """IoU statistics, distribution, misses and time of both variants; writes ``results/<experiment>.json``.

    ``progress`` is told (variants done, variants in all).
    """
    started = time.perf_counter()
    bccd = voc(data_root(data), strict=False)
    images = load_images(bccd.paths, strict=data.strict)
    train, test = detector_split(bccd)
    position = {name: i for i, name in enumerate(bccd.names)}
    splits = {TEST: [position[name] for name in test], TRAIN: [position[name] for name in train],
              ALL: list(range(len(bccd)))}
    true = bccd.boxes_of("wbc")
    rows = []
    for number, (variant, config) in enumerate(VARIANTS.items()):
        if progress is not None:
            progress(number, len(VARIANTS))
        found = color_rois(images, config)
        for split, indices in splits.items():
            rows += iou_rows([found[i] for i in indices], [true[i] for i in indices], split=split, variant=variant)
        rows.append(row(model="color", input="whole", split=ALL, variant=variant, metric="ms_per_image",
                        value=ms_per_image(images, config)))
    if progress is not None:
        progress(len(VARIANTS), len(VARIANTS))
    write_results(
        results / f"{experiment}.json",
        experiment=experiment,
        config=VARIANTS,
        rows=rows,
        seeds=0,
        data_fingerprint=fingerprint(bccd),
        wall_time=time.perf_counter() - started,
        notes=NOTES,
    )
    return rows


def iou_rows(found: Sequence[Box | None], true: Sequence[np.ndarray], *, split: str, variant: str) -> list[dict]:
    """Every row of one variant on one set of images."""
    values = best_iou(found, true)
    common = {"model": "color", "input": "whole", "split": split, "variant": variant}
    paper = PAPER[("color", "whole", "mean_iou")] if split == TEST else None
    rows = [
        row(**common, metric=f"{name}_iou", value=value, paper=paper if name == "mean" else None)
        for name, value in iou_statistics(values).items()
    ]
    rows.append(row(**common, metric="missed", value=sum(box is None for box in found)))
    rows.append(row(**common, metric="images", value=int((~np.isnan(values)).sum())))
    counts, edges = distribution(values)
    rows += [
        row(**common, metric="iou_fraction", bin_low=round(low, 3), bin_high=round(high, 3), value=count / counts.sum())
        for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
    return rows


def ms_per_image(images: Sequence[np.ndarray] | np.ndarray, config: cfg.ColorRoiConfig, passes: int = 3) -> float:
    """Milliseconds of processor time an image on one core: the fastest of some passes over all images."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        seconds = []
        for _ in range(passes):
            started = time.thread_time()  # not wall time: other work on the machine must not count
            for image in images:
                color_roi(image, config)
            seconds.append(time.thread_time() - started)
    finally:
        cv2.setNumThreads(threads)
    return min(seconds) / len(images) * 1e3


def fingerprint(boxes: DetectionSet, class_name: str = "wbc") -> str:
    """Digest of the names of the images and their boxes of one class."""
    digest = hashlib.sha256("\n".join(boxes.names).encode())
    for of_image in boxes.boxes_of(class_name):
        digest.update(of_image.tobytes())
    return digest.hexdigest()[:16]
