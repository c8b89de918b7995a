"""Classifiers on crops of a Mask R-CNN: where the crops come from, and how a run names the detector."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.cli import main
from wbcjax.data import class_folders, kaggle
from wbcjax.data.images import read_image, resize
from wbcjax.data.kaggle import originals
from wbcjax.errors import CheckpointError, ConfigError
from wbcjax.evaluation.results import read_results
from wbcjax.models import build
from wbcjax.pipeline.detector import Detector
from wbcjax.pipeline.inputs import FILE_SIZE, classifier_inputs, inputs_of, train_and_validation
from wbcjax.pipeline.predictor import Run
from wbcjax.pipeline.studies import run_folder
from wbcjax.pipeline.workdir import PACKAGED, WEIGHTS, detector_weights, is_finished, portable
from wbcjax.roi import crop
from wbcjax.training import split
from wbcjax.training.weights import save_weights

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


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
    assert portable(replace(config, roi_source="color", detector=weights))["detector"] is None  # not used


def test_the_packaged_detector_is_found_again_and_another_is_asked_for(config):
    stored = cfg.from_dict(cfg.ClassifierConfig, portable(config))
    assert detector_weights(stored) == PACKAGED
    with pytest.raises(CheckpointError, match=r"other\.safetensors@0: no such weights of a detector.*with --detector"):
        detector_weights(replace(stored, detector=PACKAGED.with_name("other.safetensors@0")))


def test_the_predictor_finds_the_cell_by_the_run_s_detector(config, tmp_path):
    _, params, stats = split(build(config.model))
    save_weights(tmp_path / WEIGHTS, params, stats, portable(config))
    image = kaggle(config.data.root, "TEST").paths[0]
    [prediction] = Run(tmp_path).predict([image])
    np.testing.assert_allclose(prediction.box, Detector.load()(image).boxes[0], atol=1e-3)


@pytest.fixture
def own_run(config, request, tmp_path) -> Path:
    """A run as drawn whose crops come from the tiny detector."""
    of_run = replace(config, detector=request.getfixturevalue("detector_weights"))
    (tmp_path / "own").mkdir()
    _, params, stats = split(build(config.model))
    save_weights(tmp_path / "own" / WEIGHTS, params, stats, portable(of_run))
    return tmp_path / "own"


def test_a_run_on_crops_of_an_own_detector_asks_for_it_and_takes_no_other(own_run, request, tmp_path):
    weights = request.getfixturevalue("detector_weights")
    with pytest.raises(CheckpointError, match=r"tiny\.safetensors@\w{12}: no such weights.*with --detector"):
        Run(own_run)
    with pytest.raises(CheckpointError, match=r"compact-wbc\.safetensors: not the detector .*tiny\.safetensors@\w{12}"):
        Run(own_run, detector=PACKAGED)
    moved = tmp_path / "moved" / WEIGHTS  # renamed, and given as a folder
    moved.parent.mkdir()
    moved.write_bytes(weights.read_bytes())
    assert Run(own_run, detector=moved.parent).config.detector == moved.parent


def test_a_run_without_a_detector_refuses_one(config, tmp_path):
    _, params, stats = split(build(config.model))
    for changed, message in (({"roi_source": "color"}, "crops with roi_source = 'color'"),
                             ({"input": "whole", "roi_source": "color"}, "whole images")):
        save_weights(tmp_path / WEIGHTS, params, stats, portable(replace(config, **changed)))
        with pytest.raises(ConfigError, match=f"the run takes {message}; leave it out"):
            Run(tmp_path, detector=PACKAGED)


def test_crops_may_come_from_elsewhere_than_in_training(config, own_run, tmp_path):
    _, params, stats = split(build(config.model))
    save_weights(tmp_path / WEIGHTS, params, stats, portable(replace(config, roi_source="color")))
    image = kaggle(config.data.root, "TEST").paths[0]
    by_color, by_detector = (Run(tmp_path, roi_source=source).predict([image])[0].box for source in (None, "mask_rcnn"))
    np.testing.assert_allclose(by_detector, Detector.load()(image).boxes[0], atol=1e-3)
    assert by_color is None or not np.allclose(by_color, by_detector)
    assert Run(own_run, roi_source="color").config.roi_source == "color"  # and needs no detector
    save_weights(tmp_path / WEIGHTS, params, stats, portable(replace(config, input="whole", roi_source="color")))
    with pytest.raises(ConfigError, match="roi_source = 'mask_rcnn', but the run takes whole images; leave it out"):
        Run(tmp_path, roi_source="mask_rcnn")


def test_the_command_line_takes_the_detector(own_run, config, request, capsys):
    weights = request.getfixturevalue("detector_weights")
    image = kaggle(config.data.root, "TEST").paths[0]
    assert main(["predict", str(own_run), str(image)]) == 2
    assert "with --detector" in capsys.readouterr().err
    assert main(["predict", str(own_run), str(image), "--detector", str(weights), "--json"]) == 0
    found = Detector.load(weights)
    expected = found.best_box(found(image))
    box = json.loads(capsys.readouterr().out)["box"]
    assert box == (None if expected is None else pytest.approx(expected.tolist(), abs=0.06))
    command = ["evaluate", str(own_run), "--data.root", str(config.data.root), "--data.cache_dir",
               str(config.data.cache_dir)]
    assert main(command) == 2
    assert main([*command, "--detector", str(weights)]) == 0
    written = read_results(own_run / "evaluation_TEST.json")
    assert {row["roi"] for row in written["rows"]} == {"mask_rcnn"}
    assert written["config"]["detector"].startswith("tiny.safetensors@")


def test_originals_are_cropped_by_the_detector_too(config):
    train = classifier_inputs(config, "TRAIN")
    items, _ = train_and_validation(replace(config, train_on="originals"), train)
    assert len(set(items.sources)) < len(set(train.names)) and not items.missed.any()
    smears = originals(config.data.root, "TRAIN")
    path = smears.paths[smears.names.index(items.names[0])]
    image = resize(read_image(path, strict=False), FILE_SIZE)
    expected = crop(image, Detector.load()(image).boxes[0], (16, 24), config.crop)
    np.testing.assert_array_equal(items.images[0], expected)


def test_the_folder_of_a_run_changes_with_the_detector_s_content_only(config, request, tmp_path):
    weights = request.getfixturevalue("detector_weights")
    copy = tmp_path / "copy" / weights.name
    copy.parent.mkdir()
    copy.write_bytes(weights.read_bytes())
    packaged, here, there = (run_folder(tmp_path, replace(config, detector=path)) for path in (None, weights, copy))
    assert here == there != packaged
    assert here.name.startswith("lenet-roi-mask_rcnn-seed0-")


def test_the_experiment_s_results_hold_every_source_asked_for(config, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("wbcjax.pipeline.studies.classification_study", lambda configs, **_: asked.extend(configs))
    script = runpy.run_path(str(EXPERIMENTS / "table6_7_custom_roi.py"))
    script["Crops"](data=config.data).study()
    assert {c.roi_source for c in asked} == {"color"}
    asked.clear()
    script["Crops"](data=config.data, roi=("color", "mask_rcnn", "oracle")).study()
    assert [c.roi_source for c in asked] == 3 * ["color"] + 3 * ["mask_rcnn"] + 3 * ["oracle"]
    assert [c.model.name for c in asked] == 3 * ["lenet", "custom1", "custom2"]


def test_weights_older_than_a_field_are_of_the_run_with_its_default(config, tmp_path):
    older, changed = replace(config, roi_source="color"), replace(config, roi_source="color", folds=7)
    values = portable(older)
    del values["detector"], values["roi_source"]
    _, params, stats = split(build(config.model))
    save_weights(tmp_path / WEIGHTS, params, stats, values)
    assert is_finished(tmp_path, older) and not is_finished(tmp_path, changed)
    save_weights(tmp_path / WEIGHTS, params, stats, {**values, "gone": 1})
    assert not is_finished(tmp_path, older)
