"""Runs side by side leave the folders that they would leave alone, resume, and train what is missing only."""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from wbcjax import config as cfg
from wbcjax.errors import CheckpointError, ConfigError
from wbcjax.pipeline import seed_runs
from wbcjax.pipeline.inputs import classifier_inputs
from wbcjax.pipeline.runs import load_run, train_run
from wbcjax.pipeline.seed_runs import train_seeds
from wbcjax.pipeline.studies import with_seeds
from wbcjax.pipeline.workdir import CONFIG, SUMMARY, WEIGHTS, is_finished
from wbcjax.training.seeds import SeedStreams

SEEDS = (0, 2)
TIMES = ("images_per_second", "input_wait", "compile_seconds", "flops_per_second", "peak_share", "wall_time")


@pytest.fixture(scope="module")
def configs(synthetic_root, tmp_path_factory):
    """With a held-out fold, whose evaluation belongs to the summary."""
    config = cfg.ClassifierConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path_factory.mktemp("cache")), input="whole",
        model=cfg.ModelConfig(name="lenet", image_size=(16, 16)), folds=3, fold=1,
        train=cfg.TrainConfig(epochs=2, batch_size=4),
    )
    return with_seeds([config], SEEDS)


@pytest.fixture(scope="module")
def inputs(configs):
    return classifier_inputs(configs[0], "TRAIN")


@pytest.fixture(scope="module")
def alone(configs, inputs, tmp_path_factory):
    """The folder of each run, trained by itself."""
    root = tmp_path_factory.mktemp("alone")
    for config in configs:
        assert train_run(config, root / f"run{config.train.seed}", inputs=inputs)
    return root


def folders_in(root, seeds=SEEDS):
    return [root / f"run{seed}" for seed in seeds]


def lines(path):
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES}
            for line in path.read_text().splitlines() if "valid_loss" not in line]


def summary(folder):
    return {k: v for k, v in json.loads((folder / SUMMARY).read_text()).items() if k not in TIMES}


def assert_like(found, expected):
    """One folder of a run against the other."""
    assert (found / CONFIG).read_text() == (expected / CONFIG).read_text()
    one, other = summary(found), summary(expected)
    assert one.pop("class_names") == other.pop("class_names")
    assert one == pytest.approx(other, rel=1e-3)
    assert [line["step"] for line in lines(found / "metrics.jsonl")] == [
        line["step"] for line in lines(expected / "metrics.jsonl")]
    assert set(lines(found / "metrics.jsonl")[0]) == set(lines(expected / "metrics.jsonl")[0])
    one, other = load_file(found / WEIGHTS), load_file(expected / WEIGHTS)
    assert one.keys() == other.keys()
    for name, array in other.items():
        np.testing.assert_allclose(one[name], array, atol=2e-5)


def stop_after(monkeypatch, batches):
    """Ask the process to stop at a batch of that number, once."""
    real, taken = SeedStreams.__next__, []

    def asking(self):
        taken.append(None)
        if len(taken) == batches:
            signal.raise_signal(signal.SIGTERM)
        return real(self)

    monkeypatch.setattr(SeedStreams, "__next__", asking)


@pytest.mark.parametrize("interrupted", [False, True])
def test_folders_are_those_of_runs_alone(configs, inputs, alone, tmp_path, monkeypatch, interrupted):
    folders = folders_in(tmp_path)
    if interrupted:
        stop_after(monkeypatch, 3)
        assert not train_seeds(configs, folders, inputs)
        (common,) = tmp_path.iterdir()
        assert common.name.startswith("seeds-") and (common / "checkpoints").is_dir()
    assert train_seeds(configs, folders, inputs)
    assert sorted(tmp_path.iterdir()) == folders
    for config, folder in zip(configs, folders, strict=True):
        assert is_finished(folder, config)
        assert load_run(folder)[1].train.seed == config.train.seed
        assert_like(folder, alone / folder.name)
    before = [path.stat().st_mtime_ns for folder in folders for path in folder.iterdir()]
    assert train_seeds(configs, folders, inputs)
    assert [path.stat().st_mtime_ns for folder in folders for path in folder.iterdir()] == before


def test_an_end_between_two_folders_trains_nothing_anew(configs, inputs, tmp_path, monkeypatch):
    """The second run's files are written from the checkpoint; the first run's are left alone."""
    folders, real = folders_in(tmp_path), seed_runs.finish

    def first_only(workdir, *args, **options):
        if workdir == folders[1]:
            raise KeyboardInterrupt
        return real(workdir, *args, **options)

    monkeypatch.setattr(seed_runs, "finish", first_only)
    with pytest.raises(KeyboardInterrupt):
        train_seeds(configs, folders, inputs)
    monkeypatch.undo()
    written = (folders[0] / WEIGHTS).stat().st_mtime_ns
    stop_after(monkeypatch, 1)  # no batch is taken
    assert train_seeds(configs, folders, inputs)
    assert is_finished(folders[1], configs[1])
    assert (folders[0] / WEIGHTS).stat().st_mtime_ns == written
    assert sorted(tmp_path.iterdir()) == folders


def test_a_finished_run_is_left_out(configs, inputs, alone, tmp_path, monkeypatch):
    trained, real = [], seed_runs.fit_seeds
    monkeypatch.setattr(seed_runs, "fit_seeds", lambda *args, **options: (trained.append(options["seeds"]),
                                                                         real(*args, **options))[1])
    assert train_seeds(configs, [alone / "run0", tmp_path / "run2"], inputs)
    assert trained == [(2,)]
    assert_like(tmp_path / "run2", alone / "run2")


def test_first_stages_are_trained_side_by_side_too(configs, tmp_path, monkeypatch):
    configs = [replace(config, pretrain=cfg.PretrainConfig(1, (16, 16)), fold=None,
                       train=replace(config.train, epochs=1)) for config in configs]
    stop_after(monkeypatch, 2)  # in the first stage
    assert not train_seeds(configs, folders_in(tmp_path))
    assert train_seeds(configs, folders_in(tmp_path))
    for config, folder in zip(configs, folders_in(tmp_path), strict=True):
        assert is_finished(folder, config) and is_finished(folder / "first_stage", cfg.first_stage(config))
    assert train_run(configs[0], tmp_path / "alone")
    assert_like(tmp_path / "run0", tmp_path / "alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "run0", "run2"]
    starts = [folder / "first_stage" for folder in folders_in(tmp_path)]
    assert train_seeds(configs, folders_in(tmp_path / "again"), starts=starts)
    assert_like(tmp_path / "again" / "run2", tmp_path / "run2")


def test_what_was_begun_alone_is_left_alone(configs, inputs, tmp_path):
    (tmp_path / "run2" / "checkpoints" / "15").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"run2 holds a run already"):
        train_seeds(configs, folders_in(tmp_path), inputs)


@pytest.mark.parametrize(("change", "message"), [
    ({"optim": cfg.OptimConfig(learning_rate=0.1)}, "may differ in train.seed alone"),
    ({"train": cfg.TrainConfig(epochs=2, batch_size=4)}, r"train.seed = \[0, 0\] in 2 folders is impossible"),
])
def test_configs_differ_in_their_seed_alone(configs, inputs, tmp_path, change, message):
    with pytest.raises(ConfigError, match=message):
        train_seeds([configs[0], replace(configs[1], **change)], folders_in(tmp_path), inputs)


def test_what_needs_a_run_of_its_own_is_refused(configs, inputs, tmp_path):
    stopping = [replace(config, train=replace(config.train, patience=1)) for config in configs]
    with pytest.raises(ConfigError, match=r"train\.patience = 1 is impossible for several seeds"):
        train_seeds(stopping, folders_in(tmp_path), inputs)
    model = cfg.ModelConfig(name="vgg16", frozen_stages=1, image_size=(32, 32))
    cached = [replace(config, model=model, cached_copies=2) for config in configs]
    with pytest.raises(ConfigError, match="cached_copies = 2 is impossible for several seeds"):
        train_seeds(cached, folders_in(tmp_path), inputs)
