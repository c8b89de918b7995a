"""Which original smear each file of dataset2-master was made from, and by which affine map.

The 12,515 files are rotated, shifted, sheared and flipped copies of 348 originals, and their names do not
tell which. The table that ships in ``tables/`` was recovered from the images by SIFT and RANSAC
(``registration.py``); ``recompute`` makes it again.

An affine map ``[[a, b, tx], [c, d, ty]]`` takes the pixel centres (OpenCV's convention) of the original
resized to 320×240 to those of the file. Boxes are continuous (``wbcjax.typing``), half a pixel off;
``map_boxes`` accounts for it.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np

from wbcjax.data.images import read_image
from wbcjax.data.provenance_table import Provenance, original_name, read_table, write_table
from wbcjax.data.registration import build_index, register_files
from wbcjax.data.sets import ClassificationSet, DetectionSet
from wbcjax.errors import DataError
from wbcjax.typing import Boxes, Float, Size

__all__ = [
    "FILE_SIZE",
    "ORIGINAL_SIZE",
    "Provenance",
    "load",
    "map_boxes",
    "original_files",
    "original_name",
    "read_table",
    "recompute",
    "wbc_boxes",
    "write_table",
]

log = logging.getLogger(__name__)

FILE_SIZE = (240, 320)
"""(height, width) of the files of dataset2-master."""
ORIGINAL_SIZE = (480, 640)
"""(height, width) of the originals."""
MIN_INLIERS = 20
"""``recompute`` leaves out a file of which fewer matches agree; of the real files the worst has 45."""
_TABLE = "provenance.npz"


@lru_cache(maxsize=4)
def _packaged() -> Provenance:
    return read_table(Path(str(resources.files("wbcjax.data") / "tables" / _TABLE)))


@lru_cache(maxsize=4)
def _read_cached(path: Path, mtime_ns: int) -> Provenance:
    return read_table(path)


def load(root: Path | None = None) -> Provenance:
    """The table for a data root: its own ``provenance.csv`` where there is one, otherwise the packaged table.

    Args:
      root: the data root, or any folder or file in it (``blood-cells/…/images``): the folders above are
        searched too.
    """
    if root is not None:
        start = Path(root).absolute()
        for folder in (start, *start.parents[:8]):
            path = folder / "provenance.csv"
            if path.is_file():
                return _read_cached(path, path.stat().st_mtime_ns)
    return _packaged()


def map_boxes(
    boxes: Boxes,
    affine: Float[np.ndarray, "2 3"],
    original_size: Size = ORIGINAL_SIZE,
    file_size: Size = FILE_SIZE,
) -> Boxes:
    """Boxes of an original, in the pixels of a file made from it.

    The result is the axis-aligned hull of the mapped *inscribed ellipse*, since a turned cell stays round and
    the hull of the turned rectangle would be too large; clipped to the file, so a box that left the image has
    no area.

    Args:
      boxes: xyxy in the pixels of the original.
      affine: from the original resized to ``file_size`` to the file, in pixel-centre coordinates.
    """
    height, width = file_size
    scale = np.array([width / original_size[1], height / original_size[0]])
    linear = np.asarray(affine[:, :2], np.float64)
    low, high = boxes[:, :2] * scale, boxes[:, 2:] * scale
    centre = ((low + high) / 2 - 0.5) @ linear.T + affine[:, 2] + 0.5
    # An ellipse's half extent along an axis is the norm of the map's row, scaled by the radii.
    extent = np.sqrt(((high - low) / 2) ** 2 @ (linear**2).T)
    mapped = np.concatenate([centre - extent, centre + extent], axis=1)
    return np.clip(mapped, 0, [width, height, width, height]).astype(np.float32)


def wbc_boxes(
    classification_set: ClassificationSet,
    detection_set: DetectionSet,
    *,
    table: Provenance | None = None,
    file_size: Size = FILE_SIZE,
) -> tuple[Float[np.ndarray, "_ 4"], ...]:
    """The WBC boxes of every file of a classification set, mapped from the boxes of its original.

    A file whose original has no WBC box, or none at all in ``detection_set``, gets an empty (0, 4) array; so
    does one from which the cell was shifted out (less than a pixel left). A file that is an original itself
    (found by its stem) gets the original's boxes as they are.

    Args:
      table: the provenance table; None finds the one that belongs to the files, see ``load``.
    """
    if len(classification_set) == 0:
        return ()
    table = load(classification_set.paths[0]) if table is None else table
    known = dict(
        zip(
            detection_set.names,
            zip(detection_set.boxes_of("wbc"), detection_set.sizes, strict=True),
            strict=True,
        )
    )
    empty = np.zeros((0, 4), np.float32)
    result = []
    for path, name in zip(classification_set.paths, classification_set.names, strict=True):
        if name not in table and path.stem in known:
            result.append(known[path.stem][0])
            continue
        row = table.row(name)
        boxes, size = known.get(original_name(int(table.source[row])), (empty, ORIGINAL_SIZE))
        mapped = map_boxes(boxes, table.affine[row], size, file_size)
        result.append(mapped[((mapped[:, 2:] - mapped[:, :2]) >= 1).all(axis=1)])
    return tuple(result)


def original_files(root: Path) -> dict[str, Path]:
    """The image of every original below a data root, by its name: 364 of BCCD and three of dataset-master.

    Raises:
      DataError: there is none.
    """
    root = Path(root)
    folders = (
        root / "dataset-master" / "dataset-master" / "JPEGImages",
        root / "blood-cells" / "dataset-master" / "dataset-master" / "JPEGImages",
        root / "BCCD_Dataset" / "BCCD" / "JPEGImages",
    )
    found = {path.stem: path for folder in folders for path in sorted(folder.glob("BloodImage_*.jpg"))}
    if not found:
        raise DataError(
            f"{root}: holds no originals (BCCD_Dataset/BCCD/JPEGImages/BloodImage_*.jpg); "
            f"check the data root, or run `wbcjax data download`"
        )
    return dict(sorted(found.items()))


def recompute(
    root: Path,
    files: Sequence[str] | None = None,
    *,
    originals: Sequence[str] | None = None,
    workers: int | None = None,
    progress: bool = False,
) -> Provenance:
    """Recover the table from the images: SIFT and RANSAC of every file against every original.

    About 0.3 s a file on one core, an hour for all; write the result with ``write_table``.

    Args:
      root: the data root.
      files: names (``TRAIN/MONOCYTE/_0_5020.jpeg``) to do; None does all of TRAIN, TEST and TEST_SIMPLE.
      originals: names to search among; None is all there are.
      workers: processes; None is one a core, 1 stays in this process.

    Returns:
      One row a file. A file for which no original reaches ``MIN_INLIERS`` is left out, with a warning.

    Raises:
      DataError: a missing folder, or a file that is no image.
    """
    from wbcjax.data.kaggle import SPLITS, images_folder  # kaggle reads this module's table

    folder = images_folder(root)
    if files is None:
        paths = [p for split in SPLITS for p in sorted((folder / split).glob("*/*.jpeg"))]
        files = ["/".join(p.parts[-3:]) for p in paths]
    available = original_files(root)
    names = tuple(available if originals is None else originals)
    missing = [name for name in names if name not in available]
    if missing:
        raise DataError(f"{root}: holds no image of the original {missing[0]}; check the name")
    index = build_index(names, [read_image(available[name]) for name in names], FILE_SIZE)
    matches = register_files([folder / name for name in files], index, workers=workers, progress=progress)

    kept = []
    for name, match in zip(files, matches, strict=True):
        if match.inliers >= MIN_INLIERS:
            kept.append((name, match))
        else:
            log.warning("%s: no original found (%d matches at most agree); left out", name, match.inliers)

    def numbers(values) -> np.ndarray:
        return np.array([-1 if v is None else int(str(v).rsplit("_", 1)[-1]) for v in values], np.int32)

    return Provenance(
        names=tuple(name for name, _ in kept),
        source=numbers(match.name for _, match in kept),
        inliers=numbers(match.inliers for _, match in kept),
        second_source=numbers(match.second_name for _, match in kept),
        second_inliers=numbers(match.second_inliers for _, match in kept),
        affine=np.array([match.affine for _, match in kept], np.float32).reshape(-1, 2, 3),
    )
