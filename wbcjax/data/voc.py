"""Pascal VOC annotations: a folder with Annotations/*.xml and JPEGImages/.

Coordinates are taken as published and as continuous: labelImg, which drew BCCD's boxes, writes the pixel
position of the box's edges, clipped to at least 1 on the left and top and to the width and height on the
right and bottom.
"""

import logging
from pathlib import Path, PurePosixPath, PureWindowsPath
from xml.etree.ElementTree import Element, ParseError

import defusedxml
import defusedxml.ElementTree
import numpy as np

from wbcjax.data.images import IMAGE_SUFFIXES, image_size
from wbcjax.data.sets import DetectionSet
from wbcjax.errors import DataError
from wbcjax.typing import DETECTION_CLASS_NAMES, Size

log = logging.getLogger(__name__)

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


def voc_folder(root: Path) -> Path:
    """The folder with Annotations/ and JPEGImages/ at or under ``root`` (BCCD_Dataset/BCCD, BCCD).

    Raises:
      DataError: there is none.
    """
    root = Path(root)
    for folder in (root, root / "BCCD_Dataset" / "BCCD", root / "BCCD"):
        if (folder / "Annotations").is_dir():
            if not (folder / "JPEGImages").is_dir():
                raise DataError(f"{folder / 'JPEGImages'}: no such folder beside Annotations; put the images there")
            return folder
    raise DataError(
        f"{root}: holds no VOC data set (a folder Annotations, or BCCD_Dataset/BCCD); "
        f"check the data root, or run `wbcjax data download`"
    )


def inside(folder: Path, name: str, origin: str) -> Path:
    """``folder / name``, for a name read from an annotation file.

    Raises:
      DataError: the name is empty, absolute, or climbs out of the folder.
    """
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    if not name or "\0" in name or ".." in parts or PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor:
        raise DataError(f"{origin}: the file name {name!r} leaves the image folder; give a path relative to it")
    return folder / name


def voc(root: Path, *, strict: bool = False) -> DetectionSet:
    """Read a VOC data set.

    Args:
      root: a data root that holds BCCD_Dataset/BCCD, or any folder with Annotations/ and JPEGImages/.
      strict: stop at the first box without area or outside its image, annotation without boxes, or image of
        another size than its annotation says. False (the default, since two published BCCD boxes have no
        area) drops boxes without area, clips boxes to the image, keeps images without boxes, and logs one
        warning for each.

    Returns:
      Files in the order of their names. Classes are ``DETECTION_CLASS_NAMES`` for BCCD, otherwise the sorted
      names found.

    Raises:
      DataError: a missing folder or image, a file that is no VOC annotation, and in strict mode the above.
    """
    folder = voc_folder(root)
    files = sorted((folder / "Annotations").glob("*.xml"))
    if not files:
        raise DataError(f"{folder / 'Annotations'}: holds no .xml file; put one annotation an image there")
    parsed = [_read_annotation(file, folder / "JPEGImages", strict) for file in files]

    found = {name for _, _, names, _ in parsed for name in names}
    if {name.lower() for name in found} <= set(DETECTION_CLASS_NAMES):
        class_names, index = (
            DETECTION_CLASS_NAMES,
            {name: DETECTION_CLASS_NAMES.index(name.lower()) for name in found},
        )
    else:
        class_names = tuple(sorted(found))
        index = {name: i for i, name in enumerate(class_names)}
    return DetectionSet(
        paths=tuple(path for path, _, _, _ in parsed),
        boxes=tuple(boxes for _, boxes, _, _ in parsed),
        labels=tuple(np.array([index[name] for name in names], np.int32) for _, _, names, _ in parsed),
        class_names=class_names,
        sizes=tuple(size for _, _, _, size in parsed),
    )


def _read_annotation(file: Path, images: Path, strict: bool) -> tuple[Path, np.ndarray, list[str], Size]:
    """(image path, boxes, class name of each box, image size) of one XML file."""
    try:
        tree = defusedxml.ElementTree.parse(file).getroot()
    except ParseError as error:
        raise DataError(f"{file}: not valid XML ({error}); download it again or delete it with its image") from None
    except defusedxml.DefusedXmlException:
        raise DataError(f"{file}: declares XML entities, which no annotation needs; remove the declaration") from None
    if tree.tag != "annotation":
        raise DataError(f"{file}: not a VOC annotation (its root is <{tree.tag}>, not <annotation>); delete it")

    path = _image_of(file, tree, images)
    size = image_size(path)
    _check_size(file, tree, size, strict)
    names, boxes = [], []
    for number, element in enumerate(tree.findall("object"), start=1):
        name = (element.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{file}: box {number} has no <name>; give its class")
        box = check_box(_corners(file, number, element), size, f"{file.stem}: {name} box {number}", strict)
        if box is not None:
            names.append(name)
            boxes.append(box)
    if tree.find("object") is None:
        message = f"{file.stem}: the annotation holds no boxes"
        if strict:
            raise DataError(f"{message}; annotate it, or keep it as an image without cells with strict=False")
        log.warning("%s; kept as an image without cells", message)
    return path, np.array(boxes, np.float32).reshape(-1, 4), names, size


def _image_of(file: Path, tree: Element, images: Path) -> Path:
    """The image that <filename> names; failing that, the one with the annotation's own stem."""
    named = (tree.findtext("filename") or "").strip()
    candidates = [inside(images, named, str(file))] if named else []
    candidates += [images / (file.stem + suffix) for suffix in IMAGE_SUFFIXES]
    for path in candidates:
        if path.is_file():
            return path
    raise DataError(f"{file}: its image {candidates[0]} is missing; add the image or delete the annotation")


def _check_size(file: Path, tree: Element, size: Size, strict: bool) -> None:
    texts = [(tree.findtext(f"size/{side}") or "").strip() for side in ("height", "width")]
    stated = tuple(int(text) if text.isdecimal() else 0 for text in texts)
    if 0 in stated or stated == size:  # many tools write 0 or nothing
        return
    message = f"{file.stem}: the annotation says {stated[1]}×{stated[0]} pixels, the image has {size[1]}×{size[0]}"
    if strict:
        raise DataError(f"{message}; correct <size> or the image, or use the image's size with strict=False")
    log.warning("%s; the image's size is used", message)


def _corners(file: Path, number: int, element: Element) -> tuple[float, ...]:
    values = [element.findtext(f"bndbox/{corner}") for corner in _CORNERS]
    try:
        box = tuple(float(value) for value in values)  # a missing corner is None: TypeError
    except (TypeError, ValueError):
        box = (np.nan,)
    if not np.all(np.isfinite(box)):
        found = ", ".join(f"{c}={v}" for c, v in zip(_CORNERS, values, strict=True))
        raise DataError(f"{file}: box {number} has no four numbers in <bndbox> ({found}); correct it")
    return box


def check_box(box: tuple[float, ...], size: Size, where: str, strict: bool) -> tuple[float, ...] | None:
    """The box clipped to its image, or None when it has no area there, with one warning; strict raises
    instead.

    Args:
      box: xyxy.
      size: (height, width) of the image.
      where: the image, class and number of the box, which start the message.
    """
    x0, y0, x1, y1 = box
    height, width = size
    shown = "(" + ", ".join(f"{v:g}" for v in box) + ")"
    if x1 <= x0 or y1 <= y0:
        side = "width" if x1 <= x0 else "height"
        sign = "zero" if (x1 == x0 if side == "width" else y1 == y0) else "negative"
        problem, remedy, kept = f"has {sign} {side} {shown}", "dropped", None
    elif x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
        gone = clipped[2] <= clipped[0] or clipped[3] <= clipped[1]
        problem = f"{'lies' if gone else 'reaches'} outside the {width}×{height} image {shown}"
        remedy, kept = ("dropped", None) if gone else ("clipped", clipped)
    else:
        return box
    if strict:
        raise DataError(f"{where} {problem}; correct the annotation, or have it {remedy} with strict=False")
    log.warning("%s %s; %s", where, problem, remedy)
    return kept
