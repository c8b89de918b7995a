"""``wbcjax data …``: get, check, draw, prepare and trace the images."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from wbcjax.errors import DataError

Root = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ROOT")]


def _existing(root: Path) -> Path:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; check the path, or `wbcjax data download {root}`")
    return root


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
        from rich.progress import Progress

        from wbcjax.data.synthetic import write_dataset

        with Progress() as progress:
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
