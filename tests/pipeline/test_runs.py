"""One training run: what it writes, refuses and loads."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.data import class_folders, kaggle
from wbcjax.errors import CheckpointError, ConfigError, DataError
from wbcjax.pipeline import runs
from wbcjax.pipeline.inputs import classifier_inputs
from wbcjax.pipeline.predictor import Run
from wbcjax.pipeline.runs import (
    class_names_of,
    is_begun,
    load_run,
    predict_split,
    train_on,
    train_run,
)
from wbcjax.pipeline.workdir import WEIGHTS, identity, is_finished, portable
from wbcjax.roi import EXPANDED
from wbcjax.training.weights import save_weights


@pytest.fixture(scope="module")
def config(synthetic_root, tmp_path_factory) -> cfg.ClassifierConfig:
    return cfg.ClassifierConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path_factory.mktemp("cache")), input="roi", roi=EXPANDED,
        model=cfg.ModelConfig(name="lenet", image_size=(16, 16)), folds=3,
        optim=cfg.OptimConfig(learning_rate=0.002), train=cfg.TrainConfig(epochs=1, batch_size=8),
    )


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    assert train_run(config, folder)
    return folder


def test_a_finished_run_holds_everything(finished, config):
    assert {path.name for path in finished.iterdir()} >= {"config.json", "metrics.jsonl", "checkpoints", WEIGHTS}
    assert json.loads((finished / "config.json").read_text()) == portable(config)
    assert is_finished(finished, config) and is_begun(finished)
    assert not is_finished(finished, replace(config, train=replace(config.train, seed=1)))
    assert is_finished(finished, replace(config, test_views="flips")), "they do not change what is trained"
    assert "root" not in portable(config)["data"], "a run must not depend on where its data lay"


def test_a_loaded_run_predicts_what_the_weights_say(finished, config):
    test = classifier_inputs(config, "TEST")
    model, loaded = load_run(finished)
    assert portable(loaded) == portable(config)
    predictions = predict_split(model, test, config)
    same = predict_split(load_run(finished / WEIGHTS)[0], test, config)
    np.testing.assert_array_equal(predictions.logits, same.logits)
    assert predictions.logits.shape == (12, 4) and predictions.sources == test.sources
    np.testing.assert_array_equal(predictions.classes, predictions.logits.argmax(1))


def test_the_predictor_agrees_with_the_evaluation(finished, config):
    files = kaggle(config.data.root, "TEST")
    model, _ = load_run(finished)
    logits = predict_split(model, classifier_inputs(config, "TEST"), config).logits
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    run = Run(finished)
    found = run.predict(files.paths)
    np.testing.assert_allclose([list(p.probabilities.values()) for p in found], expected, atol=1e-5)
    assert run.predict([]) == []
    assert [p.class_name for p in found] == [run.class_names[k] for k in logits.argmax(1)]


def test_the_predictor_takes_large_images_and_gives_boxes_in_their_pixels(finished, config):
    import cv2

    from wbcjax.data.images import read_image

    small = read_image(kaggle(config.data.root, "TEST").paths[0])
    large = cv2.resize(small, (640, 480), interpolation=cv2.INTER_LINEAR)
    (at_small,), (at_large,) = Run(finished).predict([small]), Run(finished).predict([large])
    np.testing.assert_allclose(at_large.box, 2 * at_small.box, atol=8)


@pytest.mark.parametrize("image", [np.zeros((20, 20, 3), np.float32), np.zeros((20, 20), np.uint8),
                                   np.zeros((20, 20, 4), np.uint8)])
def test_the_predictor_refuses_arrays_that_are_no_rgb_image(finished, image):
    with pytest.raises(DataError, match=r"expected RGB: \(height, width, 3\), uint8"):
        Run(finished).predict([image])


def test_a_folder_with_a_run_is_left_alone(finished, config):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    with pytest.raises(CheckpointError, match="holds a run already; --resume continues it"):
        train_run(config, finished)
    with pytest.raises(CheckpointError, match=r"another config \(optim\.learning_rate is 0\.002 there, 0\.1 here\)"):
        train_run(replace(config, optim=cfg.OptimConfig(learning_rate=0.1)), finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"model": cfg.ModelConfig(name="alexnet")}, ConfigError, "model.name = 'alexnet' is unknown"),
    ({"model": cfg.ModelConfig(name="lenet", num_classes=3)}, ConfigError, "model.num_classes = 3, but the data has 4"),
    ({"train": cfg.TrainConfig(batch_size=25)}, ConfigError, "train.batch_size = 25 is more than the 24 training"),
])
def test_what_cannot_be_trained_leaves_no_folder(config, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        train_run(replace(config, **change), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_interrupted_in_its_first_stage_is_resumed_there(config, tmp_path, monkeypatch):
    two_stages = replace(config, input="whole", pretrain=cfg.PretrainConfig(1, config.model.image_size))
    real = runs.fit
    monkeypatch.setattr(runs, "fit", lambda *args, **options: replace(real(*args, **options), interrupted=True))
    assert not train_run(two_stages, tmp_path)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match="holds a run already; --resume continues it"):
        train_run(two_stages, tmp_path)
    assert train_run(two_stages, tmp_path, resume=True)
    assert is_finished(tmp_path, two_stages) and (tmp_path / "first_stage" / WEIGHTS).is_file()


def test_a_checkpoint_that_was_cut_off_is_none(tmp_path):
    (tmp_path / "checkpoints" / "15.orbax-checkpoint-tmp").mkdir(parents=True)
    assert not is_begun(tmp_path)
    (tmp_path / "checkpoints" / "15").mkdir()
    assert is_begun(tmp_path)


def test_resume_needs_something_to_resume(config, tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint here to resume"):
        train_run(config, tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_a_damaged_config_is_named(config, tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json: damaged"):
        train_run(config, tmp_path)


def test_class_folders_of_other_classes_can_be_trained_on(config, tmp_path):
    items = kaggle(config.data.root, "TRAIN")
    for path, label in zip(items.paths, items.labels.tolist(), strict=True):
        folder = tmp_path / "own" / ("round" if label == 1 else "other")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    own = class_folders(tmp_path / "own")
    config = replace(config, model=replace(config.model, num_classes=2))
    assert train_on(own, config, tmp_path / "run")
    run = Run(tmp_path / "run")
    assert run.class_names == ("other", "round")
    assert set(run.predict(own.paths[:1])[0].probabilities) == {"other", "round"}


def test_class_names_without_a_summary(tmp_path, config):
    save_weights(tmp_path / WEIGHTS, {"kernel": np.zeros(1)}, {}, {})
    assert class_names_of(tmp_path / WEIGHTS, config)[0] == "eosinophil"
    (tmp_path / "summary.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"summary\.json: damaged"):
        class_names_of(tmp_path, config)
    (tmp_path / "summary.json").unlink()
    three = replace(config, model=replace(config.model, num_classes=3))
    assert class_names_of(tmp_path, three) == ("class 0", "class 1", "class 2")


def test_identity_leaves_out_what_has_its_default():
    config = cfg.ClassifierConfig()
    assert identity(config) == {}
    changed = replace(config, fold=2, model=replace(config.model, name="lenet"))
    assert identity(changed) == {"fold": 2, "model": {"name": "lenet"}}
    assert identity(replace(changed, test_views="flips")) == identity(changed)
