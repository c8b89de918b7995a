"""Synthetic smears with exact boxes, masks and classes, for machines without the archives.

``draw`` gives arrays; ``write_dataset`` writes the folder layout of the real archives, so that every command
runs on it unchanged. What a smear looks like is in ``synthetic_scene``, ``_cells`` and ``_nuclei``.
"""

import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wbcjax.data import synthetic_layout as layout
from wbcjax.data.provenance import write_table
from wbcjax.data.synthetic_scene import Smear, render
from wbcjax.errors import ConfigError, DataError
from wbcjax.typing import CLASS_NAMES, Bool, Float, Images, Int, Size

_SMALLEST = 32
_COPIES = 10_000
"""A class folder holds at most so many files, as their names end in a number below it."""


@dataclass(frozen=True)
class Smears:
    """Drawn images and all that is known about them, one entry an image.

    Objects of an image are ordered white cells, red cells, platelets. Covering order, from below: red cells,
    platelets, white cells, each in their order.
    """

    images: Images
    boxes: tuple[Float[np.ndarray, "_ 4"], ...]
    """Hulls of the masks: xyxy, continuous pixels."""
    labels: tuple[Int[np.ndarray, "_"], ...]
    """Indices into ``DETECTION_CLASS_NAMES``."""
    masks: tuple[Bool[np.ndarray, "_ _ _"], ...] | None
    """(objects, height, width): the visible pixels of each object, disjoint; None when not asked for."""
    nuclei: Bool[np.ndarray, "_ _ _"]
    """(images, height, width): the visible pixels of all nuclei."""
    wbc_class: tuple[Int[np.ndarray, "_"], ...]
    """Index into ``CLASS_NAMES`` of each white cell; they are the image's first boxes."""

    def __len__(self) -> int:
        return len(self.images)


def draw(
    n: int,
    size: Size = (480, 640),
    seed: int = 0,
    *,
    first: int = 0,
    cells_per_image: tuple[int, int] = (1, 1),
    classes: Sequence[int] | None = None,
    with_masks: bool = True,
    workers: int | None = None,
) -> Smears:
    """Draw ``n`` smears.

    Image ``i`` depends only on ``seed``, ``first + i`` and the options, so a set can be drawn in parts.

    Args:
      n: number of images.
      size: (height, width), at least 32 each. The field of view is that of a BCCD image at 640×480.
      seed: not negative.
      first: index of the first image.
      cells_per_image: fewest and most white cells an image, drawn uniformly.
      classes: class index of the white cells of each image; None draws a class for each cell.
      with_masks: False leaves ``masks`` out, which take about 6 MB an image at 640×480.
      workers: threads; None takes one a core.

    Raises:
      ConfigError: an argument has an impossible value.
    """
    low, high = cells_per_image
    _require(n >= 0, "n", n, "0 or more")
    _require(min(size) >= _SMALLEST, "size", size, f"(height, width), at least {_SMALLEST} pixels each")
    _require(seed >= 0 and first >= 0, "seed, first", (seed, first), "0 or more")
    _require(0 <= low <= high, "cells_per_image", cells_per_image, "(fewest, most), 0 <= fewest <= most")
    if classes is not None:
        _require(len(classes) == n, "classes", f"{len(classes)} values", f"one for each of the {n} images")
        _require(
            all(0 <= c < len(CLASS_NAMES) for c in classes),
            "classes",
            tuple(classes),
            f"indices into {CLASS_NAMES}",
        )

    def one(i: int) -> Smear:
        rng = np.random.default_rng((seed, first + i))
        count = int(rng.integers(low, high + 1))
        drawn = rng.integers(0, len(CLASS_NAMES), count)
        return render(rng, size, drawn if classes is None else np.full(count, classes[i]))

    with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
        smears = list(pool.map(one, range(n)))
    return Smears(
        images=np.stack([s.image for s in smears]) if smears else np.zeros((0, *size, 3), np.uint8),
        boxes=tuple(s.boxes for s in smears),
        labels=tuple(s.labels for s in smears),
        masks=tuple(s.masks() for s in smears) if with_masks else None,
        nuclei=np.stack([s.nucleus for s in smears]) if smears else np.zeros((0, *size), bool),
        wbc_class=tuple(s.wbc_class for s in smears),
    )


def write_dataset(
    root: Path,
    *,
    train_originals: int | tuple[int, ...] = 12,
    test_originals: int | tuple[int, ...] = 3,
    copies_train: int = 60,
    copies_test: int = 15,
    two_cells: int = 2,
    seed: int = 0,
    size: Size = (480, 640),
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a data root in the layout of the real archives.

    It holds BCCD_Dataset/BCCD (JPEG, VOC XML, lists), BCCD_masks, blood-cells/dataset2-master (TRAIN, TEST:
    augmented copies at 320×240; TEST_SIMPLE: the resized TEST originals), labels.csv in
    blood-cells/dataset-master, provenance.csv with the exact affine maps, and synthetic.json with the
    arguments. Everything is written to a folder beside ``root`` that takes its name at the end, so that an
    interrupted run leaves nothing. Originals are numbered from 1000, so none is mistaken for a real one.

    Args:
      root: must not exist yet.
      train_originals: originals a class behind TRAIN: one number, or one for each of ``CLASS_NAMES``.
      test_originals: the same for TEST.
      copies_train: files a class in TRAIN, spread evenly over its originals, as in the archive.
      copies_test: files a class in TEST.
      two_cells: further originals with two white cells, in neither set, as BCCD has.
      seed: not negative; the same arguments write the same files.
      size: (height, width) of the originals.
      workers: threads; None takes one a core.
      progress: called with (originals done, originals in all).

    Returns:
      ``root``.

    Raises:
      DataError: ``root`` exists.
      ConfigError: an argument has an impossible value.
    """
    root = Path(root)
    counts = {}
    for split, name, value in (
        ("TRAIN", "train_originals", train_originals),
        ("TEST", "test_originals", test_originals),
    ):
        counts[split] = (value,) * len(CLASS_NAMES) if isinstance(value, int) else tuple(value)
        _require(
            len(counts[split]) == len(CLASS_NAMES) and min(counts[split]) >= 1,
            name,
            value,
            f"1 or more, or {len(CLASS_NAMES)} such numbers",
        )
    for name, copies, split in (
        ("copies_train", copies_train, "TRAIN"),
        ("copies_test", copies_test, "TEST"),
    ):
        _require(
            max(counts[split]) <= copies <= _COPIES,
            name,
            copies,
            f"at least one for each original ({max(counts[split])}), at most {_COPIES}",
        )
    _require(two_cells >= 0, "two_cells", two_cells, "0 or more")
    _require(seed >= 0, "seed", seed, "0 or more")
    _require(min(size) >= _SMALLEST, "size", size, f"(height, width), at least {_SMALLEST} pixels each")
    if root.exists():
        raise DataError(f"{root}: exists already; choose another folder or delete it")

    plan = layout.plan(counts, {"TRAIN": copies_train, "TEST": copies_test}, two_cells, seed)
    root.parent.mkdir(parents=True, exist_ok=True)
    part = root.with_name(f".{root.name}.{os.getpid()}.part")
    try:
        layout.make_folders(part)

        def one(original: layout.Original) -> list[layout.Copy]:
            rng = np.random.default_rng((seed, original.number))
            smear = render(rng, size, np.array(original.kinds))
            return layout.write_original(part, original, smear, rng)

        rows: list[layout.Copy] = []
        with ThreadPoolExecutor(workers or os.cpu_count()) as pool:
            for done, copies in enumerate(pool.map(one, plan), start=1):
                rows += copies
                if progress is not None:
                    progress(done, len(plan))
        layout.write_lists(part, plan)
        write_table(layout.provenance_of(rows), part / "provenance.csv")
        about = {
            "train_originals": counts["TRAIN"],
            "test_originals": counts["TEST"],
            "copies_train": copies_train,
            "copies_test": copies_test,
            "two_cells": two_cells,
            "seed": seed,
            "size": size,
        }
        (part / "synthetic.json").write_text(json.dumps(about, indent=1) + "\n")
        part.rename(root)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return root


def _require(condition: bool, name: str, value: object, expected: str) -> None:
    if not condition:
        raise ConfigError(f"synthetic: {name} = {value!r} is impossible: expected {expected}")
