"""Which original smear each file of dataset2-master was made from, and by which affine map.

The 12,515 files are rotated, shifted, sheared and flipped copies of 348 originals, and their names do not
tell which. The table that ships in ``tables/`` was recovered from the images by SIFT and RANSAC
(``registration.py``); ``recompute`` makes it again.

An affine map ``[[a, b, tx], [c, d, ty]]`` takes the pixel centres (OpenCV's convention) of the original
resized to 320×240 to those of the file. Boxes are continuous (``wbcjax.typing``), half a pixel off;
``map_boxes`` accounts for it.
"""

import csv
import io
import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path

import numpy as np

from wbcjax.data.sets import ClassificationSet, DetectionSet
from wbcjax.errors import DataError
from wbcjax.typing import Boxes, Float, Int, Size

FILE_SIZE = (240, 320)
"""(height, width) of the files of dataset2-master."""
ORIGINAL_SIZE = (480, 640)
"""(height, width) of the originals."""
COLUMNS = (
    "split",
    "label",
    "file",
    "source",
    "inliers",
    "second_source",
    "second_inliers",
    "a",
    "b",
    "tx",
    "c",
    "d",
    "ty",
)
_TABLE = "provenance.npz"
_SCALE = 10_000  # the packaged table keeps four decimals of the affine maps, as the CSV does


def original_name(number: int) -> str:
    """The name of an original: ``BloodImage_00110``."""
    return f"BloodImage_{number:05d}"


@dataclass(frozen=True, eq=False)
class Provenance:
    """The table, one row a file, as columns."""

    names: tuple[str, ...]
    """``TRAIN/MONOCYTE/_0_5020.jpeg``: split, class folder, file."""
    source: Int[np.ndarray, "n"]
    """Number of the original."""
    inliers: Int[np.ndarray, "n"]
    """Matches that agree with the affine map; the evidence for the row."""
    second_source: Int[np.ndarray, "n"]
    """Number of the best other original; -1 for none."""
    second_inliers: Int[np.ndarray, "n"]
    """Matches that agree with the best map from that one."""
    affine: Float[np.ndarray, "n 2 3"]

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _index(self) -> dict[str, int]:
        return {name: i for i, name in enumerate(self.names)}

    def __contains__(self, name: str) -> bool:
        return name in self._index

    def row(self, name: str) -> int:
        """Row of a file, by ``split/label/file``.

        Raises:
          DataError: the table has no such file.
        """
        if name not in self._index:
            raise DataError(
                f"{name}: not in the provenance table of {len(self)} files; "
                f"run `wbcjax data provenance` to recompute it from the images"
            )
        return self._index[name]

    def source_of(self, split: str, label: str, file: str) -> str:
        """Name of the original of a file; raises DataError for an unknown file."""
        return original_name(int(self.source[self.row(f"{split}/{label}/{file}")]))

    def affine_of(self, split: str, label: str, file: str) -> Float[np.ndarray, "2 3"]:
        """Map from the original (resized to the file's size) to the file; raises DataError for an unknown
        file."""
        return self.affine[self.row(f"{split}/{label}/{file}")]

    def originals(self, split: str | None = None) -> tuple[str, ...]:
        """Sorted names of the originals behind a split ("TRAIN", "TEST", "TEST_SIMPLE"), or behind all
        files."""
        rows = [
            s for s, name in zip(self.source, self.names, strict=True) if split is None or name.startswith(f"{split}/")
        ]
        return tuple(original_name(int(s)) for s in sorted(set(rows)))


def read_table(path: Path) -> Provenance:
    """Read a table written by ``write_table``: ``.csv``, or the compact ``.npz``.

    Raises:
      DataError: missing or malformed.
    """
    path = Path(path)
    if path.suffix == ".npz":
        return _from_npz(path.read_bytes())
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is None or set(COLUMNS) - set(reader.fieldnames):
                raise DataError(
                    f"{path}: no provenance table, expected the columns {','.join(COLUMNS)}; "
                    f"delete it or run `wbcjax data provenance`"
                )
            rows = list(reader)
    except FileNotFoundError:
        raise DataError(f"{path}: no such table; run `wbcjax data provenance` to make it") from None

    def integers(column: str) -> np.ndarray:
        return np.array([int(row[column]) for row in rows], np.int32)

    try:
        return Provenance(
            names=tuple(f"{row['split']}/{row['label']}/{row['file']}" for row in rows),
            source=integers("source"),
            inliers=integers("inliers"),
            second_source=integers("second_source"),
            second_inliers=integers("second_inliers"),
            affine=np.array([[float(row[c]) for c in COLUMNS[7:]] for row in rows], np.float32).reshape(-1, 2, 3),
        )
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: a row is damaged ({error}); run `wbcjax data provenance` to make it again") from None


def _from_npz(data: bytes) -> Provenance:
    with np.load(io.BytesIO(data), allow_pickle=False) as table:
        return Provenance(
            names=tuple(table["names"].tolist()),
            source=table["source"].astype(np.int32),
            inliers=table["inliers"].astype(np.int32),
            second_source=table["second_source"].astype(np.int32),
            second_inliers=table["second_inliers"].astype(np.int32),
            affine=(table["affine"] / _SCALE).astype(np.float32).reshape(-1, 2, 3),
        )


def write_table(table: Provenance, path: Path) -> None:
    """Write a table as ``.csv``, or as the compact ``.npz`` that ships in the package; atomic."""
    path = Path(path)
    buffer = io.BytesIO()
    if path.suffix == ".npz":
        np.savez_compressed(
            buffer,
            names=np.array(table.names),
            source=table.source.astype(np.uint16),
            inliers=table.inliers.astype(np.uint16),
            second_source=table.second_source.astype(np.int16),
            second_inliers=table.second_inliers.astype(np.uint16),
            affine=np.round(table.affine.reshape(-1, 6) * np.float64(_SCALE)).astype(np.int32),
        )
    else:
        text = io.TextIOWrapper(buffer, newline="", encoding="utf-8", write_through=True)
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for i, name in enumerate(table.names):
            writer.writerow(
                [
                    *name.split("/"),
                    table.source[i],
                    table.inliers[i],
                    table.second_source[i],
                    table.second_inliers[i],
                    *(f"{v:.4f}" for v in table.affine[i].ravel()),
                ]
            )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_bytes(buffer.getvalue())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@lru_cache(maxsize=4)
def _packaged() -> Provenance:
    return _from_npz((resources.files("wbcjax.data") / "tables" / _TABLE).read_bytes())


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
