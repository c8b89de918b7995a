"""The public archives: fetched from GitHub at pinned commits, checked, and laid out as a data root.

GitHub builds these ZIP files on request and promises neither their bytes nor their size, so what is
pinned is the content: ``tree_sha256`` of the unpacked folder (see there for what exactly is hashed).
"""

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import Progress

from wbcjax.data.fetch import fetch, transfer_bar
from wbcjax.data.unpack import file_sha256, tree_sha256, unpack
from wbcjax.errors import DataError

STAGING = ".wbcjax-download"
"""Folder below the data root for what is not finished: partial downloads, which the next call resumes."""


@dataclass(frozen=True)
class Source:
    """One archive and the folder of the data root it becomes."""

    folder: str
    """Name of the folder below the data root; all of ``mapping`` lands in it."""
    url: str
    mapping: Mapping[str, str] = field(hash=False)
    """Path in the archive, its top folder dropped -> path below ``folder``; a trailing slash means a
    whole folder."""
    tree_sha256: str | None = None
    """``tree_sha256`` of the finished folder; None checks nothing."""
    archive_sha256: str | None = None
    """SHA-256 of the archive's bytes, for publishers that keep them stable."""
    max_bytes: int = 1 << 30
    """Bound on the archive and on what is unpacked from it."""


_CODELOAD = "https://codeload.github.com"
_MASKS = ("ParthaPratimBanik/An-Automatic-Nucleus-Segmentation-and-CNN-Model-based-Classification-Method-of-"
          "White-Blood-Cell")
_ORIGINALS = "dataset-master/dataset-master"

SOURCES = (
    # Shenggan/BCCD_Dataset, MIT: 364 images with VOC boxes. 8 MB.
    Source("BCCD_Dataset",
           f"{_CODELOAD}/Shenggan/BCCD_Dataset/zip/d272fb14cdff6e473fafeeeba32aba5f560e9e43",
           {"BCCD/": "BCCD/", "LICENSE": "LICENSE"},
           tree_sha256="b5fa7e32e92e3cfdbc59cdfbc09b4ff959804ac2a06c7ed59f89833c1fd97879"),
    # dhruvp/wbc-classification, laid out as Kaggle's paultimothymooney/blood-cells: the 12,515 classified
    # images, the labels of the originals, and the three originals that BCCD_Dataset lacks. About 115 MB.
    Source("blood-cells",
           f"{_CODELOAD}/dhruvp/wbc-classification/zip/0b22eb2084b1004d464fb5ab87adc85ab94b2079",
           {"images/": "dataset2-master/dataset2-master/images/",
            "labels.csv": f"{_ORIGINALS}/labels.csv",
            **{f"Original_Images/BloodImage_{number}.jpg": f"{_ORIGINALS}/JPEGImages/BloodImage_{number}.jpg"
               for number in ("00096", "00280", "00329")}},
           tree_sha256="93afe05fcb441f848d9a16ace28650a8814e5a7f4ca89235b67044e914069eb0"),
    # Nucleus and cytoplasm masks of the BCCD originals, MIT. The archive has 470 MB, the masks 1 MB: it
    # comes last.
    Source("BCCD_masks",
           f"{_CODELOAD}/{_MASKS}/zip/d8ee339ad22dc30d3acdc2d653ab5768eae10ab3",
           {"wbc_nucleus_seg_localz/Datasets/Ground Truth/BCCD/": "", "LICENSE": "LICENSE"},
           tree_sha256="d0e17129334a47ee4bd56942061896a005684a076500f5ce3c0d64881d47a22d"),
)


def download(root: Path, *, sources: Sequence[Source] = SOURCES, progress: bool = True) -> Path:
    """Fetch the archives and lay them out below ``root`` as every loader expects them.

    A folder that is there already and has the pinned content is kept; only what is missing is fetched.
    Each folder appears in one rename, after its checks passed. A transfer that breaks is resumed, by
    itself a few times and then by the next call, where the server supports it, and started over where it
    does not.

    Args:
      root: the data root; created when absent.
      sources: the archives; ``SOURCES[:2]`` leaves out the 470 MB that hold the masks.
      progress: show a bar an archive.

    Returns:
      ``root``.

    Raises:
      DataError: no connection, an HTTP error, a checksum that differs, an archive that is damaged or
        unsafe, an existing folder with other content, a disk that cannot be written. Nothing is left
        behind but a download that can be resumed.
    """
    staging = root / STAGING
    bar = transfer_bar(progress)
    try:
        created = not root.exists()
        staging.mkdir(parents=True, exist_ok=True)
        try:
            with bar:
                for source in sources:
                    _provide(source, root, staging, bar)
        finally:
            with contextlib.suppress(OSError):  # not empty: a partial download waits there
                staging.rmdir()
                if created:
                    root.rmdir()
    except OSError as error:
        raise DataError(f"{error.filename or root}: cannot be written ({error.strerror or error}); free "
                        "space, or choose another folder") from error
    return root


def _provide(source: Source, root: Path, staging: Path, bar: Progress) -> None:
    """Make ``root/source.folder`` exist with the right content."""
    final = root / source.folder
    if final.exists():
        found = tree_sha256(final)
        if source.tree_sha256 not in (None, found):
            raise DataError(f"{final} exists, but with other content than {source.url} (SHA-256 {found}, "
                            f"expected {source.tree_sha256}); move it away, or choose another folder")
        if not bar.disable:
            bar.console.print(f"{source.folder}: already there")
        return
    archive = staging / f"{source.folder}.zip"
    unpacked = staging / source.folder
    shutil.rmtree(unpacked, ignore_errors=True)  # of a call that was killed
    if not archive.exists():
        task = bar.add_task(f"{source.folder}: download", total=None)
        fetch(source.url, archive, max_bytes=source.max_bytes,
              on_size=lambda done, total: bar.update(task, completed=done, total=total))
    try:
        if source.archive_sha256 is not None:
            _require_same(source.url, "the archive", file_sha256(archive), source.archive_sha256)
        task = bar.add_task(f"{source.folder}: unpack", total=None)
        unpack(archive, unpacked, source.mapping, max_bytes=source.max_bytes,
               on_bytes=lambda n: bar.update(task, advance=n))
        if source.tree_sha256 is not None:
            _require_same(source.url, "its content", tree_sha256(unpacked), source.tree_sha256)
        os.replace(unpacked, final)
        bar.update(task, total=bar.tasks[task].completed)
        archive.unlink()
    except DataError:  # a bad archive must not be found by the next call; one on a full disk is good
        archive.unlink()
        raise
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def _require_same(url: str, what: str, found: str, expected: str) -> None:
    if found != expected:
        raise DataError(f"{url}: {what} has SHA-256 {found}, expected {expected}; discarded: try again, and "
                        "if it stays so, the publisher has changed it")
