"""COCO detection annotations: one JSON file and a folder of images."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from wbcjax.data.images import image_size
from wbcjax.data.masks import segmentation_mask
from wbcjax.data.sets import DetectionSet
from wbcjax.data.voc import Complain, check_box, inside, stop, warn
from wbcjax.errors import DataError
from wbcjax.files import parse_json
from wbcjax.typing import Size


def coco(json_path: Path, image_dir: Path, *, strict: bool = False, masks: bool = True) -> DetectionSet:
    """Read a COCO data set.

    Args:
      json_path: the annotation file.
      image_dir: the folder that its file names are relative to.
      strict: stop at the first box without area or outside its image, image of another size than stated, or
        object without a mask where others have one. False (the default, since published sets hold a few)
        drops or clips such boxes, uses the image's own size, fills the box of such objects, and logs one
        warning for each.
      masks: decode the segmentations, where there are any. They are dense, (boxes, height, width) a file:
        switch them off where they are not needed.

    Returns:
      Files in the order of the JSON's images, classes in the order of their category id. Crowd regions
      (``iscrowd``) are no objects and left out.

    Raises:
      DataError: a missing or malformed file, naming the image and the annotation id.
    """
    json_path, image_dir, complain = Path(json_path), Path(image_dir), stop if strict else warn
    content = read_json(json_path)
    if not image_dir.is_dir():
        raise DataError(f"{image_dir}: no such folder of images; check the path")
    names = {c["id"]: c["name"] for c in records(json_path, content, "categories", id=int, name=str)}
    images = records(json_path, content, "images", id=int, file_name=str)
    if len({image["id"] for image in images}) < len(images):
        raise DataError(f"{json_path}: two images have the same id; give each its own")
    annotations = records(json_path, content, "annotations", id=int, image_id=int, category_id=int)

    index = {category: i for i, category in enumerate(sorted(names))}
    of_image: dict[int, list[dict]] = {image["id"]: [] for image in images}
    for annotation in annotations:
        where = f"{json_path}: annotation {annotation['id']}"
        if annotation["image_id"] not in of_image:
            raise DataError(f"{where} is for image {annotation['image_id']}, which is not listed; remove it")
        if annotation["category_id"] not in index:
            raise DataError(f"{where} has category {annotation['category_id']}, which is not listed; correct it")
        if not annotation.get("iscrowd"):
            of_image[annotation["image_id"]].append(annotation)
    masks = masks and any(a.get("segmentation") for group in of_image.values() for a in group)

    paths, sizes, all_boxes, all_labels, all_masks = [], [], [], [], []
    for image in images:
        path = inside(image_dir, image["file_name"], f"{json_path}: image {image['id']}")
        if not os.path.isfile(path):  # False, too, for a name that no file system takes
            raise DataError(f"{path}: image {image['id']} of {json_path.name} is missing; add it or remove its entry")
        size = _image_size(path, image, complain)
        boxes, labels, shapes = [], [], []
        for annotation in of_image[image["id"]]:
            name = names[annotation["category_id"]]
            where = f"{image['file_name']}: {name} annotation {annotation['id']}"
            shape = _mask(annotation, size, where, complain) if masks else None
            box = check_box(_corners(annotation, where), size, where, complain)
            if box is None:
                continue
            if masks:
                shapes.append(_fitted(shape, box, size, where))
            boxes.append(box)
            labels.append(index[annotation["category_id"]])
        paths.append(path)
        sizes.append(size)
        all_boxes.append(np.array(boxes, np.float32).reshape(-1, 4))
        all_labels.append(np.array(labels, np.int32))
        all_masks.append(np.array(shapes, bool).reshape(-1, *size))
    return DetectionSet(
        tuple(paths),
        tuple(all_boxes),
        tuple(all_labels),
        tuple(names[category] for category in sorted(names)),
        tuple(sizes),
        tuple(all_masks) if masks else None,
    )


def read_json(path: Path) -> dict:
    """The content of a COCO file.

    Raises:
      DataError: missing, or no JSON table.
    """
    try:
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path") from None
    except ValueError as error:
        raise DataError(f"{path}: not valid JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a COCO file (a {type(content).__name__}, not a table); choose another")
    return content


def records(path: Path, content: dict, key: str, **fields: type) -> list[dict]:
    """The list ``content[key]``, each a table with the given fields.

    Raises:
      DataError: there is no such list, or an entry lacks a field.
    """
    records = content.get(key)
    if not isinstance(records, list):
        raise DataError(f"{path}: not a COCO detection file (no list {key!r}); choose another")
    for number, record in enumerate(records, start=1):
        for name, kind in fields.items():
            value = record.get(name) if isinstance(record, dict) else None
            if not isinstance(value, kind) or isinstance(value, bool):
                raise DataError(
                    f"{path}: {key} entry {number} has {name} = {value!r}, expected {kind.__name__}; correct it"
                )
    return records


def _image_size(path: Path, image: dict, complain: Complain) -> Size:
    size = image_size(path)
    stated = (image.get("height"), image.get("width"))
    if None not in stated and stated != size:
        complain(
            f"{path}: {size[1]}×{size[0]} pixels, the JSON says {stated[1]}×{stated[0]}",
            "the image's size is used",
            "correct the entry, or use the image's size",
        )
    return size


def _corners(annotation: dict, where: str) -> tuple[float, float, float, float]:
    box: Any = annotation.get("bbox")
    numbers = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)
    if not numbers or not all(abs(v) <= sys.float_info.max for v in box):
        raise DataError(f"{where} has bbox = {box!r}, expected [x, y, width, height]; correct it")
    x, y, width, height = map(float, box)
    return x, y, x + width, y + height


def _mask(annotation: dict, size: Size, where: str, complain: Complain) -> np.ndarray | None:
    """The decoded mask, or None where the annotation has none."""
    segmentation = annotation.get("segmentation")
    if not segmentation:
        complain(f"{where} has no mask while others have", "its box is filled", "add it, or fill its box")
        return None
    try:
        return segmentation_mask(segmentation, size)
    except ValueError as error:
        raise DataError(f"{where} has {error}; correct it, or read with masks=False") from None


def _fitted(mask: np.ndarray | None, box: tuple, size: Size, where: str) -> np.ndarray:
    """The mask, which must share a pixel with its box; the filled box where there is none."""
    x0, y0, x1, y1 = np.floor(box[:2]).astype(int).tolist() + np.ceil(box[2:]).astype(int).tolist()
    if mask is None:
        mask = np.zeros(size, bool)
        mask[y0:y1, x0:x1] = True
    elif not mask[y0:y1, x0:x1].any():
        raise DataError(f"{where} has its mask outside its box; correct one of them, or read with masks=False")
    return mask
