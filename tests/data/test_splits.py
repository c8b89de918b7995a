"""Splits share no original: by construction, by proof, and on the real data."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcjax.data import DetectionSet, kaggle, voc
from wbcjax.data.overlaps import field_of, overlaps, shared_cells
from wbcjax.data.provenance import Provenance
from wbcjax.data.splits import assert_disjoint, detector_split, grouped_folds
from wbcjax.errors import DataError


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 12)), min_size=5, max_size=40),
    st.integers(2, 5),
    st.integers(0, 9),
)
def test_folds_keep_originals_whole_and_ignore_order(originals, n_folds, seed):
    labels = np.concatenate([np.full(size, label, np.int32) for label, size in originals])
    sources = [f"s{i:02d}" for i, (_, size) in enumerate(originals) for _ in range(size)]
    folds = grouped_folds(labels, sources, n_folds, seed)
    assert folds.shape == labels.shape and set(folds.tolist()) <= set(range(n_folds))
    for source in set(sources):
        assert len({f for f, s in zip(folds, sources, strict=True) if s == source}) == 1

    order = np.random.default_rng(seed).permutation(len(labels))
    np.testing.assert_array_equal(
        grouped_folds(labels[order], [sources[i] for i in order], n_folds, seed), folds[order]
    )


def test_folds_spread_each_class():
    """20 originals of each of two classes in 5 folds: 4 of each class in each fold, whatever the seed."""
    labels = np.repeat([0, 1], 200).astype(np.int32)
    sources = [f"s{i // 10}" for i in range(400)]
    assigned = []
    for seed in range(3):
        folds = grouped_folds(labels, sources, 5, seed)
        assert [np.bincount(labels[folds == f]).tolist() for f in range(5)] == [[40, 40]] * 5
        assigned.append(folds.tolist())
    assert assigned[0] != assigned[1] != assigned[2]


def test_folds_keep_overlapping_fields_together():
    sources = ["BloodImage_00037", "BloodImage_00038", "a", "b", "BloodImage_00232", "BloodImage_00255"]
    for seed in range(10):
        folds = grouped_folds(np.zeros(6, np.int32), sources, 2, seed)
        assert folds[0] == folds[1] and folds[4] == folds[5]


def test_impossible_folds():
    labels = np.zeros(4, np.int32)
    with pytest.raises(DataError, match="3 folds of 2 originals are impossible; choose 2 to 2 folds"):
        grouped_folds(labels, ["a", "a", "b", "b"], 3, 0)
    with pytest.raises(DataError, match="4 labels for 1 sources"):
        grouped_folds(labels, ["a"], 2, 0)


def test_assert_disjoint_names_the_offenders(caplog):
    assert_disjoint(["a", "b"], ["c"])
    with pytest.raises(DataError, match=r"^TRAIN and TEST share 2 originals: b, c; split by original"):
        assert_disjoint(["c", "a", "b", "b"], ["b", "c", "d"], what="TRAIN and TEST")
    with pytest.raises(DataError, match=r"share 12 originals: .* and 2 more"):
        assert_disjoint([f"{i:02d}" for i in range(12)], [f"{i:02d}" for i in range(12)])
    with pytest.raises(DataError, match="share 1 original: BloodImage_00037 ~ BloodImage_00038;"):
        assert_disjoint(["BloodImage_00037"], ["BloodImage_00038"])
    assert not caplog.records


def test_assert_disjoint_tells_of_shared_cells(caplog):
    with caplog.at_level(logging.WARNING):
        assert_disjoint(["BloodImage_00277"], ["BloodImage_00204"], what="A and B")
    assert "A and B share no original, but 1 pairs of originals show the same cell" in caplog.text
    assert "BloodImage_00204 ~ BloodImage_00277" in caplog.text
    with pytest.raises(DataError, match="BloodImage_00204 ~ BloodImage_00277"):
        assert_disjoint(["BloodImage_00277"], ["BloodImage_00204"], fields=True)


def test_overlap_table_groups_are_consistent():
    table = overlaps()
    assert len(table) == 43
    assert all(pair.first < pair.second and pair.inliers >= 8 for pair in table)
    for pair in table:
        assert field_of(pair.first) == field_of(pair.second) <= pair.first
    # Linked through 00276, though the two do not overlap themselves.
    assert field_of("BloodImage_00205") == field_of("BloodImage_00277") == "BloodImage_00204"
    assert field_of("BloodImage_00001") == "BloodImage_00001"


# --- the detector's split ---


def detection_set(names):
    empty = np.zeros((0, 4), np.float32)
    return DetectionSet(
        paths=tuple(Path(f"{name}.jpg") for name in names),
        boxes=(empty,) * len(names),
        labels=(np.zeros(0, np.int32),) * len(names),
        class_names=("wbc", "rbc", "platelets"),
        sizes=((480, 640),) * len(names),
    )


def table_of(train, test):
    """A provenance table of one file for each number in TRAIN and TEST."""
    number = np.array([*train, *test], np.int32)
    names = [f"TRAIN/MONOCYTE/_0_{n}.jpeg" for n in train] + [f"TEST/MONOCYTE/_0_{n}.jpeg" for n in test]
    return Provenance(
        tuple(names), number, number, number, number, np.zeros((len(names), 2, 3), np.float32)
    )


def test_detector_trains_on_train_originals_alone():
    table = table_of(train=range(1000, 1060), test=range(1060, 1070))
    found = detection_set([f"BloodImage_{n:05d}" for n in range(1000, 1080)])
    train, test = detector_split(found, table=table)
    assert len(train) == 60 - round(60 * 54 / 274) and len(train) + len(test) == 80
    assert set(train) < {f"BloodImage_{n:05d}" for n in range(1000, 1060)}
    assert detector_split(found, table=table) == (train, test)
    assert detector_split(found, seed=1, table=table)[0] != train
    reverse = detection_set(list(found.names)[::-1])
    assert detector_split(reverse, table=table) == (train, test)


def test_detector_needs_train_originals():
    with pytest.raises(DataError, match="none of the images is an original of the classification TRAIN set"):
        detector_split(detection_set(["x", "y"]), table=table_of([1000], [1001]))


# --- the real data ---


def test_real_detector_split(data_root):
    found = voc(data_root)
    train, test = detector_split(found)
    assert (len(train), len(test)) == (220, 144)
    assert set(train) | set(test) == set(found.names)
    of_train, of_test = (set(kaggle(data_root, split).sources) for split in ("TRAIN", "TEST"))
    assert set(train) <= of_train and of_test <= set(test)
    assert len(set(test) - of_train - of_test) == 19 and len(set(test) & of_train) == 54
    assert_disjoint(train, test, fields=True)
    for seed in range(5):
        assert [len(part) for part in detector_split(found, seed)] == [220, 144]


def test_real_official_split_shares_no_original_but_six_cells(data_root, caplog):
    train, test = (kaggle(data_root, split).sources for split in ("TRAIN", "TEST"))
    assert_disjoint(train, test, what="TRAIN and TEST")
    pairs = [(pair.first[-3:], pair.second[-3:]) for pair in shared_cells(train, test)]
    assert pairs == [
        ("204", "277"),
        ("224", "264"),
        ("230", "257"),
        ("364", "409"),
        ("365", "408"),
        ("377", "400"),
    ]
    simple = kaggle(data_root, "TEST_SIMPLE").sources
    with pytest.raises(DataError, match="share 69 originals"):
        assert_disjoint(test, simple)


def test_real_folds_are_stratified(data_root):
    train = kaggle(data_root, "TRAIN")
    folds = grouped_folds(train.labels, train.sources, 5, seed=0)
    counts = np.array([np.bincount(train.labels[folds == f], minlength=4) for f in range(5)])
    assert (counts.sum(axis=0) == np.bincount(train.labels)).all()
    assert counts.min() >= 400  # of about 498 on average
    monocytes = train.subset(np.flatnonzero(train.labels == 2))
    pairs = set(zip(monocytes.sources, folds[train.labels == 2].tolist(), strict=True))
    assert sorted(np.bincount([fold for _, fold in pairs]).tolist()) == [3, 3, 3, 3, 4]
    for fold in range(5):
        inside, outside = (
            {s for s, f in zip(train.sources, folds, strict=True) if (f == fold) is part} for part in (True, False)
        )
        assert_disjoint(inside, outside, fields=True)
