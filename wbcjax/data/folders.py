"""Any folder of class folders: ``root/<class>/<image>``."""

import logging
from pathlib import Path

import numpy as np

from wbcjax.data.images import IMAGE_SUFFIXES
from wbcjax.data.sets import ClassificationSet
from wbcjax.errors import DataError

log = logging.getLogger(__name__)


def images_in(folder: Path, *, strict: bool = True) -> list[Path]:
    """The image files directly in a folder, by name; other files are left alone.

    Raises:
      DataError: the folder is missing, or (strict) holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; check the path, or download the data set again")
    files = sorted(
        p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith(".") and p.is_file()
    )
    if not files:
        message = f"{folder}: holds no image ({', '.join(IMAGE_SUFFIXES)})"
        if strict:
            raise DataError(f"{message}; add images, delete the folder, or read with strict=False")
        log.warning("%s", message)
    return files


def class_folders(root: Path, *, strict: bool = True) -> ClassificationSet:
    """Read a folder of class folders; each file is its own source.

    Args:
      root: the folder; its subfolders are the classes, in the order of their names.
      strict: stop at a class folder without images; False keeps the class, empty, with a warning.

    Raises:
      DataError: no such folder, no class folder in it, no image at all, or (strict) an empty class folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; check the path")
    classes = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))
    if not classes:
        raise DataError(f"{root}: holds no class folder; put the images of each class into a folder named after it")
    files = [images_in(folder, strict=strict) for folder in classes]
    paths = tuple(path for group in files for path in group)
    if not paths:
        raise DataError(f"{root}: no class folder holds an image; add images ({', '.join(IMAGE_SUFFIXES)})")
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(group) for group in files])
    return ClassificationSet(paths, labels, tuple(p.stem for p in paths), tuple(folder.name for folder in classes))
