"""``wbcjax data …``: get, check, draw, prepare and trace the images."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from wbcjax.errors import ConfigError, DataError

Root = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ROOT")]


def _existing(root: Path) -> Path:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; check the path, or `wbcjax data download {root}`")
    return root


def _check_folder_of(out: Path) -> None:
    """Before the work: a table that takes minutes must have a place to go."""
    if not out.absolute().parent.is_dir():
        raise ConfigError(f"out = {out}: its folder does not exist; make it, or choose another")


@dataclass
class Download:
    """Get the public archives (BCCD and blood-cells, with --masks the cell masks) and lay them out as a data root.

    Resumes a broken transfer, and checks every folder against its SHA-256.
    """

    root: Root
    """Folder to fill."""
    masks: bool = True
    """Get the cell masks too: 1 MB in an archive of 470 MB."""

    def run(self) -> int:
        from wbcjax.data.download import SOURCES, download

        sources = [source for source in SOURCES if self.masks or source.folder != "BCCD_masks"]
        download(self.root, sources=sources)
        print(f"{self.root}\nnext: wbcjax data check {self.root}")
        return 0


@dataclass
class Synthetic:
    """Draw a small data root of synthetic smears, in the layout of the real archives."""

    root: Root
    """Folder to write; must not exist."""
    train_originals: int = 12
    """Smears of each class behind TRAIN."""
    test_originals: int = 3
    """Smears of each class behind TEST."""
    copies_train: int = 60
    """Augmented files of each class in TRAIN."""
    copies_test: int = 15
    """Augmented files of each class in TEST."""
    seed: int = 0

    def run(self) -> int:
        from rich.console import Console
        from rich.progress import Progress

        from wbcjax.data.synthetic import write_dataset

        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("drawing smears", total=None)
            write_dataset(
                self.root, train_originals=self.train_originals, test_originals=self.test_originals,
                copies_train=self.copies_train, copies_test=self.copies_test, seed=self.seed,
                progress=lambda done, total: progress.update(task, completed=done, total=total),
            )
        print(f"{self.root}\nnext: wbcjax train --data.root {self.root}")
        return 0


@dataclass
class Prepare:
    """Write both data sets as array_record files for TensorFlow Datasets (without TensorFlow)."""

    root: Root
    """Data root."""
    data_dir: Path = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets"))
    """Where TensorFlow Datasets keeps its data."""

    def run(self) -> int:
        from wbcjax.data.tfds_builders import prepare

        for folder in prepare(_existing(self.root), self.data_dir.expanduser()):
            print(folder)
        return 0


@dataclass
class Check:
    """Count images, originals and boxes of a data root, and list every anomaly; changes nothing."""

    root: Root
    """Data root."""
    strict: bool = False
    """Fail if there is any anomaly."""

    def run(self) -> int:
        from wbcjax.data.check import check

        report = check(self.root, progress=True)
        print(report.text())
        if self.strict and report.anomalies:
            first = report.anomalies[0]
            raise DataError(f"{self.root}: {len(report.anomalies)} anomalies, the first is a {first.kind}: "
                            f"{first.message}; correct the files, or leave out --strict")
        return 0


@dataclass
class Provenance:
    """Recompute from the images which original each file was made from, and by which affine map (SIFT and RANSAC).

    All 12,515 files take an hour on one core; --sample compares a few with the table in use.
    """

    root: Root
    """Data root."""
    out: Path = Path("provenance.csv")
    """Table to write, .csv or .npz; laid into a data root it is used instead of the packaged one."""
    sample: int | None = None
    """Recompute only so many files, evenly spread, and compare them with the table; writes nothing."""
    workers: int | None = None
    """Processes; None takes one a core."""

    def run(self) -> int:
        from wbcjax.data.provenance import load, recompute
        from wbcjax.data.provenance_table import write_table

        root = _existing(self.root)
        if self.sample is None:
            _check_folder_of(self.out)
            table = recompute(root, workers=self.workers, progress=True)
            write_table(table, self.out)
            print(f"{self.out}: {len(table):,} files of {len(table.originals()):,} originals")
            return 0
        if self.sample < 1:
            raise ConfigError(f"sample = {self.sample} is impossible: expected >= 1")
        table = load(root)
        step = max(1, len(table) // self.sample)
        names = table.names[::step][: self.sample]
        found = recompute(root, names, workers=self.workers, progress=True)
        same = sum(found.source[found.row(name)] == table.source[table.row(name)] for name in names if name in found)
        print(f"{same} of {len(names)} files are of the original that the table names")
        return 0 if same == len(names) else 1


@dataclass
class Overlaps:
    """Find again from the images which originals show the same field of view, and which of these the same cell.

    Takes minutes. Folds and the detector's split keep such originals together by the table in the package.
    """

    root: Root
    """Data root, with the cell masks."""
    out: Path = Path("overlaps.csv")
    """Table to write."""

    def run(self) -> int:
        from wbcjax.data.overlaps import find_overlaps, write_overlaps

        root = _existing(self.root)
        _check_folder_of(self.out)
        pairs = find_overlaps(root, progress=True)
        write_overlaps(pairs, self.out)
        print(f"{self.out}: {len(pairs)} pairs of originals, {sum(pair.same_cell for pair in pairs)} of the same cell")
        return 0
