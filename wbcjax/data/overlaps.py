"""Originals that show part of the same field of view, and often the same cell.

The slides were photographed along a path that comes back over itself: 43 pairs of the 367 originals overlap, and
most of these show the same white cell twice, shifted. Six such pairs have one original in TRAIN and one in TEST,
so the official split, whose originals are disjoint, does share six cells of its 71 test cells; one pair
(BloodImage_00206, _00278) carries two classes for one cell. Folds and the detector's split keep overlapping
originals together.
"""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import cv2
import numpy as np

from wbcjax.data.cell_masks import BACKGROUND, cell_mask_path, read_cell_mask
from wbcjax.data.images import load_images
from wbcjax.data.provenance import FILE_SIZE, ORIGINAL_SIZE, original_files
from wbcjax.data.registration import build_index, candidates
from wbcjax.errors import DataError
from wbcjax.files import write_text

_TABLE = "overlaps.csv"
_FEATURES = 600
_CANDIDATES = 25
_MIN_INLIERS = 8
_TOLERANCE = 8.0  # pixels (of 320×240) by which the shifts of both directions may differ
_SAME_CELL = 0.4  # intersection over union of the shifted cell masks, within the common field


@dataclass(frozen=True)
class Overlap:
    """Two originals of overlapping fields, in the order of their names."""

    first: str
    second: str
    inliers: int
    """Matches of features that agree on the shift, in the weaker of both directions."""
    dx: int
    dy: int
    """What shows at (x, y) in the first shows at (x + dx, y + dy) in the second, in pixels of 640×480."""
    same_cell: bool
    """Both show the same white cell."""


@lru_cache(maxsize=1)
def overlaps() -> tuple[Overlap, ...]:
    """The packaged table."""
    text = (resources.files("wbcjax.data") / "tables" / _TABLE).read_text()
    return tuple(
        Overlap(r["first"], r["second"], int(r["inliers"]), int(r["dx"]), int(r["dy"]), r["same_cell"] == "yes")
        for r in csv.DictReader(text.splitlines())
    )


@lru_cache(maxsize=1)
def _components() -> dict[str, str]:
    """First name of the group of each overlapping original: those linked by any chain of overlaps."""
    first: dict[str, str] = {}
    for pair in overlaps():
        a, b = sorted((first.get(pair.first, pair.first), first.get(pair.second, pair.second)))
        first |= {pair.first: a, pair.second: a} | {name: a for name, group in first.items() if group == b}
    return first


def field_of(source: str) -> str:
    """A name that all originals of overlapping fields share; the original's own when it overlaps none."""
    return _components().get(source, source)


def shared_cells(a_sources: Iterable[str], b_sources: Iterable[str]) -> tuple[Overlap, ...]:
    """The pairs of two different originals, one of each set, that show the same white cell."""
    a, b = set(a_sources), set(b_sources)
    return tuple(
        pair
        for pair in overlaps()
        if pair.same_cell and ((pair.first in a and pair.second in b) or (pair.first in b and pair.second in a))
    )


def find_overlaps(root: Path, *, progress: bool = False) -> tuple[Overlap, ...]:
    """Find the overlapping originals of a data root again: SIFT and RANSAC between all of them.

    A pair counts when both directions find it, as the same shift, with at least 8 inliers. Takes minutes.

    Raises:
      DataError: an original or its mask is missing.
    """
    from rich.console import Console
    from rich.progress import track

    files = original_files(root)
    names = tuple(files)
    index = build_index(names, load_images([files[n] for n in names], ORIGINAL_SIZE), FILE_SIZE, _FEATURES)
    shifts: dict[tuple[str, str], tuple[int, np.ndarray]] = {}
    for i in track(range(len(names)), "Comparing originals", disable=not progress, console=Console(stderr=True)):
        used = index.used[i]
        found = candidates(
            index.points[i, used], index.descriptors[i, used], index, count=_CANDIDATES, exclude=i
        )
        for j, inliers, affine in found:
            if np.abs(affine[:, :2] - np.eye(2)).max() < 0.1 and inliers >= _MIN_INLIERS:
                shifts[names[j], names[i]] = inliers, affine[:, 2]
    result = []
    for (first, second), (inliers, shift) in sorted(shifts.items()):
        back = shifts.get((second, first))
        if first < second and back is not None and np.abs(shift + back[1]).max() < _TOLERANCE:
            dx, dy = np.round(shift - back[1]).astype(int).tolist()  # their mean, doubled to 640×480
            same = _same_cell(Path(root), first, second, dx, dy)
            result.append(Overlap(first, second, min(inliers, back[0]), dx, dy, same))
    return tuple(result)


def write_overlaps(table: Iterable[Overlap], path: Path) -> None:
    """Write the table as CSV, as the package holds it."""
    lines = ["first,second,inliers,dx,dy,same_cell"]
    lines += [f"{o.first},{o.second},{o.inliers},{o.dx},{o.dy},{'yes' if o.same_cell else 'no'}" for o in table]
    write_text(Path(path), "\n".join(lines) + "\n")


def _same_cell(root: Path, first: str, second: str, dx: int, dy: int) -> bool:
    """Whether the cells' masks coincide where both images show the same field."""
    masks = []
    for name in (first, second):
        path = cell_mask_path(root, name)
        if path is None:
            raise DataError(f"{root / 'BCCD_masks'}: holds no mask of {name}; put the published masks there")
        masks.append((read_cell_mask(path) != BACKGROUND).astype(np.uint8))
    height, width = masks[1].shape
    move = np.array([[1, 0, dx], [0, 1, dy]], np.float32)
    moved = cv2.warpAffine(masks[0], move, (width, height), flags=cv2.INTER_NEAREST) > 0
    common = cv2.warpAffine(np.ones_like(masks[0]), move, (width, height), flags=cv2.INTER_NEAREST) > 0
    other = (masks[1] > 0) & common
    union = (moved | other).sum()
    return bool(union > 0 and (moved & other).sum() >= _SAME_CELL * union)
