"""The uncertainty study: fitted on folds alone, and every figure where it can be told by hand."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from wbcjax import config as cfg
from wbcjax.data.kaggle import kaggle
from wbcjax.errors import ConfigError
from wbcjax.evaluation.calibration import fit_temperature, softmax
from wbcjax.evaluation.results import read_results
from wbcjax.pipeline import uncertainty as unc
from wbcjax.pipeline.runs import Predictions
from wbcjax.pipeline.studies import run_folder

COMMON = {"model": "lenet", "input": "roi"}


def predictions(logits, labels, copies):
    """Images of originals of ``copies`` each, named by their class."""
    sources = tuple(f"{label}-{k // copies}" for k, label in enumerate(labels.tolist()))
    return Predictions(logits.astype(np.float32), labels, sources, sources, np.zeros(len(labels), bool))


def drawn(seed, originals, copies=4, scale=3.0):
    """Logits of a network that is too sure of itself by ``scale``; copies of an original share them, nearly."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(originals, 4))
    labels = (softmax(logits).cumsum(axis=1) < rng.random((originals, 1))).sum(axis=1).clip(0, 3)
    logits = np.repeat(logits, copies, axis=0) + 0.05 * rng.normal(size=(originals * copies, 4))
    return predictions(scale * logits, np.repeat(labels, copies), copies)


@pytest.fixture(scope="module")
def evidence():
    held_out, test = drawn(0, 200), drawn(1, 60)
    folds = np.arange(800) // 4 % 2
    return unc.Evidence(held_out, folds, test, np.stack([test.logits, test.logits]))


@pytest.fixture(scope="module")
def rows(evidence):
    return unc.uncertainty_rows(evidence, **COMMON)


def of(rows, **keys):
    found = [row for row in rows if all(row.get(key) == value for key, value in keys.items())]
    assert len(found) == 1, keys
    return found[0]


def test_the_temperature_is_that_of_the_folds(rows, evidence):
    value = of(rows, metric="temperature")["value"]
    assert value == fit_temperature(evidence.held_out.logits, evidence.held_out.labels)
    assert 2 < value < 4.5
    assert value != fit_temperature(evidence.test.logits, evidence.test.labels)


@pytest.mark.parametrize("scaling", [unc.RAW, unc.SCALED])
def test_figures_of_test(rows, evidence, scaling):
    t = of(rows, metric="temperature")["value"] if scaling == unc.SCALED else 1
    p, labels = softmax(evidence.test.logits, t), evidence.test.labels
    here = {"split": "TEST", "network": unc.ONE, "calibration": scaling}
    assert of(rows, metric="nll", **here)["value"] == pytest.approx(log_loss(labels, p))
    brier = brier_score_loss(labels, p, scale_by_half=False)
    assert of(rows, metric="brier", **here)["value"] == pytest.approx(brier)
    right = p.argmax(axis=1) == labels
    assert of(rows, metric="accuracy", **here)["value"] == pytest.approx(right.mean())
    order = np.argsort(-p.max(axis=1), kind="stable")
    kept = of(rows, metric="selective_accuracy", kept=0.9, **here)
    assert kept["value"] == pytest.approx(right[order][:216].mean()) and kept["low"] < kept["value"] < kept["high"]
    bins = [row for row in rows if row["metric"] == "bin_accuracy" and here.items() <= row.items()]
    assert sum(row["share"] for row in bins) == pytest.approx(1)
    assert sum(row["share"] * row["value"] for row in bins) == pytest.approx(right.mean())
    assert sum(row["share"] * row["confidence"] for row in bins) == pytest.approx(p.max(axis=1).mean())


def test_temperature_mends_what_is_too_sure(rows):
    for metric in ("nll", "brier", "ece", "adaptive_ece"):
        for split in ("TEST", unc.OUT_OF_FOLD):
            raw, scaled = (of(rows, metric=metric, network=unc.ONE, split=split, calibration=c)["value"]
                           for c in (unc.RAW, unc.SCALED))
            assert scaled < raw, (metric, split)


def test_members_that_agree_are_one_network(rows):
    for metric in ("nll", "ece", "aurc", "accuracy"):
        one, five = (of(rows, metric=metric, split="TEST", network=n, calibration=unc.SCALED)
                     for n in (unc.ONE, unc.FIVE))
        assert one["value"] == pytest.approx(five["value"])
    for score in unc.SCORES:  # and cross-conformal sets of one network are those of its threshold
        one, five = (of(rows, metric="set_size", score=score, network=n, promise=unc.COPY)
                     for n in (unc.ONE, unc.FIVE))
        assert one["value"] == five["value"]


def test_sets_keep_their_promise_and_grow_with_it(rows):
    for score in unc.SCORES:
        here = {"score": score, "network": unc.ONE, "class_name": None}
        sets = {promise: {metric: of(rows, metric=metric, promise=promise, **here)
                          for metric in ("coverage", "set_size", "singletons")}
                for promise in (unc.COPY, unc.ALL_COPIES, unc.BY_CLASS)}
        for figures in sets.values():
            assert figures["coverage"]["high"] >= 0.95
            assert 1 <= figures["set_size"]["value"] <= 4
        assert sets[unc.COPY]["set_size"]["value"] <= sets[unc.ALL_COPIES]["set_size"]["value"]


def test_originals_weigh_the_same_in_coverage():
    labels = np.array([0, 0, 0, 1])
    part = Predictions(np.zeros((4, 4), np.float32), labels, ("a", "a", "a", "b"), ("",) * 4, np.zeros(4, bool))
    sets = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]], bool)
    shown = unc.coverage_rows(sets, part, promise=unc.COPY, split="TEST", **COMMON)
    assert of(shown, metric="coverage", class_name=None)["value"] == pytest.approx((2 / 3 + 1) / 2)
    assert of(shown, metric="coverage", class_name="eosinophil")["value"] == pytest.approx(2 / 3)
    assert of(shown, metric="set_size")["value"] == pytest.approx((4 / 3 + 1) / 2)
    assert of(shown, metric="singletons")["value"] == pytest.approx((2 / 3 + 1) / 2)
    every = unc.coverage_rows(sets, part, promise=unc.ALL_COPIES, split="TEST", **COMMON)
    assert of(every, metric="coverage", class_name=None)["value"] == 0.5


@pytest.fixture(scope="module")
def config(synthetic_root, tmp_path_factory) -> cfg.ClassifierConfig:
    cache = tmp_path_factory.mktemp("uncertainty")
    return cfg.ClassifierConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=cache), input="whole", folds=2,
        model=cfg.ModelConfig(name="lenet", image_size=(16, 16)), train=cfg.TrainConfig(epochs=1, batch_size=8),
    )


def test_from_training_to_the_results(config, tmp_path):
    rows = unc.uncertainty_study(config, experiment="uncertainty", runs=tmp_path / "runs", results=tmp_path)
    written = read_results(tmp_path / "uncertainty.json")
    assert written["rows"] == rows and written["notes"] == list(unc.NOTES)
    found, labels = unc.gather(config, tmp_path / "runs")  # runs are reused
    assert labels == {} and len(found.members) == 2
    assert sorted(found.held_out.names) == sorted(kaggle(config.data.root, "TRAIN").names)
    assert {run_folder(tmp_path / "runs", replace(config, fold=k)) for k in (None, 0, 1)} == set(
        (tmp_path / "runs").iterdir())
    for fold in (0, 1):
        mine = {s for s, f in zip(found.held_out.sources, found.folds, strict=True) if f == fold}
        others = {s for s, f in zip(found.held_out.sources, found.folds, strict=True) if f != fold}
        assert mine and not mine & others


def test_what_the_study_cannot_judge(config, tmp_path):
    places = {"experiment": "x", "runs": tmp_path, "results": tmp_path}
    with pytest.raises(ConfigError, match="the study cuts TRAIN itself"):
        unc.uncertainty_study(replace(config, fold=0), **places)
    with pytest.raises(ConfigError, match="need 'softmax'"):
        unc.uncertainty_study(replace(config, model=replace(config.model, head="sigmoid")), **places)
    assert not list(tmp_path.iterdir())
