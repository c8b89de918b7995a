"""From a data root to classifier inputs."""

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.data import class_folders, kaggle, voc
from wbcjax.data.provenance import wbc_boxes
from wbcjax.errors import DataError
from wbcjax.pipeline.inputs import (
    FILE_SIZE,
    Inputs,
    classifier_inputs,
    data_root,
    files_digest,
    inputs_of,
    thinned,
    train_and_validation,
)
from wbcjax.roi import EXPANDED, color_roi, crop


@pytest.fixture
def config(synthetic_root, tmp_path) -> cfg.ClassifierConfig:
    return cfg.ClassifierConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path / "cache"), input="roi", roi=EXPANDED,
        model=cfg.ModelConfig(name="lenet", image_size=(16, 24)), folds=3,
    )


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_whole_images_are_the_files_resized(config):
    inputs = classifier_inputs(replace(config, input="whole"), "TRAIN")
    files = kaggle(config.data.root, "TRAIN")
    assert inputs.images.shape == (24, 16, 24, 3) and inputs.images.dtype == np.uint8
    assert inputs.names == files.names and inputs.sources == files.sources and not inputs.missed.any()
    np.testing.assert_array_equal(inputs.labels, files.labels)
    expected = cv2.resize(read(files.paths[5]), (24, 16), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(inputs.images[5], expected)


def test_crops_are_those_of_the_colour_roi_and_the_same_from_the_cache(config):
    inputs = classifier_inputs(config, "TEST")
    image = read(kaggle(config.data.root, "TEST").paths[3])
    assert image.shape[:2] == FILE_SIZE
    box = color_roi(image, EXPANDED)
    np.testing.assert_array_equal(inputs.images[3], crop(image, box, (16, 24), config.crop))
    again = classifier_inputs(config, "TEST")
    np.testing.assert_array_equal(again.images, inputs.images)
    np.testing.assert_array_equal(again.missed, inputs.missed)


def test_an_image_without_a_region_falls_back_to_the_whole_and_is_counted(config, tmp_path):
    folder = tmp_path / "own" / "a"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "plain.png"), np.full((*FILE_SIZE, 3), 230, np.uint8))
    shutil.copy(kaggle(config.data.root, "TEST").paths[0], folder / "cell.jpeg")
    inputs = inputs_of(class_folders(tmp_path / "own"), config)
    assert inputs.missed.tolist() == [False, True]
    np.testing.assert_array_equal(inputs.images[1], np.full((16, 24, 3), 230))
    assert inputs.class_names == ("a",) and inputs.sources == ("cell", "plain")


def test_oracle_crops_follow_the_true_boxes(config):
    oracle = replace(config, roi_source="oracle")
    inputs = classifier_inputs(oracle, "TEST")
    items = kaggle(config.data.root, "TEST")
    boxes = wbc_boxes(items, voc(config.data.root))
    np.testing.assert_array_equal(inputs.images[0], crop(read(items.paths[0]), boxes[0][0], (16, 24), config.crop))
    with pytest.raises(DataError, match="roi_source = 'oracle' crops by true boxes"):
        inputs_of(items, oracle)


def test_a_changed_file_is_read_again(config, synthetic_root, tmp_path):
    root = Path(shutil.copytree(synthetic_root, tmp_path / "root"))
    config = replace(config, data=replace(config.data, root=root))
    before = classifier_inputs(config, "TEST")
    path = kaggle(root, "TEST").paths[0]
    digest = files_digest([path])
    cv2.imwrite(str(path), np.full((*FILE_SIZE, 3), 230, np.uint8))
    after = classifier_inputs(config, "TEST")
    assert files_digest([path]) != digest
    assert not before.missed[0] and after.missed[0]
    np.testing.assert_array_equal(before.images[1:], after.images[1:])


def test_folds_part_train_by_original(config):
    inputs = classifier_inputs(config, "TRAIN")
    assert train_and_validation(config, inputs) == (inputs, None)
    held_out = [train_and_validation(replace(config, fold=k), inputs) for k in range(3)]
    for train, valid in held_out:
        assert not set(train.sources) & set(valid.sources) and len(train) + len(valid) == len(inputs)
    assert sorted(name for _, valid in held_out for name in valid.names) == sorted(inputs.names)


def test_all_is_train_then_test(config):
    both = classifier_inputs(config, "ALL")
    parts = [classifier_inputs(config, split) for split in ("TRAIN", "TEST")]
    assert both.names == parts[0].names + parts[1].names and both.sources == parts[0].sources + parts[1].sources
    for field in ("images", "labels", "missed"):
        np.testing.assert_array_equal(getattr(both, field), np.concatenate([getattr(p, field) for p in parts]))
    assert both.class_names == parts[0].class_names and len(both) == 36


def test_thinning_takes_files_of_each_original_evenly():
    sources = tuple("abaacabaaa")  # a: 0 2 3 5 7 8 9, b: 1 6, c: 4
    n = len(sources)
    inputs = Inputs(np.zeros((n, 2, 2, 3), np.uint8), np.zeros(n, np.int32), sources, tuple(map(str, range(n))),
                    np.zeros(n, bool))
    kept = {share: [int(name) for name in thinned(inputs, share).names] for share in (0.01, 0.3, 0.6, 0.9, 1.0)}
    assert kept == {0.01: [0, 1, 4], 0.3: [0, 1, 4, 5], 0.6: [0, 1, 2, 4, 5, 8], 0.9: [0, 1, 2, 3, 4, 5, 6, 7, 8],
                    1.0: list(range(10))}


def test_a_share_thins_what_is_trained_on_and_not_what_judges(config):
    inputs = classifier_inputs(config, "ALL")
    for fold in range(3):
        whole, held_out = train_and_validation(replace(config, fold=fold), inputs)
        part, judged = train_and_validation(replace(config, fold=fold, train_share=0.5), inputs)
        assert judged.names == held_out.names
        assert set(part.names) < set(whole.names) and set(part.sources) == set(whole.sources)
        assert not set(part.sources) & set(judged.sources)
        for source in part.sources:
            assert part.sources.count(source) == max(1, round(whole.sources.count(source) / 2))


def test_originals_of_both_sets_are_trained_on_where_they_are_pooled(config):
    pooled = replace(config, train_split="ALL", fold=0, train_on="originals")
    train, held_out = train_and_validation(pooled, classifier_inputs(config, "ALL"))
    of_test = set(kaggle(config.data.root, "TEST").sources)
    assert of_test - set(held_out.sources) <= set(train.sources) and of_test & set(train.sources)
    assert not set(train.sources) & set(held_out.sources)


def test_subset_keeps_rows_together(config):
    inputs = classifier_inputs(config, "TRAIN")
    part = inputs.subset(np.array([4, 1]))
    assert part.names == (inputs.names[4], inputs.names[1]) and len(part) == 2
    np.testing.assert_array_equal(part.images[0], inputs.images[4])


def test_the_data_root_must_be_given_and_exist(tmp_path):
    with pytest.raises(DataError, match=r"no data root: give --data\.root"):
        data_root(cfg.DataConfig(root=None))
    with pytest.raises(DataError, match=r"absent: no such folder \(data\.root\)"):
        data_root(cfg.DataConfig(root=tmp_path / "absent"))


def test_originals_that_are_not_known_are_not_made_up(config):
    inputs = classifier_inputs(config, "TRAIN")
    strangers = replace(inputs, sources=tuple(f"own{i}" for i in range(len(inputs))))
    with pytest.raises(DataError, match="no original of class 'eosinophil' is known; use train_on = 'files'"):
        train_and_validation(replace(config, train_on="originals"), strangers)
