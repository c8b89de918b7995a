"""Check a data root: the counts of the paper's Table 1, the boxes, and everything that is odd.

Reads and decodes every file, on all cores, and changes nothing.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wbcjax.data import provenance
from wbcjax.data.check_report import Report
from wbcjax.data.images import IMAGE_SUFFIXES, read_image
from wbcjax.data.kaggle import SPLITS, images_folder, read_labels
from wbcjax.data.overlaps import overlaps, shared_cells
from wbcjax.data.sets import name_of
from wbcjax.data.voc import Annotation, read_annotation, voc_folder
from wbcjax.errors import DataError
from wbcjax.typing import CLASS_NAMES, DETECTION_CLASS_NAMES, Size

_UNUSUAL = 3.0  # times smaller or larger than the median of its class


@dataclass(frozen=True)
class _Decoded:
    """What one file holds, or why it cannot be read."""

    size: Size | None
    digest: str
    colored: bool
    error: str | None


def check(root: Path, *, progress: bool = False) -> Report:
    """Check the data sets of a data root: dataset2-master, BCCD, or both.

    Args:
      root: the data root.
      progress: show a progress bar.

    Raises:
      DataError: the folder is missing, or holds neither.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; check the data root, or run `wbcjax data download`")
    report = Report(root)
    found: dict[str, Path] = {}
    for name, find in (("blood-cells", images_folder), ("BCCD_Dataset", voc_folder)):
        try:
            found[name] = find(root)
        except DataError as error:
            report.add("missing data set", [str(error)])
    if not found:
        raise DataError(
            f"{root}: holds neither blood-cells nor BCCD_Dataset; check the data root, or run `wbcjax data download`"
        )
    if "blood-cells" in found:
        _check_copies(found["blood-cells"], root, report, progress)
    if "BCCD_Dataset" in found:
        _check_boxes(found["BCCD_Dataset"], report, progress)
    if "blood-cells" in found:
        _check_overlaps(root, report)
    return report


def _decode(path: Path) -> _Decoded:
    try:
        image = read_image(path)
    except DataError as error:
        return _Decoded(None, "", True, str(error))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    colored = bool((image[..., 0] != image[..., 1]).any() or (image[..., 1] != image[..., 2]).any())
    return _Decoded(image.shape[:2], digest, colored, None)


def _check_files(paths: Sequence[Path], title: str, report: Report, progress: bool) -> dict[Path, _Decoded]:
    """Decode all files; note damaged ones, other sizes, colourless ones and exact duplicates."""
    from rich.console import Console
    from rich.progress import track

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        console = Console(stderr=True)
        results = list(track(pool.map(_decode, paths), title, len(paths), disable=not progress, console=console))
    decoded = dict(zip(paths, results, strict=True))
    report.add("damaged or odd file", (d.error for d in results if d.error))
    sizes = Counter(d.size for d in results if d.size)
    usual = sizes.most_common(1)[0][0] if sizes else None
    report.add(
        "image of another size",
        (
            f"{name_of(p)}: {d.size[1]}×{d.size[0]} pixels, most have {usual[1]}×{usual[0]}"
            for p, d in decoded.items()
            if d.size not in (None, usual)
        ),
    )
    report.add("image without colour", (name_of(p) for p, d in decoded.items() if not d.colored))
    same: dict[str, list[str]] = defaultdict(list)
    for path, result in decoded.items():
        if not result.error:
            same[result.digest].append(name_of(path))
    report.add("identical files", (" = ".join(names) for names in same.values() if len(names) > 1))
    return decoded


def _check_copies(folder: Path, root: Path, report: Report, progress: bool) -> None:
    """dataset2-master: files by split and class, their decoding, and their originals."""
    table = provenance.load(folder)
    paths: list[Path] = []
    for split in SPLITS:
        if not (folder / split).is_dir():
            report.add("missing folder", [f"{split}: no such folder in {folder}"])
            continue
        report.files[split] = {}
        of_class: dict[str, set[str]] = defaultdict(set)
        expected = [name.upper() for name in CLASS_NAMES]
        found = sorted(p.name for p in (folder / split).iterdir() if p.is_dir())
        report.add("unexpected folder", (f"{split}/{name}" for name in found if name not in expected))
        for name in expected:
            files = sorted((folder / split / name).iterdir()) if name in found else []
            images = [p for p in files if p.suffix.lower() in IMAGE_SUFFIXES]
            if not images:
                report.add("class without images", [f"{split}/{name}"])
            report.add("file that is no image", (name_of(p) for p in files if p not in set(images)))
            report.files[split][name.lower()] = len(images)
            for path in images:
                if name_of(path) in table:
                    of_class[name.lower()].add(provenance.original_name(int(table.source[table.row(name_of(path))])))
                else:
                    report.add("file of unknown original", [name_of(path)])
            paths += images
        report.originals[split] = {name: len(of_class[name]) for name in map(str.lower, expected)}
    present = {name_of(path) for path in paths}
    report.add("missing file", (name for name in table.names if name not in present))
    in_both = set(table.originals("TRAIN")) & set(table.originals("TEST"))
    report.add("original in TRAIN and TEST", sorted(in_both))
    _check_files(paths, "Checking the copies", report, progress)
    _check_labels(root, table, report)


def _check_labels(root: Path, table: provenance.Provenance, report: Report) -> None:
    """labels.csv: every original has the class of the folder its copies lie in."""
    try:
        labels = read_labels(root)
    except DataError as error:
        report.add("missing or damaged file", [str(error)])
        return
    folder_of = {
        provenance.original_name(int(source)): name.split("/")[1]
        for name, source in zip(table.names, table.source, strict=True)
    }
    report.add(
        "class of an original that differs",
        (
            f"{name}: its copies lie in {folder}, labels.csv says {labels.get(name, '') or 'nothing'}"
            for name, folder in sorted(folder_of.items())
            if labels.get(name) != folder
        ),
    )


def _check_boxes(folder: Path, report: Report, progress: bool) -> None:
    """BCCD: annotations, their boxes, and their images."""
    problems: list[str] = []

    def note(problem: str, done: str, remedy: str) -> None:
        problems.append(problem)
        report.dropped += done == "dropped"

    annotations: list[Annotation] = []
    for file in sorted((folder / "Annotations").glob("*.xml")):
        try:
            annotations.append(read_annotation(file, folder / "JPEGImages", note))
        except DataError as error:
            report.add("damaged annotation", [str(error)])
    report.add("box or size that is wrong", problems)
    report.annotated = len(annotations)

    boxes: dict[str, list[np.ndarray]] = defaultdict(list)
    where: dict[str, list[str]] = defaultdict(list)
    wbc_per_image: Counter[int] = Counter()
    for annotation in annotations:
        names = [name.lower() for name in annotation.names]
        wbc_per_image[names.count("wbc")] += 1
        if "wbc" not in names:
            report.add("image without a WBC box", [annotation.path.stem])
        for name, box in zip(names, annotation.boxes, strict=True):
            boxes[name].append(box)
            where[name].append(f"{annotation.path.stem}: {name} {tuple(map(int, box))}")
            height, width = annotation.size
            if name == "wbc" and (box[:2].min() <= 1 or box[2] >= width - 1 or box[3] >= height - 1):
                report.wbc_at_border += 1
    report.wbc_per_image = dict(wbc_per_image)
    order = [name for name in DETECTION_CLASS_NAMES if name in boxes]
    order += sorted(set(boxes) - set(order))
    for name in order:
        report.boxes[name] = len(boxes[name])
        corners = np.array(boxes[name])
        side = np.sqrt((corners[:, 2:] - corners[:, :2]).prod(axis=1))
        ratio = side / np.median(side)
        report.add(
            "box of an unusual size for its class",
            (
                f"{where[name][i]}: {side[i]:.0f} pixels a side, the median is {np.median(side):.0f}"
                for i in np.flatnonzero((ratio > _UNUSUAL) | (ratio < 1 / _UNUSUAL))
            ),
        )
    images = sorted(p for p in (folder / "JPEGImages").iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    annotated = {annotation.path for annotation in annotations}
    report.add("image without an annotation", (p.name for p in images if p not in annotated))
    _check_files(images, "Checking BCCD", report, progress)


def _check_overlaps(root: Path, report: Report) -> None:
    """Originals that show the same cell: those of TRAIN and TEST, those of different classes, and shifted little."""
    table = provenance.load(root)
    train, test = table.originals("TRAIN"), table.originals("TEST")
    cells = shared_cells(train, test)
    report.add("cell in TRAIN and TEST", (f"{pair.first} ~ {pair.second}" for pair in cells))
    class_of = {
        provenance.original_name(int(source)): name.split("/")[1]
        for name, source in zip(table.names, table.source, strict=True)
    }
    known = [o for o in overlaps() if o.same_cell and o.first in class_of and o.second in class_of]
    report.add(
        "one cell of two classes",
        (
            f"{o.first} ({class_of[o.first]}) ~ {o.second} ({class_of[o.second]})"
            for o in known
            if class_of[o.first] != class_of[o.second]
        ),
    )
    report.add(
        "originals of the same cell within a split",
        (f"{o.first} ~ {o.second}, shifted by ({o.dx}, {o.dy}) pixels" for o in known if o not in cells),
    )
