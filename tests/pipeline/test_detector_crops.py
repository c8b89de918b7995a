"""Classifiers on crops of a Mask R-CNN: where the crops come from, and how a run names the detector."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.data import class_folders, kaggle
from wbcjax.errors import CheckpointError
from wbcjax.models import build
from wbcjax.pipeline.detector import Detector
from wbcjax.pipeline.inputs import classifier_inputs, inputs_of
from wbcjax.pipeline.predictor import Run
from wbcjax.pipeline.workdir import PACKAGED, WEIGHTS, detector_weights, is_finished, portable
from wbcjax.roi import crop
from wbcjax.training import split
from wbcjax.training.weights import save_weights


@pytest.fixture
def config(synthetic_root, tmp_path) -> cfg.ClassifierConfig:
    return cfg.ClassifierConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path / "cache"), input="roi", roi_source="mask_rcnn",
        model=cfg.ModelConfig(name="lenet", image_size=(16, 24)),
    )


def test_crops_are_those_of_the_packaged_detector_and_the_same_from_the_cache(config):
    inputs = classifier_inputs(config, "TEST")
    assert not inputs.missed.any()
    image = cv2.cvtColor(cv2.imread(str(kaggle(config.data.root, "TEST").paths[2])), cv2.COLOR_BGR2RGB)
    found = Detector.load()(image)
    np.testing.assert_array_equal(inputs.images[2], crop(image, found.boxes[0], (16, 24), config.crop))
    kept = list(config.data.cache_dir.glob("regions-*.npy"))
    assert len(kept) == 1
    np.save(kept[0], np.full((len(inputs), 4), np.nan, np.float32))  # read, not computed again
    assert classifier_inputs(config, "TEST").missed.all()


def test_an_image_without_a_cell_falls_back_to_the_whole(config, tmp_path):
    (tmp_path / "own" / "a").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "own" / "a" / "plain.png"), np.full((240, 320, 3), 230, np.uint8))
    inputs = inputs_of(class_folders(tmp_path / "own"), config)
    assert inputs.missed.tolist() == [True]
    np.testing.assert_array_equal(inputs.images[0], np.full((16, 24, 3), 230))


def test_a_run_names_its_detector_by_content(config, request, tmp_path):
    weights = request.getfixturevalue("detector_weights")  # also the name of what is tested
    copy = tmp_path / "elsewhere" / weights.name
    copy.parent.mkdir()
    copy.write_bytes(weights.read_bytes())
    here, there = (portable(replace(config, detector=path)) for path in (weights, copy))
    assert here == there and here["detector"].startswith("tiny.safetensors@")
    assert portable(config)["detector"].startswith(f"{PACKAGED.name}@")
    assert portable(replace(config, roi_source="color"))["detector"] is None


def test_the_packaged_detector_is_found_again_and_another_is_asked_for(config):
    stored = cfg.from_dict(cfg.ClassifierConfig, portable(config))
    assert detector_weights(stored) == PACKAGED
    with pytest.raises(CheckpointError, match=r"other\.safetensors@0: no such weights of a detector.*as detector"):
        detector_weights(replace(stored, detector=PACKAGED.with_name("other.safetensors@0")))


def test_the_predictor_finds_the_cell_by_the_run_s_detector(config, tmp_path):
    _, params, stats = split(build(config.model))
    save_weights(tmp_path / WEIGHTS, params, stats, portable(config))
    image = kaggle(config.data.root, "TEST").paths[0]
    [prediction] = Run(tmp_path).predict([image])
    np.testing.assert_allclose(prediction.box, Detector.load()(image).boxes[0], atol=1e-3)


def test_weights_older_than_a_field_are_of_the_run_with_its_default(config, tmp_path):
    older, changed = replace(config, roi_source="color"), replace(config, roi_source="color", folds=7)
    values = portable(older)
    del values["detector"], values["roi_source"]
    _, params, stats = split(build(config.model))
    save_weights(tmp_path / WEIGHTS, params, stats, values)
    assert is_finished(tmp_path, older) and not is_finished(tmp_path, changed)
    save_weights(tmp_path / WEIGHTS, params, stats, {**values, "gone": 1})
    assert not is_finished(tmp_path, older)
