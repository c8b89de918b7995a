"""The provenance table as columns, its CSV form and the compact form that ships in the package."""

import csv
import io
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from wbcjax.errors import DataError
from wbcjax.files import replacing
from wbcjax.typing import Float, Int

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
_LARGEST = 2**28
"""Bytes of a compact table when unpacked; the packaged one has some two million."""
_SCALE = 10_000  # the compact table keeps four decimals of the affine maps, as the CSV does


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
        return _from_npz(path)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames is None or set(COLUMNS) - set(reader.fieldnames):
                raise DataError(
                    f"{path}: no provenance table, expected the columns {','.join(COLUMNS)}; "
                    f"delete it or run `wbcjax data provenance`"
                )
            rows = list(reader)
    except FileNotFoundError:
        raise DataError(f"{path}: no such table; run `wbcjax data provenance` to make it") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: no CSV file ({error}); run `wbcjax data provenance` to make it again") from None

    def integers(column: str) -> np.ndarray:
        return np.array([int(row[column]) for row in rows], np.int32)

    try:
        table = Provenance(
            names=tuple(f"{row['split']}/{row['label']}/{row['file']}" for row in rows),
            source=integers("source"),
            inliers=integers("inliers"),
            second_source=integers("second_source"),
            second_inliers=integers("second_inliers"),
            affine=np.array([[float(row[c]) for c in COLUMNS[7:]] for row in rows], np.float32).reshape(-1, 2, 3),
        )
        if not np.isfinite(table.affine).all():
            raise ValueError("a number that is not finite")
        return table
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{path}: a row is damaged ({error}); run `wbcjax data provenance` to make it again") from None


def _from_npz(path: Path) -> Provenance:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such table; run `wbcjax data provenance` to make it") from None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as members:
            if sum(member.file_size for member in members.infolist()) > _LARGEST:
                raise ValueError(f"more than {_LARGEST} bytes when unpacked")
        with np.load(io.BytesIO(data), allow_pickle=False) as table:
            columns = {name: table[name] for name in ("source", "inliers", "second_source", "second_inliers")}
            names, affine = tuple(map(str, table["names"].tolist())), table["affine"].reshape(-1, 2, 3)
        if not all(column.shape == (len(names),) for column in columns.values()) or len(affine) != len(names):
            raise ValueError("columns of different lengths")
        return Provenance(
            names=names,
            **{name: column.astype(np.int32, casting="same_kind") for name, column in columns.items()},
            affine=(affine / _SCALE).astype(np.float32),
        )
    except Exception as error:  # zip, zlib and NumPy have many for a damaged file
        raise DataError(f"{path}: damaged ({error}); run `wbcjax data provenance` to make it again") from None


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
    with replacing(path) as temporary:
        temporary.write_bytes(buffer.getvalue())
