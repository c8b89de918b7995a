"""Settings changed one at a time, on several folds."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.errors import ConfigError
from wbcjax.evaluation.results import read_results
from wbcjax.pipeline import sensitivity
from wbcjax.pipeline.runs import Predictions, pooled
from wbcjax.pipeline.studies import difference, fold_study


def leaves(values: dict, prefix: str = "") -> dict:
    out = {}
    for name, value in values.items():
        out |= leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return out


def test_each_variant_changes_one_setting_of_the_base():
    base = sensitivity.base_config("custom1", cfg.DataConfig())
    flat = leaves(dataclasses.asdict(base))
    found = sensitivity.variants(base)
    assert next(iter(found.items())) == (sensitivity.BASE, base)
    changed = {name: {key for key, value in leaves(dataclasses.asdict(config)).items() if value != flat[key]}
               for name, config in found.items()}
    parts = {"input size": "model.image_size", "crop margin": "crop.margin", "crop shape": "crop.square",
             "ROI box": "roi.", "head": "model.head", "optimiser": "optim."}
    for name in list(found)[1:]:
        part = parts[name.split(": ")[0]]
        assert changed[name] and all(key.startswith(part) for key in changed[name]), name
    assert set(sensitivity.choices(base)) == set(parts)


def test_predictions_of_folds_are_pooled_in_order():
    def part(classes, names):
        return Predictions(np.eye(4, dtype=np.float32)[classes], np.zeros(len(classes), int), tuple(names),
                           tuple(names), np.zeros(len(classes), bool))

    both = pooled([part([1, 2], "ab"), part([3], "c")])
    np.testing.assert_array_equal(both.classes, [1, 2, 3])
    assert both.sources == both.names == ("a", "b", "c") and len(both.missed) == 3


def test_the_difference_is_of_pairs():
    right, wrong = np.diag([4, 0, 0, 0]), np.array([[0, 4, 0, 0], *np.zeros((3, 4), int)])
    base = np.stack([right, wrong, right, wrong])
    assert difference(base, base) == (0, 0, 0), "the originals vary, what they tell the two runs apart does not"
    better = np.stack([right, right, right, wrong])
    found = difference(better, base)
    assert found.value == 0.25 and found.low == 0 and found.high > 0.25


def test_folds_are_pooled_and_compared_with_the_first(synthetic_root, tmp_path):
    base = cfg.ClassifierConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path / "cache"), folds=3,
        model=cfg.ModelConfig(name="lenet", image_size=(16, 16)), train=cfg.TrainConfig(epochs=1, batch_size=8),
    )
    variants = {"recipe": base, "head: sigmoid": replace(base, model=replace(base.model, head="sigmoid"))}
    places = {"runs": tmp_path / "runs", "results": tmp_path}
    rows = fold_study(variants, experiment="study", folds=(0, 2), **places)
    assert len(list(tmp_path.glob("runs/*/weights.safetensors"))) == 4
    assert read_results(tmp_path / "study.json")["rows"] == rows
    assert {row["split"] for row in rows} == {"TRAIN, folds 0, 2 of 3"}
    figures = {(row["variant"], row["metric"]): row["value"] for row in rows}
    assert set(figures) == {(name, metric) for name in variants for metric in ("accuracy", "balanced_accuracy")} | {
        ("head: sigmoid", "difference")}
    assert figures["head: sigmoid", "difference"] == pytest.approx(
        figures["head: sigmoid", "accuracy"] - figures["recipe", "accuracy"])
    single = fold_study({"recipe": replace(base, fold=2)}, experiment="one", **places)
    assert {row["split"] for row in single} == {"TRAIN, fold 2 of 3"}
    assert len(list(tmp_path.glob("runs/*/weights.safetensors"))) == 4, "the run of that fold is reused"
    with pytest.raises(ConfigError, match="name the fold"):
        fold_study({"recipe": base}, experiment="none", **places)
