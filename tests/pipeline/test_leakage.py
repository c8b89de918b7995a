"""The study of leaking splits: counts and accuracies by hand."""

from dataclasses import replace

import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.errors import ConfigError
from wbcjax.evaluation.results import read_results
from wbcjax.pipeline.inputs import classifier_inputs, train_and_validation
from wbcjax.pipeline.leakage import leakage_study, split_rows
from wbcjax.pipeline.runs import Predictions, load_run, predict_split
from wbcjax.pipeline.studies import run_folder


@pytest.fixture(scope="module")
def config(synthetic_root, tmp_path_factory) -> cfg.ClassifierConfig:
    return cfg.ClassifierConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path_factory.mktemp("leakage")), input="whole", folds=3,
        model=cfg.ModelConfig(name="lenet", image_size=(16, 16)), train=cfg.TrainConfig(epochs=1, batch_size=8),
    )


def find(rows, **keys):
    found = [row["value"] for row in rows if all(row.get(key) == value for key, value in keys.items())]
    assert len(found) == 1
    return found[0]


def test_rows_by_hand():
    def fold(labels, classes, sources):
        n = len(labels)
        return Predictions(np.eye(4, dtype=np.float32)[classes], np.array(labels), tuple(sources),
                           tuple(map(str, range(n))), np.zeros(n, bool))

    judged = [fold([0, 0, 1], [0, 1, 1], "aab"), fold([0, 1, 1], [0, 1, 0], "abb")]
    parts = [(("a", "a", "b", "c"), ("a", "a", "b")), (("c", "d", "d", "e"), ("a", "b", "b"))]
    rows = split_rows(judged, parts, folds_judged=2, model="custom1", input="roi", split="x", fold_by="file")
    assert find(rows, metric="accuracy") == pytest.approx(4 / 6)
    assert find(rows, metric="balanced_accuracy") == pytest.approx(4 / 6)
    assert [find(rows, metric="images", part=p) for p in ("trained on", "held out")] == [4, 3]
    assert [find(rows, metric="originals", part=p) for p in ("trained on", "held out", "both")] == [3, 2, 1]


def test_study(config, tmp_path):
    told = []
    folds = {"file": 1, "original": 2}
    rows = leakage_study(config, folds, experiment="leakage", runs=tmp_path / "runs", results=tmp_path,
                         progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert read_results(tmp_path / "leakage.json")["rows"] == rows
    assert find(rows, metric="originals", part="both", fold_by="original") == 0
    files = classifier_inputs(config, "ALL")
    right = total = 0
    for fold in range(2):
        held = replace(config, train_split="ALL", fold=fold)
        _, held_out = train_and_validation(held, files)
        predictions = predict_split(load_run(run_folder(tmp_path / "runs", held))[0], held_out, held)
        right, total = right + (predictions.classes == predictions.labels).sum(), total + len(held_out)
    assert find(rows, metric="accuracy", fold_by="original") == pytest.approx(right / total)
    leaking = replace(config, train_split="ALL", fold=0, fold_by="file")
    train, held_out = train_and_validation(leaking, files)
    shared = len(set(train.sources) & set(held_out.sources))
    assert find(rows, metric="originals", part="both", fold_by="file") == shared > 0
    assert run_folder(tmp_path, leaking).name.startswith("lenet-whole-seed0-fold0-by-file-")


def test_impossible_folds_are_refused(config, tmp_path):
    for count in (0, 4):
        with pytest.raises(ConfigError, match=rf"{count} folds by file are impossible: expected 1\.\.3"):
            leakage_study(config, {"file": count}, experiment="x", runs=tmp_path, results=tmp_path)
