"""Splits that share no original: folds of TRAIN, the detector's own split, and the proof.

Everything random takes a seed and does not depend on the order of the files.
"""

import logging
from collections.abc import Iterable, Sequence

import numpy as np

from wbcjax.data import provenance
from wbcjax.data.overlaps import field_of, shared_cells
from wbcjax.data.provenance import Provenance
from wbcjax.data.sets import DetectionSet
from wbcjax.errors import DataError
from wbcjax.typing import Int

log = logging.getLogger(__name__)

NEAR_DUPLICATES = {"BloodImage_00038": "BloodImage_00037"}
"""Originals that show the same field of view: each counts as the other."""

DETECTOR_HELD_OUT = 54 / 274
"""Share of the TRAIN originals in BCCD that the detector is tested on: 54 of 274."""


def canonical(source: str) -> str:
    """The name under which an original counts, one for near duplicates."""
    return NEAR_DUPLICATES.get(source, source)


def grouped_folds(
    labels: Int[np.ndarray, "n"], sources: Sequence[str], n_folds: int, seed: int
) -> Int[np.ndarray, "n"]:
    """Fold of each item: all items of one original in one fold, classes spread evenly. Originals of overlapping
    fields (``overlaps``) count as one.

    Originals are taken by falling number of items (ties in an order drawn from ``seed``), and each goes to
    the fold that has the least of its class so far, then the least items. A class with fewer originals than
    folds is absent from some.

    Returns:
      int32 in ``0..n_folds - 1``.

    Raises:
      DataError: fewer originals than folds, or lengths that differ.
    """
    if len(labels) != len(sources):
        raise DataError(f"{len(labels)} labels for {len(sources)} sources; give one of each an item")
    groups, group_of = np.unique([field_of(s) for s in sources], return_inverse=True)
    if not 2 <= n_folds <= len(groups):
        raise DataError(f"{n_folds} folds of {len(groups)} originals are impossible; choose 2 to {len(groups)} folds")
    counts = np.zeros((len(groups), int(labels.max()) + 1))
    np.add.at(counts, (group_of, labels), 1)
    share = counts / np.maximum(counts.sum(axis=0), 1)

    shuffled = np.random.default_rng(seed).permutation(len(groups))
    order = shuffled[np.argsort(-counts[shuffled].sum(axis=1), kind="stable")]
    filled = np.zeros((n_folds, counts.shape[1]))
    fold_of = np.zeros(len(groups), np.int32)
    for group in order:
        fold = np.lexsort((filled.sum(axis=1), np.round(filled @ share[group], 12)))[0]
        fold_of[group] = fold
        filled[fold] += share[group]
    return fold_of[group_of]


def detector_split(
    detection_set: DetectionSet, seed: int = 0, *, table: Provenance | None = None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The detector's training and test images, sorted names: 220 and 144 for BCCD.

    Training uses originals of the classification TRAIN set alone. The test images are the TEST originals
    (71), those that are no original of either set (19), and ``DETECTOR_HELD_OUT`` of the TRAIN originals
    (54): those whose field overlaps one of the former, and others drawn with ``seed``. So no training image
    shows anything that a test image shows.

    Args:
      table: the provenance table; None finds the one that belongs to the files.

    Raises:
      DataError: no image is a TRAIN original.
    """
    if table is None:
        table = provenance.load(detection_set.paths[0] if len(detection_set) else None)
    train_originals = set(table.originals("TRAIN")) - set(table.originals("TEST"))
    candidates = sorted(name for name in detection_set.names if name in train_originals)
    if not candidates:
        raise DataError(
            "none of the images is an original of the classification TRAIN set: the detector has nothing to "
            "train on; check the data root, or run `wbcjax data provenance`"
        )
    members: dict[str, list[str]] = {}
    for name in candidates:
        members.setdefault(field_of(name), []).append(name)
    tested = {field_of(name) for name in detection_set.names if name not in train_originals}
    held_out = {name for field in members if field in tested for name in members[field]}
    wanted = round(DETECTOR_HELD_OUT * len(candidates))
    fields = sorted(members)
    for i in np.random.default_rng(seed).permutation(len(fields)):
        if fields[i] not in tested and len(held_out) + len(members[fields[i]]) <= wanted:
            held_out.update(members[fields[i]])
    train = tuple(name for name in candidates if name not in held_out)
    test = tuple(sorted(set(detection_set.names) - set(train)))
    assert_disjoint(train, test, what="the detector's training and test images", fields=True)
    return train, test


def assert_disjoint(
    a_sources: Iterable[str], b_sources: Iterable[str], what: str = "the two sets", *, fields: bool = False
) -> None:
    """Prove that two sets share no original.

    Args:
      what: names the two sets in messages.
      fields: also refuse two originals of overlapping fields. By default they are allowed, since the official
        TRAIN and TEST hold some, and one warning names those that show the same white cell.

    Raises:
      DataError: with the names they share; near duplicates count as shared and are shown as a pair.
    """
    a_sources, b_sources = set(a_sources), set(b_sources)
    group = field_of if fields else canonical

    def by_group(sources: set[str]) -> dict[str, set[str]]:
        groups: dict[str, set[str]] = {}
        for source in sources:
            groups.setdefault(group(source), set()).add(source)
        return groups

    a, b = by_group(a_sources), by_group(b_sources)
    shared = [" ~ ".join(sorted(a[g] | b[g])) for g in sorted(a.keys() & b.keys())]
    if shared:
        shown = ", ".join(shared[:10]) + (f" and {len(shared) - 10} more" if len(shared) > 10 else "")
        raise DataError(
            f"{what} share {len(shared)} original{'s' * (len(shared) > 1)}: {shown}; "
            f"split by original (grouped_folds, detector_split)"
        )
    cells = shared_cells(a_sources, b_sources)
    if cells:
        pairs = ", ".join(f"{pair.first} ~ {pair.second}" for pair in cells)
        log.warning("%s share no original, but %d pairs of originals show the same cell: %s", what, len(cells), pairs)
