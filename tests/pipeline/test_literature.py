"""Table 10's study: what is trained on what, and the rows it writes."""

import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.config import DataConfig
from wbcjax.evaluation.results import read_results
from wbcjax.pipeline.inputs import Inputs, classifier_inputs
from wbcjax.pipeline.literature import (
    FOLDS,
    NETWORKS,
    FeatureConfig,
    few_of_each_original,
    literature_study,
    network_config,
)
from wbcjax.roi import EXPANDED


@pytest.fixture(scope="module")
def crops(synthetic_root, tmp_path_factory) -> cfg.ClassifierConfig:
    return cfg.ClassifierConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path_factory.mktemp("literature")), roi=EXPANDED,
        model=cfg.ModelConfig(name="capsule", image_size=(32, 32), head="margin"),
        train=cfg.TrainConfig(epochs=1, batch_size=8),
    )


def test_study(crops, tmp_path):
    handmade = FeatureConfig(("knn",), share=1.0, folds=3)
    told = []
    rows = literature_study([crops], crops, handmade, experiment="table10", runs=tmp_path / "runs", results=tmp_path,
                            progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 3), (2, 3), (3, 3)]
    written = read_results(tmp_path / "table10.json")
    assert written["rows"] == rows and set(written["config"]["chosen"]) == {"knn, color", "knn, oracle"}
    found = {(row["model"], row["roi"], row["split"]): row for row in rows if row["metric"] == "accuracy"}
    assert set(found) == {("knn", roi, split) for roi in ("color", "oracle") for split in ("TEST", FOLDS)} | {
        ("capsule", "color", "TEST")}
    assert all("low" in row for key, row in found.items() if key[2] == "TEST")
    assert {row["metric"] for row in rows} == {"accuracy", "balanced_accuracy", "precision", "recall", "f1", "missed"}
    missed = [row["value"] for row in rows if row["metric"] == "missed" and row["roi"] == "color"]
    assert missed == [int(classifier_inputs(crops, "TEST").missed.sum())] * 2


def test_settings_are_chosen_on_some_files_of_every_original():
    sources = tuple("aabab")
    inputs = Inputs(np.zeros((5, 2, 2, 3), np.uint8), np.zeros(5, np.int32), sources, tuple("vwxyz"), np.zeros(5, bool))
    assert few_of_each_original(inputs, 0.5).tolist() == [0, 1, 2]  # round(1.5) = 2 of a, 1 of b
    assert few_of_each_original(inputs, 0.1).tolist() == [0, 2]


def test_networks_have_their_own_losses():
    configs = {name: network_config(name, DataConfig(root=None)) for name in NETWORKS}
    assert {c.model.head for c in configs.values()} == {"softmax", "margin"}
    assert configs["capsule"].train.label_smoothing == 0 < configs["double_conv"].train.label_smoothing
    assert all(c.model.image_size == (64, 64) and c.train_split == "TRAIN" for c in configs.values())
    with pytest.raises(KeyError):
        network_config("lenet", DataConfig(root=None))
