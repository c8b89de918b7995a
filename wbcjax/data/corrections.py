"""BCCD's boxes with their gross errors corrected: white cells without a box, and boxes of another class.

Six images have no box of a white cell, though each shows one, and one image (BloodImage_00242) shows a second, cut off
by the border. Two of the seven (BloodImage_00133, _00135) do have the box, as one of platelets; and a box around
platelets (BloodImage_00113) is one of a white cell. The published masks show which; each drawing was looked at.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np

from wbcjax.data.cell_masks import BACKGROUND, cell_mask_path, read_cell_mask
from wbcjax.data.mask_sources import MIN_IOU, WHITE_CELLS, hull_of, matched_parts
from wbcjax.data.sets import DetectionSet
from wbcjax.data.voc import voc
from wbcjax.errors import DataError
from wbcjax.files import write_text
from wbcjax.ops.boxes import area, paired_iou, pairwise_iou
from wbcjax.typing import Bool, Box, Size

_TABLE = "corrections.csv"
_PLATELETS = "platelets"
_BORDER = 3  # pixels


@dataclass(frozen=True)
class Correction:
    """A box that is added, or gets another class."""

    name: str
    published: str
    """Class of the published box with these corners; empty where there is none, and the box is added."""
    corrected: str
    box: tuple[float, float, float, float]


@lru_cache(maxsize=1)
def corrections() -> tuple[Correction, ...]:
    """The packaged table."""
    text = (resources.files("wbcjax.data") / "tables" / _TABLE).read_text()
    return tuple(
        Correction(r["name"], r["published"], r["corrected"],
                   (float(r["x_min"]), float(r["y_min"]), float(r["x_max"]), float(r["y_max"])))
        for r in csv.DictReader(text.splitlines())
    )


def corrected(detection_set: DetectionSet, table: Iterable[Correction] | None = None) -> DetectionSet:
    """The set with its corrections; other images stay as they are. To be done before classes are chosen or masks added.

    Args:
      table: None takes the packaged one.

    Raises:
      DataError: the set has masks, or lacks a class or a box that is to be corrected.
    """
    index = {name: i for i, name in enumerate(detection_set.names)}
    boxes, labels = list(detection_set.boxes), [k.copy() for k in detection_set.labels]
    changes = [change for change in (corrections() if table is None else table) if change.name in index]
    if changes and detection_set.masks is not None:
        raise DataError("a set with masks has none for the boxes to be added; correct it first, then add masks")
    for change in changes:
        i, label = index[change.name], _label(detection_set, change.corrected)
        if not change.published:
            boxes[i] = np.concatenate([boxes[i], np.array([change.box], np.float32)])
            labels[i] = np.append(labels[i], np.int32(label))
            continue
        same = (boxes[i] == change.box).all(axis=1) & (labels[i] == _label(detection_set, change.published))
        if not same.any():
            raise DataError(
                f"{change.name}: has no box {change.box} of {change.published}, which is to become "
                f"{change.corrected}; use the published annotations"
            )
        labels[i][same] = label
    return replace(detection_set, boxes=tuple(boxes), labels=tuple(labels))


def _label(detection_set: DetectionSet, class_name: str) -> int:
    if class_name not in detection_set.class_names:
        raise DataError(f"a set of the classes {', '.join(detection_set.class_names)} has none for the correction to "
                        f"{class_name}; correct it first, then choose classes")
    return detection_set.class_names.index(class_name)


def derive_corrections(root: Path) -> tuple[Correction, ...]:
    """Derive the table from the published boxes and masks of a data root.

    - A connected part of the masks that no white cell's box holds gets one: its bounding box, and on each side the
      median margin of the published boxes around theirs. Where a published box of another class overlaps it by half,
      that one becomes a white cell's instead.
    - A white cell's box without any part, in size closer to the boxes of platelets, becomes one of platelets.

    Raises:
      DataError: the data root holds no BCCD, or a mask is missing.
    """
    published = voc(root)
    white = published.class_names.index(WHITE_CELLS)
    typical_area = [np.median(area(np.concatenate(published.boxes_of(name)))) for name in (WHITE_CELLS, _PLATELETS)]
    margins: list[Box] = []
    without_box: list[tuple[int, Box]] = []
    changes: list[Correction] = []
    for i, (name, size) in enumerate(zip(published.names, published.sizes, strict=True)):
        boxes = published.boxes[i][published.labels[i] == white]
        path = cell_mask_path(Path(root), name)
        if path is None:
            raise DataError(f"{root}: holds no mask of {name}; put the published masks into BCCD_masks")
        parts, part_of_box = matched_parts(read_cell_mask(path) != BACKGROUND, boxes)
        hulls = {part: hull_of(parts == part) for part in range(1, parts.max() + 1)}
        without_box += [(i, hull) for part, hull in hulls.items() if part not in part_of_box]
        for box, part in zip(boxes, part_of_box, strict=True):
            if part and paired_iou(hulls[part], box) >= MIN_IOU:
                margins.append(np.where(_at_border(hulls[part], size), np.nan, box - hulls[part]))
            elif not part and np.argmin(np.abs(np.log(area(box) / typical_area))) == 1:
                changes.append(Correction(name, WHITE_CELLS, _PLATELETS, tuple(box.tolist())))
    margin = np.round(np.nanmedian(margins, axis=0)).astype(np.float32)
    for i, hull in without_box:
        height, width = published.sizes[i]
        box = np.clip(hull + margin, 1, np.float32([width, height, width, height]))  # 1 is where published boxes start
        was = ""
        overlap = pairwise_iou(box[None], published.boxes[i])[0]
        if overlap.max(initial=0) >= MIN_IOU:
            other = np.argmax(overlap)
            was, box = published.class_names[published.labels[i][other]], published.boxes[i][other]
        changes.append(Correction(published.names[i], was, WHITE_CELLS, tuple(box.tolist())))
    return tuple(sorted(changes, key=lambda change: change.name))


def _at_border(box: Box, size: Size) -> Bool[np.ndarray, "4"]:
    """Which sides of a box lie at the image's border."""
    return np.concatenate([box[:2] <= _BORDER, box[2:] >= np.array(size[::-1]) - _BORDER])


def write_corrections(table: Iterable[Correction], path: Path) -> None:
    """Write the table as CSV, as the package holds it."""
    lines = ["name,published,corrected,x_min,y_min,x_max,y_max"]
    lines += [",".join([c.name, c.published, c.corrected, *(f"{corner:g}" for corner in c.box)]) for c in table]
    write_text(Path(path), "\n".join(lines) + "\n")
