"""Folds that leak on purpose: by number, by file, and the warning."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from wbcjax.config import ClassifierConfig, from_dict
from wbcjax.errors import ConfigError, DataError
from wbcjax.pipeline.inputs import Inputs, fold_groups, train_and_validation

BY_ORIGINAL = ClassifierConfig(fold=0, folds=2)


def items(names, sources):
    n = len(names)
    return Inputs(np.zeros((n, 2, 2, 3), np.uint8), np.zeros(n, np.int32), tuple(sources), tuple(names),
                  np.zeros(n, bool))


@pytest.fixture
def files():
    """Two numbers, each with files of both originals."""
    names = [f"TRAIN/MONOCYTE/_{number}_{position}.jpeg" for number in (0, 10) for position in (7, 88, 901, 3)]
    return items(names, ["a", "b", "a", "b"] * 2)


def parted(config, inputs):
    train, held_out = train_and_validation(config, inputs)
    return set(train.names), set(held_out.names), set(train.sources) & set(held_out.sources)


def test_groups_by_name(files):
    assert fold_groups(BY_ORIGINAL, files) == files.sources
    assert fold_groups(replace(BY_ORIGINAL, fold_by="file"), files) == files.names
    assert fold_groups(replace(BY_ORIGINAL, fold_by="file_number"), files) == (
        ("TRAIN/MONOCYTE/_0",) * 4 + ("TRAIN/MONOCYTE/_10",) * 4)


def test_folds_by_number_keep_numbers_and_share_originals(files, caplog):
    with caplog.at_level(logging.WARNING):
        train, held_out, shared = parted(replace(BY_ORIGINAL, fold_by="file_number"), files)
    numbers = [{name.split("_")[1] for name in part} for part in (train, held_out)]
    assert sorted(map(sorted, numbers)) == [["0"], ["10"]] and shared == {"a", "b"}
    assert ("fold_by = 'file_number' leaks: of the 2 originals that are validated on, 2 are trained on too"
            in caplog.text)


def test_folds_by_file_part_all_files_and_share_originals(files, caplog):
    with caplog.at_level(logging.WARNING):
        train, held_out, shared = parted(replace(BY_ORIGINAL, fold_by="file"), files)
    assert len(train) == len(held_out) == 4 and train | held_out == set(files.names) and shared
    assert "fold_by = 'file' leaks" in caplog.text


def test_folds_by_original_are_the_default_and_warn_of_nothing(files, caplog):
    with caplog.at_level(logging.WARNING):
        *_, shared = parted(BY_ORIGINAL, files)
    assert ClassifierConfig().fold_by == "original" and not shared and not caplog.text


def test_a_file_without_a_number_is_named():
    inputs = items(["TRAIN/MONOCYTE/_0_1.jpeg", "own/a/cell.png"], "ab")
    with pytest.raises(DataError, match=r"own/a/cell\.png: fold_by = 'file_number' wants names such as _12_3456"):
        train_and_validation(replace(BY_ORIGINAL, fold_by="file_number"), inputs)


def test_without_a_fold_there_is_nothing_to_part():
    with pytest.raises(ConfigError, match="fold_by = 'file' is impossible: expected original unless a fold"):
        ClassifierConfig(fold_by="file")
    with pytest.raises(ConfigError, match="fold_by = 'number' is impossible: expected one of original, file_number"):
        from_dict(ClassifierConfig, {"fold": 0, "fold_by": "number"})
