"""Pascal VOC annotations: a folder with Annotations/*.xml and JPEGImages/.

Coordinates are taken as published and as continuous: labelImg, which drew BCCD's boxes, writes the pixel
position of the box's edges, clipped to at least 1 on the left and top and to the width and height on the
right and bottom.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from xml.etree.ElementTree import Element, ParseError

import numpy as np

from wbcjax.data.images import IMAGE_SUFFIXES, image_size
from wbcjax.data.sets import DetectionSet
from wbcjax.errors import DataError
from wbcjax.typing import DETECTION_CLASS_NAMES, Boxes, Size

log = logging.getLogger(__name__)

_CORNERS = ("xmin", "ymin", "xmax", "ymax")

Complain = Callable[[str, str, str], None]
"""Called with a problem that can be mended, what mends it, and the remedy where it stops."""


def stop(problem: str, done: str, remedy: str) -> None:
    """The strict way; raises DataError."""
    raise DataError(f"{problem}; {remedy} with strict=False")


def warn(problem: str, done: str, remedy: str) -> None:
    """The lenient way: log one warning."""
    log.warning("%s; %s", problem, done)


@dataclass(frozen=True, eq=False)
class Annotation:
    """One annotation file as read."""

    path: Path
    """The image."""
    size: Size
    names: list[str]
    """Class of each box, as written."""
    boxes: Boxes


def find_voc(root: Path) -> Path | None:
    """The folder with Annotations/ at or under ``root`` (BCCD_Dataset/BCCD, BCCD); None when there is none."""
    folders = (Path(root), Path(root) / "BCCD_Dataset" / "BCCD", Path(root) / "BCCD")
    return next((folder for folder in folders if (folder / "Annotations").is_dir()), None)


def voc_folder(root: Path) -> Path:
    """The folder with Annotations/ and JPEGImages/ at or under ``root`` (BCCD_Dataset/BCCD, BCCD).

    Raises:
      DataError: there is none.
    """
    folder = find_voc(root)
    if folder is None:
        raise DataError(
            f"{root}: holds no VOC data set (a folder Annotations, or BCCD_Dataset/BCCD); "
            f"check the data root, or run `wbcjax data download`"
        )
    if not (folder / "JPEGImages").is_dir():
        raise DataError(f"{folder / 'JPEGImages'}: no such folder beside Annotations; put the images there")
    return folder


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
    complain = stop if strict else warn
    parsed = [read_annotation(file, folder / "JPEGImages", complain) for file in files]

    found = {name for annotation in parsed for name in annotation.names}
    if {name.lower() for name in found} <= set(DETECTION_CLASS_NAMES):
        class_names = DETECTION_CLASS_NAMES
        index = {name: class_names.index(name.lower()) for name in found}
    else:
        class_names = tuple(sorted(found))
        index = {name: i for i, name in enumerate(class_names)}
    return DetectionSet(
        paths=tuple(a.path for a in parsed),
        boxes=tuple(a.boxes for a in parsed),
        labels=tuple(np.array([index[name] for name in a.names], np.int32) for a in parsed),
        class_names=class_names,
        sizes=tuple(a.size for a in parsed),
    )


def read_annotation(file: Path, images: Path, complain: Complain) -> Annotation:
    """Read one XML file, of an image in the folder ``images``.

    Args:
      complain: called for what can be mended, ``stop`` or ``warn``.

    Raises:
      DataError: no VOC annotation, or its image is missing.
    """
    import defusedxml.ElementTree  # here, so that training on a bare machine can do without

    try:
        tree = defusedxml.ElementTree.parse(file).getroot()
    except defusedxml.DefusedXmlException:
        raise DataError(f"{file}: declares XML entities, which no annotation needs; remove the declaration") from None
    except (ParseError, LookupError, ValueError) as error:  # the latter two for an encoding that is none
        raise DataError(f"{file}: not valid XML ({error}); download it again or delete it with its image") from None
    if tree.tag != "annotation":
        raise DataError(f"{file}: not a VOC annotation (its root is <{tree.tag}>, not <annotation>); delete it")

    path = _image_of(file, tree, images)
    size = image_size(path)
    _check_size(file, tree, size, complain)
    names, boxes = [], []
    for number, element in enumerate(tree.findall("object"), start=1):
        name = (element.findtext("name") or "").strip()
        if not name:
            raise DataError(f"{file}: box {number} has no <name>; give its class")
        box = check_box(_corners(file, number, element), size, f"{file.stem}: {name} box {number}", complain)
        if box is not None:
            names.append(name)
            boxes.append(box)
    if tree.find("object") is None:
        complain(
            f"{file.stem}: the annotation holds no boxes",
            "kept as an image without cells",
            "annotate it, or keep it as an image without cells",
        )
    return Annotation(path, size, names, np.array(boxes, np.float32).reshape(-1, 4))


def _image_of(file: Path, tree: Element, images: Path) -> Path:
    """The image that <filename> names; failing that, the one with the annotation's own stem."""
    named = (tree.findtext("filename") or "").strip()
    candidates = [inside(images, named, str(file))] if named else []
    candidates += [images / (file.stem + suffix) for suffix in IMAGE_SUFFIXES]
    for path in candidates:
        if os.path.isfile(path):  # False, too, for a name that no file system takes
            return path
    raise DataError(f"{file}: its image {candidates[0]} is missing; add the image or delete the annotation")


def _check_size(file: Path, tree: Element, size: Size, complain: Complain) -> None:
    texts = [(tree.findtext(f"size/{side}") or "").strip() for side in ("height", "width")]
    stated = tuple(int(text) if text.isdecimal() and len(text) < 10 else 0 for text in texts)
    if 0 not in stated and stated != size:  # many tools write 0 or nothing
        complain(
            f"{file.stem}: the annotation says {stated[1]}×{stated[0]} pixels, the image has {size[1]}×{size[0]}",
            "the image's size is used",
            "correct <size> or the image, or use the image's size",
        )


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


def check_box(
    box: tuple[float, ...], size: Size, where: str, complain: Complain
) -> tuple[float, ...] | None:
    """The box clipped to its image, or None when it has no area there, with one complaint.

    Args:
      box: xyxy.
      size: (height, width) of the image.
      where: the image, class and number of the box, which start the message.
    """
    x0, y0, x1, y1 = box
    height, width = size
    shown = "(" + ", ".join(f"{v:g}" for v in box) + ")"
    if x1 <= x0 or y1 <= y0:
        side, extent = ("width", x1 - x0) if x1 <= x0 else ("height", y1 - y0)
        problem, done, kept = f"has {'negative' if extent else 'zero'} {side} {shown}", "dropped", None
    elif x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        kept = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
        gone = kept[2] <= kept[0] or kept[3] <= kept[1]
        problem = f"{'lies' if gone else 'reaches'} outside the {width}×{height} image {shown}"
        done, kept = ("dropped", None) if gone else ("clipped", kept)
    else:
        return box
    complain(f"{where} {problem}", done, f"correct the annotation, or have it {done}")
    return kept
