"""How exact the published boxes of white cells are: what no detector can be asked for.

Two estimates of a cell's box are made that do not see its published box: the one of the published mask, which another
group drew, enlarged by the margins usual in the training images; and a detector's. Where both miss a published side in
the same direction by the same amount, the side is off; the covariance of their errors is the variance of the boxes'
own noise, as far as the errors of the two estimates are independent.
"""

import time
from pathlib import Path

import numpy as np

from wbcjax import config as cfg
from wbcjax.data import DetectionSet, load_images
from wbcjax.data.cell_masks import BACKGROUND, cell_mask_path, read_cell_mask
from wbcjax.data.mask_sources import MIN_IOU, WHITE_CELLS, hull_of, matched_parts
from wbcjax.data.splits import detector_split
from wbcjax.data.voc import voc
from wbcjax.errors import DataError
from wbcjax.evaluation.results import row, write_results
from wbcjax.ops.boxes import area, paired_iou
from wbcjax.pipeline.detector import Detector
from wbcjax.pipeline.inputs import data_root
from wbcjax.pipeline.localisation import TEST, fingerprint
from wbcjax.pipeline.rows import Rows
from wbcjax.typing import Bool, Boxes, Float

SIDES = ("left", "top", "right", "bottom")
BORDER = 3
"""A mask that ends so many pixels from the border may have been cut off: that side has no margin."""
DRAWS = 200

NOTES = (
    "mask: the published mask's bounding box with the median margins of the training images. detector: the packaged "
    "compact one. mean: of both boxes, side by side. noise: published boxes against copies whose sides were moved at "
    "random by the noise below, as a perfect detector would meet them.",
    "side_std: pixels of 640×480; the part of a side's error that mask and detector share, taken for the noise of the "
    "published box. Test images with one annotated white cell that has a mask and was found.",
)


def box_noise_study(data: cfg.DataConfig, *, experiment: str, results: Path) -> Rows:
    """IoU of both estimates, of their mean and of a noisy copy; writes ``results/<experiment>.json``.

    Raises:
      DataError: if the data root lacks the boxes or the masks.
    """
    started = time.perf_counter()
    root = data_root(data)
    bccd = voc(root, strict=False)
    train, test = (bccd.select(names).of_classes((WHITE_CELLS,)) for names in detector_split(bccd))
    true, hulls, _ = single_cells(train, root)
    margin = np.array([np.median(side) for side in _interior(hulls, true - hulls)])

    true, hulls, chosen = single_cells(test, root)
    found = Detector.load()(list(load_images([test.paths[i] for i in chosen], strict=data.strict)))
    seen = np.array([len(cell.boxes) > 0 for cell in found], bool)
    true, hulls = true[seen], hulls[seen]
    detected = np.array([cell.boxes[0] for cell in found if len(cell.boxes)], np.float32)
    masks = np.clip(hulls + margin, 0, [640, 480, 640, 480])

    noise = shared_std(_interior(hulls, masks - true), _interior(hulls, detected - true))
    disturbed = true + np.random.default_rng(0).normal(0, noise, (DRAWS, *true.shape))
    boxes = {"mask": masks, "detector": detected, "mean": (masks + detected) / 2,
             "noise": np.clip(disturbed, 0, [640, 480, 640, 480])}
    common = {"model": "data", "input": "whole", "split": TEST}
    rows: Rows = [row(**common, metric="cells", value=len(true))]
    for variant, estimate in boxes.items():
        iou = paired_iou(estimate, np.broadcast_to(true, estimate.shape))
        rows += [row(**common, variant=variant, metric="mean_iou", value=iou.mean()),
                 row(**common, variant=variant, metric="median_iou", value=np.median(iou))]
    rows += [row(**common, metric="side_std", side=side, value=std) for side, std in zip(SIDES, noise, strict=True)]
    write_results(results / f"{experiment}.json", experiment=experiment, config={"draws": DRAWS, "border": BORDER},
                  rows=rows, seeds=0, data_fingerprint=fingerprint(bccd), wall_time=time.perf_counter() - started,
                  notes=NOTES)
    return rows


def single_cells(cells: DetectionSet, root: Path) -> tuple[Boxes, Boxes, list[int]]:
    """Box and mask's bounding box of the cell in each image that holds one with a mask, and the images' numbers.

    Raises:
      DataError: if there is no such image.
    """
    found = []
    for i, (name, boxes) in enumerate(zip(cells.names, cells.boxes, strict=True)):
        path = cell_mask_path(root, name)
        if len(boxes) != 1 or path is None:
            continue
        parts, part_of_box = matched_parts(read_cell_mask(path) != BACKGROUND, boxes)
        hull = hull_of(parts == part_of_box[0]) if part_of_box[0] else np.zeros(4)
        if area(hull) > 0 and paired_iou(hull, boxes[0]) >= MIN_IOU:
            found.append((boxes[0], hull, i))
    if not found:
        raise DataError(f"{root}: no image with one white cell and its mask; the study needs BCCD_masks")
    true, hulls, chosen = zip(*found, strict=True)
    return np.array(true, np.float32), np.array(hulls, np.float32), list(chosen)


def shared_std(
    a: list[Float[np.ndarray, "_"]], b: list[Float[np.ndarray, "_"]]
) -> Float[np.ndarray, "sides"]:
    """Root of the covariance of two estimates' errors, of each side; 0 where they contradict each other."""
    return np.array([np.sqrt(max(np.cov(x, y)[0, 1], 0)) for x, y in zip(a, b, strict=True)])


def _interior(hulls: Boxes, values: Boxes) -> list[Float[np.ndarray, "_"]]:
    """The values of each side, where the mask does not end at the image's border."""
    size = np.array([640, 480], np.float32)
    free: Bool[np.ndarray, "n 4"] = np.concatenate([hulls[:, :2] > BORDER, hulls[:, 2:] < size - BORDER], axis=1)
    return [values[free[:, k], k] for k in range(4)]
