"""Calibration of a run on its folds, and what predictions say then."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.cli import main
from wbcjax.data.kaggle import kaggle
from wbcjax.errors import CheckpointError, ConfigError
from wbcjax.evaluation.calibration import binned
from wbcjax.evaluation.classification import calibration_error
from wbcjax.evaluation.confidence import fit_confidence
from wbcjax.models import build
from wbcjax.pipeline.confidence import calibrate, confidence_of
from wbcjax.pipeline.inputs import classifier_inputs, train_and_validation
from wbcjax.pipeline.predictor import Run
from wbcjax.pipeline.runs import class_names_of, load_run, pooled, predict_split
from wbcjax.pipeline.workdir import portable
from wbcjax.training import split
from wbcjax.training.weights import read_card, read_config, read_tensors, save_weights


@pytest.fixture(scope="module")
def config(synthetic_root, tmp_path_factory) -> cfg.ClassifierConfig:
    return cfg.ClassifierConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path_factory.mktemp("cache")), input="whole",
        model=cfg.ModelConfig(name="lenet", image_size=(16, 16)), folds=2)


def saved(path: Path, config: cfg.ClassifierConfig, seed: int) -> Path:
    """A run's weights file, with random weights."""
    _, params, stats = split(build(config.model, seed))
    save_weights(path, params, stats, portable(config))
    return path


@pytest.fixture(scope="module")
def files(config, tmp_path_factory) -> list[Path]:
    """A run of random weights, and its two folds."""
    folder = tmp_path_factory.mktemp("runs")
    return [saved(folder / "all.safetensors", replace(config, test_views="flips"), 0),
            *(saved(folder / f"fold{k}.safetensors", replace(config, fold=k), 1 + k) for k in (0, 1))]


@pytest.fixture(scope="module")
def calibrated(config, files, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("calibrated") / "calibrated.safetensors"
    calibrate(files[0], files[:0:-1], out, data=config.data, alpha=0.25)
    return out


def test_each_fold_is_judged_by_the_network_that_left_it_out(config, files, calibrated):
    inputs, parts = classifier_inputs(config, "TRAIN"), []
    for fold in (1, 0):
        model, _ = load_run(files[1 + fold])
        held = replace(config, fold=fold, test_views="flips")  # the views of the run that is calibrated
        parts.append(predict_split(model, train_and_validation(held, inputs)[1], held))
    everything = pooled(parts)
    assert len(everything.labels) == len(inputs)
    expected = fit_confidence(everything.logits, everything.labels, everything.sources, 0.25)
    assert confidence_of(calibrated) == expected and expected.originals == 12


def test_the_weights_stay_what_they_are(files, calibrated):
    assert read_config(calibrated) == read_config(files[0])
    before, after = read_tensors(files[0]), read_tensors(calibrated)
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_predictions_say_what_is_uncertain(config, files, calibrated):
    paths = kaggle(config.data.root, "TEST").paths
    plain, run = Run(files[0]), Run(calibrated)
    assert plain.confidence is None and plain.predict(paths)[0].candidates is None
    for before, after in zip(plain.predict(paths), run.predict(paths), strict=True):
        assert after.class_name == before.class_name == after.candidates[0]
        values = [after.probabilities[name] for name in after.candidates]
        assert values == sorted(values, reverse=True)
        rest = [value for name, value in after.probabilities.items() if name not in after.candidates]
        assert all(1 - value > run.confidence.threshold for value in rest)


def test_the_command_line(config, files, tmp_path, capsys):
    out, image = tmp_path / "new.safetensors", str(kaggle(config.data.root, "TEST").paths[0])
    where = ["--data.root", str(config.data.root), "--data.cache_dir", str(config.data.cache_dir)]
    assert main(["calibrate", *map(str, files), "--out", str(out), *where]) == 0
    assert "from 12 originals" in capsys.readouterr().out
    # Of 12 originals no 95 % can be promised.
    assert main(["predict", str(out), image]) == 0
    assert "uncertain: " in capsys.readouterr().out
    assert main(["predict", str(out), image, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert len(said["candidates"]) == 4 and said["coverage"] == 0.95
    assert main(["predict", str(files[0]), image, "--json"]) == 0
    assert "candidates" not in json.loads(capsys.readouterr().out)
    assert main(["calibrate", str(files[0]), "--out", str(tmp_path / "b.safetensors")]) == 2
    assert "calibrate needs the folds" in capsys.readouterr().err


def test_evaluation_is_of_the_calibrated_probabilities(config, calibrated, tmp_path, capsys):
    where = ["--data.root", str(config.data.root), "--data.cache_dir", str(config.data.cache_dir)]
    assert main(["evaluate", str(calibrated), "--out", str(tmp_path / "of.json"), *where]) == 0
    said = json.loads((tmp_path / "of.json").read_text())
    (ece,) = (row["value"] for row in said["rows"] if row["metric"] == "ece")
    test, run = kaggle(config.data.root, "TEST"), Run(calibrated)
    p = np.array([list(found.probabilities.values()) for found in run.predict(test.paths)])
    edges = np.arange(1, 15) / 15
    assert ece == pytest.approx(float(calibration_error(binned(p.max(1), p.argmax(1) == test.labels, edges))), abs=1e-4)
    assert said["notes"] == [f"Probabilities at the temperature {run.confidence.temperature:.3f}."]


def test_names_of_own_classes_go_along(files, tmp_path, config):
    (tmp_path / "summary.json").write_text(json.dumps({"class_names": ["a", "b", "c", "d"]}))
    run = tmp_path / "all.safetensors"
    run.write_bytes(files[0].read_bytes())
    (tmp_path / "elsewhere").mkdir()
    out = tmp_path / "elsewhere" / "calibrated.safetensors"
    calibrate(run, files[1:], out, data=config.data)
    assert class_names_of(out, load_run(out)[1]) == ("a", "b", "c", "d")


@pytest.mark.parametrize(("change", "message"), [
    ({"folds": [1]}, r"has the folds 0\.\.1, and given were \[0\]"),
    ({"folds": [1, 1]}, r"given were \[0, 0\]"),
    ({"folds": [0, 1]}, r"all\.safetensors: no fold of .*all\.safetensors"),
    ({"run": 1}, r"fold0\.safetensors: trained without fold 0 alone"),
])
def test_folds_of_something_else_are_refused(files, tmp_path, change, message):
    run, folds = change.get("run", 0), change.get("folds", [1, 2])
    with pytest.raises(ConfigError, match=message):
        calibrate(files[run], [files[k] for k in folds], tmp_path / "out.safetensors")
    assert not list(tmp_path.iterdir())


def test_what_promises_nothing_is_refused(files, config, tmp_path):
    folds = [saved(tmp_path / f"fold{k}.safetensors", replace(config, fold=k, fold_by="file"), k) for k in (0, 1)]
    with pytest.raises(ConfigError, match=r"fold0\.safetensors: fold_by = 'file'; copies of cells that it has seen"):
        calibrate(files[0], folds, tmp_path / "out.safetensors")
    sigmoid = replace(config, model=replace(config.model, head="sigmoid"))
    with pytest.raises(ConfigError, match=r"model\.head = 'sigmoid'; temperature and sets need 'softmax'"):
        calibrate(saved(tmp_path / "sigmoid.safetensors", sigmoid, 0), folds, tmp_path / "out.safetensors")


@pytest.mark.parametrize("alpha", [0.0, 1.0, 5.0])
def test_an_impossible_promise_is_refused_before_any_image_is_read(files, tmp_path, alpha):
    nowhere = cfg.DataConfig(root=tmp_path / "absent")
    with pytest.raises(ConfigError, match=rf"alpha = {alpha} is impossible"):
        calibrate(files[0], files[1:], tmp_path / "out.safetensors", data=nowhere, alpha=alpha)


@pytest.mark.parametrize("names", [5, "abcd", ["a"], ["a", "b", "c", 4]])
def test_damaged_class_names_are_named(files, tmp_path, names):
    model, config = load_run(files[0])
    _, params, stats = split(model)
    path = tmp_path / "odd.safetensors"
    save_weights(path, params, stats, read_config(files[0]), card={"class_names": names})
    with pytest.raises(CheckpointError, match=r"odd\.safetensors: its class_names are damaged: expected 4 names"):
        class_names_of(path, config)


@pytest.mark.parametrize("name", ["all.safetensors", "out.bin"])
def test_nothing_is_overwritten(files, name):
    with pytest.raises(ConfigError, match=r"give a new file's name, ending in \.safetensors"):
        calibrate(files[0], files[1:], files[0].with_name(name))


@pytest.mark.parametrize("values", [{"temperature": 0.0}, {"temperature": 1.0, "threshold": 0.5}, [1], "x"])
def test_a_damaged_card_is_named(files, tmp_path, values):
    _, params, stats = split(load_run(files[0])[0])
    path = tmp_path / "odd.safetensors"
    save_weights(path, params, stats, read_config(files[0]), card={**read_card(files[0]), "confidence": values})
    with pytest.raises(CheckpointError, match=r"odd\.safetensors: its confidence is damaged .*; calibrate again"):
        Run(path)
