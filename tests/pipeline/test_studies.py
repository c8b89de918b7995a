"""The studies behind Tables 4 to 7 and Figure 12."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.data import kaggle
from wbcjax.errors import CheckpointError, ConfigError, DataError
from wbcjax.evaluation.results import read_results
from wbcjax.models import build
from wbcjax.pipeline import studies
from wbcjax.pipeline.counts import counts_study
from wbcjax.pipeline.presets import PRESETS, preset, recipe, recommended
from wbcjax.pipeline.rows import classification_rows, noise_predictor
from wbcjax.pipeline.runs import Predictions
from wbcjax.training import predict_function


@pytest.fixture
def config(synthetic_root, tmp_path) -> cfg.ClassifierConfig:
    return cfg.ClassifierConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path / "cache"), input="whole",
        model=cfg.ModelConfig(name="lenet", image_size=(16, 16)), train=cfg.TrainConfig(epochs=1, batch_size=8),
    )


def made_up() -> Predictions:
    """Two originals a class, two copies each; one original of class 0 and one copy of class 1 are read wrong."""
    labels = np.repeat(np.arange(4), 4)
    classes = labels.copy()
    classes[:2] = 3
    classes[4] = 2
    sources = tuple(f"s{i // 2}" for i in range(16))
    logits = 10 * np.eye(4, dtype=np.float32)[classes]
    return Predictions(logits, labels, sources, tuple(map(str, range(16))), np.arange(16) == 3)


def value(rows, **keys) -> float:
    found = [row["value"] for row in rows if all(row.get(k) == v for k, v in keys.items())]
    assert len(found) == 1
    return found[0]


def test_rows_of_a_classification_by_hand():
    rows = classification_rows(made_up(), model="custom2", input="roi", split="TEST", roi="color")
    assert value(rows, metric="accuracy") == 13 / 16
    assert value(rows, metric="balanced_accuracy") == pytest.approx((0.5 + 0.75 + 1 + 1) / 4)
    assert value(rows, metric="missed") == 1
    assert value(rows, metric="confusion", true="eosinophil", predicted="neutrophil") == 2
    assert value(rows, metric="precision", class_name="neutrophil") == pytest.approx(4 / 6)
    assert value(rows, metric="source_accuracy", source="s0") == 0
    assert value(rows, metric="source_accuracy", source="s2") == 0.5
    assert [row["paper"] for row in rows if row["metric"] == "accuracy"] == [0.92]
    accuracy = next(row for row in rows if row["metric"] == "accuracy")
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]


def test_the_papers_figure_stands_only_beside_test():
    rows = classification_rows(made_up(), model="custom2", input="roi", split="TEST_SIMPLE")
    assert not any("paper" in row for row in rows)


def test_a_run_folder_belongs_to_config_and_files(config, synthetic_root, tmp_path):
    root = Path(shutil.copytree(synthetic_root, tmp_path / "root"))
    same = replace(config, data=replace(config.data, root=root, cache_dir=tmp_path / "other"))
    folder = studies.run_folder(tmp_path, config)
    assert studies.run_folder(tmp_path, same) == folder, "the place of the data must not matter"
    assert studies.run_folder(tmp_path, replace(config, folds=4)) != folder
    file = kaggle(root, "TRAIN").paths[0]
    file.write_bytes(file.read_bytes() + b"\0")
    assert studies.run_folder(tmp_path, same) != folder


def test_inputs_are_shared_between_configs_of_one_kind(config):
    splits = studies.Splits()
    first = splits.get(config, "TEST")
    assert splits.get(replace(config, train=cfg.TrainConfig(seed=3)), "TEST") is first
    assert splits.get(replace(config, model=replace(config.model, image_size=(20, 20))), "TEST") is not first
    assert splits.get(config, "TEST") is not first, "the inputs of the config before are let go"


def test_a_study_trains_once_and_writes_valid_results(config, tmp_path):
    told = []
    places = {"runs": tmp_path / "runs", "results": tmp_path}
    configs = [config, replace(config, input="roi")]
    studies.classification_study(configs, experiment="table4", progress=lambda *n: told.append(n), **places)
    assert told == [(1, 2), (2, 2)]
    written = read_results(tmp_path / "table4.json")
    assert {(row["input"], row.get("roi")) for row in written["rows"]} == {("whole", None), ("roi", "color")}
    weights = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/weights.safetensors")}
    named = studies.classification_study(configs[:1], experiment="named", variant="mine", **places)
    assert {row.pop("variant") for row in named} == {"mine"}
    assert [row for row in written["rows"] if row["input"] == "whole"] == json.loads(json.dumps(named))
    noise = cfg.NoiseConfig(alphas=(0.0, 0.2), seeds=2)
    rows = studies.noise_study(configs, noise, experiment="fig12", **places)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/weights.safetensors")} == weights
    assert value(rows, input="whole", alpha=0.0, metric="accuracy") == pytest.approx(
        value(written["rows"], input="whole", metric="accuracy"))
    assert value(rows, input="roi", alpha=0.0, metric="retention") in (1.0,) or value(
        rows, input="roi", alpha=0.0, metric="accuracy") == 0


def test_the_noise_predictor_is_the_models_own(config):
    model = build(config.model)
    images = jax.random.uniform(jax.random.key(0), (3, 16, 16, 3))
    np.testing.assert_allclose(noise_predictor(model)(images), predict_function(model)(images), atol=1e-6)


def test_splits_that_share_an_original_are_refused_by_name(config, synthetic_root, tmp_path):
    root = Path(shutil.copytree(synthetic_root, tmp_path / "root"))
    table = root / "provenance.csv"
    lines = table.read_text().splitlines()
    test_source = next(line for line in lines if line.startswith("TEST,")).split(",")[3]
    for i, line in enumerate(lines):
        if line.startswith("TRAIN,"):
            fields = line.split(",")
            lines[i] = ",".join([*fields[:3], test_source, *fields[4:]])
            break
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match=f"TRAIN and TEST share 1 original: BloodImage_{int(test_source):05d}"):
        studies.proven_fingerprint(replace(config.data, root=root))


def test_counts_are_table_1(config, tmp_path):
    rows = counts_study(config.data, experiment="table1_data", results=tmp_path)
    assert value(rows, split="TRAIN", class_name="monocyte", metric="images") == 6
    assert value(rows, split="TEST", class_name="monocyte", metric="images") == 3
    assert value(rows, split="TEST", class_name="monocyte", metric="originals") == 1
    assert sum(row.get("paper", 0) for row in rows if row["split"] == "TRAIN") == 9957


def test_counts_of_the_real_data_are_the_papers(data_root, tmp_path):
    rows = counts_study(cfg.DataConfig(root=data_root), experiment="table1_data", results=tmp_path)
    assert all(row["value"] == row["paper"] for row in rows if row["metric"] == "images")
    originals = [row["value"] for row in rows if row["metric"] == "originals"]
    assert originals == [75, 27, 16, 159, 13, 6, 4, 48]


def test_seeds_and_presets():
    configs = studies.with_seeds(PRESETS["quick"].configs(cfg.DataConfig(root=None), "roi"), (0, 1))
    assert [(c.model.name, c.train.seed) for c in configs[:3]] == [("lenet", 0), ("lenet", 1), ("custom1", 0)]
    with pytest.raises(ConfigError, match="seeds = "):
        studies.with_seeds(configs, ())
    with pytest.raises(ConfigError, match="preset = 'slow' is unknown; the presets are: quick, paper"):
        preset("slow")
    assert recipe("custom1", "roi").fold is None, "published numbers train on all of TRAIN"


def test_a_model_of_other_classes_is_not_evaluated(config, tmp_path):
    three = replace(config, model=replace(config.model, num_classes=3))
    with pytest.raises(CheckpointError, match="tells 3 classes apart, the data has 4"):
        studies.evaluation_study(build(three.model), three, "TEST", tmp_path / "r.json")


def test_the_recommended_setting_is_the_recipe_and_what_makes_it_robust():
    config = recommended(cfg.DataConfig())
    plain = recipe("custom1", "roi")
    assert replace(config, augment=plain.augment, train=plain.train, test_views="one") == plain
    assert config.augment.noise > 0.35 and 0 < config.augment.corruption < 1 and config.fold is None
