"""The study of the paper's Tables 3 and 8 and Figures 9 and 10: Mask R-CNN against the annotated white cells."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wbcjax import config as cfg
from wbcjax.data import DetectionSet, load_images
from wbcjax.evaluation.detection import ImageDetections, coco_metrics, mask_iou, wbc_statistics
from wbcjax.evaluation.iou import distribution
from wbcjax.evaluation.results import PAPER, row, write_results
from wbcjax.pipeline.detector import Detector
from wbcjax.pipeline.detector_pictures import draw_detector, image_iou
from wbcjax.pipeline.detector_runs import bccd, judged, side_of_split, train_detector
from wbcjax.pipeline.inputs import data_root
from wbcjax.pipeline.localisation import TEST, fingerprint
from wbcjax.pipeline.rows import Rows
from wbcjax.pipeline.studies import Interrupted
from wbcjax.pipeline.workdir import has_checkpoint, is_finished, portable, run_digest
from wbcjax.typing import Image

SCORE = 0.5
"""Detections of a lower score count for average precision alone."""
TIMED_IMAGES = 16

NOTES = (
    "By image, the paper's way: the box of highest score against the best of the image's white cells, 0 without a box; "
    "images without an annotated white cell are left out. By cell: each annotated white cell against the best box of "
    f"score {SCORE} or more, 0 where it is missed; boxes beyond one a cell are false.",
    "published: BCCD's boxes. corrected: with the white cells that these miss; the detectors were trained on corrected "
    "boxes of other images.",
    "Masks are compared with the published ones of nucleus and cytoplasm. ms / image: from pixels to boxes and masks, "
    "processor time of all threads together.",
)


def detector_folder(runs: Path, config: cfg.DetectorConfig, boxes: DetectionSet) -> Path:
    """Folder of a run: readable, and unique to its config and to the boxes of white cells that it learns."""
    fold = "" if config.fold is None else f"-fold{config.fold}"
    digest = run_digest(config, fingerprint(boxes))
    return runs / f"mask_rcnn-{config.model.backbone}-seed{config.train.seed}{fold}-{digest}"


def ensure_detector(config: cfg.DetectorConfig, runs: Path, boxes: DetectionSet) -> Path:
    """Folder of the finished run of ``config`` on BCCD, with ``boxes``: reused, resumed or trained.

    Raises:
      Interrupted: if training was stopped by a signal.
    """
    folder = detector_folder(runs, config, boxes)
    if not is_finished(folder, config):
        title = folder.name.rsplit("-", 1)[0]
        if not train_detector(config, folder, resume=has_checkpoint(folder), title=title):
            raise Interrupted(f"{folder}: interrupted and saved; the same command goes on from here")
    return folder


def detector_study(
    configs: Sequence[cfg.DetectorConfig],
    *,
    experiment: str,
    runs: Path,
    results: Path,
    figures: Path | None = None,
    notes: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Rows:
    """Train each config on BCCD's training images and evaluate it on the 144 test images.

    Args:
      figures: folder for the IoU histograms and the worst images; None draws nothing.
      progress: told (runs done, runs in all).
    """
    started = time.perf_counter()
    boxes = bccd(configs[0].data)
    rows: Rows = []
    for number, config in enumerate(configs, 1):
        folder = ensure_detector(config, runs, boxes[config.annotations])
        detector = Detector.load(folder)
        measured = measure(detector, config.data, boxes)
        rows += bccd_rows(detector, measured)
        if figures is not None:
            draw_bccd(detector, measured, figures)
        if progress is not None:
            progress(number, len(configs))
    write_results(
        results / f"{experiment}.json",
        experiment=experiment,
        config={"runs": [portable(config) for config in configs]},
        rows=rows,
        seeds=sorted({config.train.seed for config in configs}),
        data_fingerprint=fingerprint(boxes["corrected"]),
        wall_time=time.perf_counter() - started,
        notes=(*NOTES, *notes),
    )
    return rows


def detector_evaluation(
    detector: Detector,
    data: cfg.DataConfig,
    path: Path,
    own: DetectionSet | None = None,
    split: str = TEST,
    notes: Sequence[str] = (),
) -> Rows:
    """Evaluate one trained detector, on BCCD's test images or on boxes of one's own; writes the results file ``path``.

    Args:
      own: its masks, where there are any, are compared too.
      split: what to call it.

    Raises:
      DataError: if no image has a box of the detector's classes.
    """
    started = time.perf_counter()
    if own is None:
        boxes = bccd(data)
        rows = bccd_rows(detector, measure(detector, data, boxes))
        judged_on, notes = boxes["corrected"], (*NOTES, *notes)
    else:
        found = detector(own.paths, score_threshold=0.0)
        rows = detection_rows(found, own, detector.config.model, **run_keys(detector, split))
        judged_on, notes = own, (NOTES[0], *notes)
    write_results(path, experiment=path.stem, config=portable(detector.config), rows=rows,
                  seeds=detector.config.train.seed, wall_time=time.perf_counter() - started, notes=notes,
                  data_fingerprint=fingerprint(judged_on, judged(detector.config.model)))
    return rows


@dataclass(frozen=True, eq=False)
class Measured:
    """What a detector finds in BCCD's test images."""

    images: list[Image]
    found: list[ImageDetections]
    """Whatever their score."""
    truth: dict[str, DetectionSet]
    """By published and by corrected boxes, with masks."""


def measure(detector: Detector, data: cfg.DataConfig, boxes: Mapping[str, DetectionSet]) -> Measured:
    """Run a detector on BCCD's test images; ``boxes`` are those of ``bccd``."""
    names = detector.class_names
    truth = {kind: side_of_split(of_kind, "test", names, data_root(data)) for kind, of_kind in boxes.items()}
    images = list(load_images(truth["published"].paths, strict=data.strict))
    return Measured(images, detector(images, score_threshold=0.0), truth)


def bccd_rows(detector: Detector, measured: Measured) -> Rows:
    """Every row of one detector on BCCD's test images, by each kind of its boxes."""
    common = run_keys(detector, TEST)
    rows = [row(**common, variant="published", unit="image", metric="ms_per_image",
                value=ms_per_image(detector, measured.images[:TIMED_IMAGES]))]
    for variant, truth in measured.truth.items():
        rows += detection_rows(measured.found, truth, detector.config.model, **common, variant=variant)
    return rows


def draw_bccd(detector: Detector, measured: Measured, folder: Path) -> None:
    """Draw the IoU histogram and the worst images of one detector into ``folder``."""
    model = f"mask_rcnn_{detector.config.model.backbone}"
    draw_detector(model, measured.images, measured.found, measured.truth["corrected"], detector.config.model, folder)


def run_keys(detector: Detector, split: str) -> dict[str, Any]:
    """What the rows of one run on one split have in common."""
    config = detector.config
    several = {"classes": f"{len(detector.class_names)} classes"} if len(detector.class_names) > 1 else {}
    return {"model": f"mask_rcnn_{config.model.backbone}", "input": "whole", "split": split, "seed": config.train.seed,
            **several}


def detection_rows(
    found: Sequence[ImageDetections], truth: DetectionSet, config: cfg.DetectorModelConfig, **common: Any
) -> Rows:
    """IoU statistics of the white cells by image and by cell, average precision of all classes, and mask IoU.

    Args:
      found: all detections in each image of ``truth``, whatever their score.
      truth: masks are compared where it has some.
    """
    truth = truth.of_classes(config.class_names)
    name = judged(config)
    label, paper = config.class_names.index(name), PAPER.get((common["model"], "whole", "mean_iou"))
    cells, boxes = [image.of_class(label) for image in found], truth.boxes_of(name)
    rows: Rows = []
    for unit, statistics in wbc_statistics(cells, boxes, score_threshold=SCORE).items():
        as_paper = unit == "image" and common.get("variant") == "published"
        rows += [row(**common, unit=unit, metric=metric, paper=paper if as_paper and metric == "mean_iou" else None,
                     **interval._asdict()) for metric, interval in statistics.items()]
    if truth.masks is not None:
        masks = [mask[labels == label] for mask, labels in zip(truth.masks, truth.labels, strict=True)]
        rows += [row(**common, unit="cell", metric=metric, **interval._asdict())
                 for metric, interval in mask_iou(cells, boxes, masks, score_threshold=SCORE).items()]
    precision = coco_metrics(found, truth, class_names=config.class_names, masks=truth.masks is not None)
    for key, value in precision.items():
        kind, metric, *of_class = key.split("/", 2)
        extra = {"class_name": of_class[0]} if of_class else {}
        rows.append(row(**common, unit="cell", kind=kind, metric=metric, value=value, **extra))
    counts, edges = distribution(image_iou(cells, boxes))
    rows += [row(**common, unit="image", metric="iou_fraction", bin_low=round(low, 3), bin_high=round(high, 3),
                 value=count / counts.sum())
             for count, low, high in zip(counts.tolist(), edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    return rows


def ms_per_image(detector: Detector, images: Sequence[Image], passes: int = 3) -> float:
    """Milliseconds of processor time an image, all threads together: the fastest of some passes.

    The first pass, which compiles, does not count.
    """
    detector(images)
    seconds = []
    for _ in range(passes):
        started = time.process_time()  # not wall time: other work on the machine must not count
        detector(images)
        seconds.append(time.process_time() - started)
    return min(seconds) / len(images) * 1e3
