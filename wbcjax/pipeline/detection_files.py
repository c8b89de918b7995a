"""Detections as files: drawn images, one COCO JSON with masks, and one CSV of the boxes."""

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from faster_coco_eval import mask as rle

from wbcjax.data.images import IMAGE_SUFFIXES
from wbcjax.errors import ConfigError, DataError
from wbcjax.evaluation.detection import ImageDetections
from wbcjax.files import replacing, write_text
from wbcjax.report import style
from wbcjax.report.overlay import draw_objects
from wbcjax.report.pictures import AnyImage
from wbcjax.typing import Size


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The files among ``paths``, and the images of the folders among them in the order of their names.

    Raises:
      DataError: if a folder holds no image.
    """
    files: list[Path] = []
    for path in paths:
        found = [path]
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES)
            if not found:
                raise DataError(f"{path}: holds no image; name files, or another folder")
        files += found
    return files


def names_below(paths: Sequence[Path]) -> list[str]:
    """Each path relative to the folder that holds all of them: the name of its image in the files written.

    Raises:
      ConfigError: if two would be drawn into the same PNG.
    """
    full = [path.absolute() for path in paths]
    common = os.path.commonpath([path.parent for path in full])
    names = [path.relative_to(common).as_posix() for path in full]
    drawn: dict[str, str] = {}
    for name in names:
        other = drawn.setdefault(Path(name).with_suffix(".png").as_posix(), name)
        if name != other or names.count(name) > 1:
            raise ConfigError(f"{other} and {name} would be drawn into the same PNG; give one of them alone")
    return names


def write_detections(
    out: Path,
    names: Sequence[str],
    images: Sequence[AnyImage],
    found: Sequence[ImageDetections],
    class_names: Sequence[str],
) -> None:
    """Write ``detections.json``, ``detections.csv`` and for each image its name's PNG with what was found drawn."""
    for name, image, objects in zip(names, images, found, strict=True):
        captions = [f"{class_names[label]} {score:.2f}"
                    for label, score in zip(objects.labels.tolist(), objects.scores.tolist(), strict=True)]
        colors = [style.SERIES[label % len(style.SERIES)] for label in objects.labels.tolist()]
        drawn = draw_objects(image, objects.boxes, objects.masks, captions, colors)
        data = cv2.imencode(".png", cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))[1]
        with replacing(out / Path(name).with_suffix(".png")) as temporary:
            temporary.write_bytes(data.tobytes())
    sizes = [image.shape[:2] for image in images]
    write_text(out / "detections.json", json.dumps(as_coco(names, sizes, found, class_names)) + "\n")
    write_text(out / "detections.csv", as_csv(names, found, class_names))


def as_coco(
    names: Sequence[str], sizes: Sequence[Size], found: Sequence[ImageDetections], class_names: Sequence[str]
) -> dict:
    """The detections as a COCO data set, with scores; ``wbcjax.data.coco`` reads it."""
    objects = []
    for number, image in enumerate(found, start=1):
        for box, score, label, mask in zip(image.boxes, image.scores, image.labels, image.masks, strict=True):
            left, top, right, bottom = box.tolist()
            shape = rle.encode(np.asfortranarray(mask, np.uint8))
            runs = {"size": list(mask.shape), "counts": shape["counts"].decode("ascii")}
            objects.append({
                "id": len(objects) + 1, "image_id": number, "category_id": int(label) + 1, "iscrowd": 0,
                "bbox": [left, top, right - left, bottom - top], "score": float(score), "area": int(mask.sum()),
                "segmentation": runs if mask.any() else [],
            })
    return {
        "images": [{"id": number, "file_name": name, "height": height, "width": width}
                   for number, (name, (height, width)) in enumerate(zip(names, sizes, strict=True), start=1)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)],
        "annotations": objects,
    }


def as_csv(names: Sequence[str], found: Sequence[ImageDetections], class_names: Sequence[str]) -> str:
    """One line a detection: image, class, score, the box in pixels of the image, and the pixels of its mask."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["image", "class", "score", "x_min", "y_min", "x_max", "y_max", "mask_area"])
    for name, image in zip(names, found, strict=True):
        for box, score, label, mask in zip(image.boxes, image.scores, image.labels, image.masks, strict=True):
            corners = [f"{corner:.2f}" for corner in box.tolist()]
            table.writerow([name, class_names[label], f"{score:.4f}", *corners, int(mask.sum())])
    return text.getvalue()
