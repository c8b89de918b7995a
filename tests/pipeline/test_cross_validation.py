"""Cross-validation over all originals: each is judged once, by a run that never saw it."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.data.kaggle import kaggle, originals
from wbcjax.errors import ConfigError
from wbcjax.evaluation.results import read_results
from wbcjax.pipeline.cross_validation import FILES, SMEARS, all_originals, cross_validation_study, fold_rows
from wbcjax.pipeline.inputs import classifier_inputs, train_and_validation
from wbcjax.pipeline.runs import Predictions, load_run
from wbcjax.pipeline.studies import classification_study, run_folder
from wbcjax.training import predict_logits, split
from wbcjax.typing import CLASS_NAMES


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("cross_validation")


@pytest.fixture(scope="module")
def config(synthetic_root, folder) -> cfg.ClassifierConfig:
    return cfg.ClassifierConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=folder / "cache"), input="whole", folds=2, fold=0,
        train_split="ALL", model=cfg.ModelConfig(name="lenet", image_size=(16, 16)),
        train=cfg.TrainConfig(epochs=2, batch_size=8),
    )


@pytest.fixture(scope="module")
def rows(config, folder):
    told = []
    rows = cross_validation_study([config], experiment="cross_validation", runs=folder / "runs", results=folder,
                                  progress=lambda *numbers: told.append(numbers))
    assert told == [(1, 2), (2, 2)]
    return rows


@pytest.fixture(scope="module")
def by_hand(config, folder, rows):
    """(sources, labels, predicted classes) of the files and of the originals that each fold held out."""
    files, smears, found = classifier_inputs(config, "ALL"), all_originals(config), {FILES: [], SMEARS: []}
    for fold in range(2):
        held = replace(config, fold=fold)
        model, stored = load_run(run_folder(folder / "runs", held))
        assert stored.fold == fold and stored.train_split == "ALL"
        train, held_out = train_and_validation(held, files)
        assert not set(train.sources) & set(held_out.sources)
        of_fold = smears.subset(np.array([i for i, s in enumerate(smears.sources) if s in held_out.sources]))
        for name, part in ((FILES, held_out), (SMEARS, of_fold)):
            classes = predict_logits(*split(model), np.asarray(part.images)).argmax(-1)
            found[name] += list(zip(part.sources, part.labels.tolist(), classes.tolist(), strict=True))
    return found


def values(rows, **keys):
    return [row["value"] for row in rows if all(row.get(key) == value for key, value in keys.items())]


def test_every_original_is_judged_exactly_once(rows, by_hand, synthetic_root):
    names = sorted(originals(synthetic_root).sources)
    assert len(names) == 16 and sorted(source for source, _, _ in by_hand[SMEARS]) == names
    files = Counter(kaggle(synthetic_root, "TRAIN").sources + kaggle(synthetic_root, "TEST").sources)
    assert Counter(source for source, _, _ in by_hand[FILES]) == files
    for part in (FILES, SMEARS):
        judged = [row["source"] for row in rows if row["metric"] == "source_accuracy" and row["split"] == part]
        assert sorted(judged) == names


@pytest.mark.parametrize("part", [FILES, SMEARS])
def test_rows_by_hand(rows, by_hand, part):
    _, labels, classes = map(np.array, zip(*by_hand[part], strict=True))
    right = labels == classes
    assert values(rows, split=part, metric="accuracy") == [pytest.approx(right.mean())]
    of_classes = [right[labels == k].mean() for k in range(4)]
    assert values(rows, split=part, metric="balanced_accuracy") == [pytest.approx(np.mean(of_classes))]
    for i, true in enumerate(CLASS_NAMES):
        for j, predicted in enumerate(CLASS_NAMES):
            count = ((labels == i) & (classes == j)).sum()
            assert values(rows, split=part, metric="confusion", true=true, predicted=predicted) == [count]
    for source in {source for source, _, _ in by_hand[part]}:
        found = [label == guess for name, label, guess in by_hand[part] if name == source]
        assert values(rows, split=part, metric="source_accuracy", source=source) == [pytest.approx(np.mean(found))]


def test_the_results_file_holds_the_rows_and_the_run(rows, config, folder):
    written = read_results(folder / "cross_validation.json")
    assert written["rows"] == rows and written["seeds"] == [0]
    assert written["config"]["runs"][0]["train_split"] == "ALL"


def test_what_an_original_is_read_as_is_a_wrong_class():
    """Of six copies of an eosinophil two are read right, two as monocytes; of a lymphocyte's all are."""
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    classes = np.array([0, 0, 0, 2, 2, 3, 1, 1])
    logits = np.eye(4, dtype=np.float32)[classes]
    sources = ("a",) * 6 + ("b",) * 2
    halves = [Predictions(logits[part], labels[part], sources[part], sources[part], np.zeros(4, bool))
              for part in (slice(0, 4), slice(4, 8))]
    rows = [row for row in fold_rows(halves, model="lenet", input="whole", split=FILES)
            if row["metric"] == "source_accuracy"]
    assert [(row["source"], row["class_name"], row.get("read_as"), row["value"]) for row in rows] == [
        ("a", CLASS_NAMES[0], CLASS_NAMES[2], 0.5), ("b", CLASS_NAMES[1], None, 1.0)]


def test_several_seeds_and_a_second_call_reuse_runs(config, rows, folder):
    runs = {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/weights.safetensors")}
    assert len(runs) == 2
    other = replace(config, train=replace(config.train, seed=1))
    both = cross_validation_study([config, other], experiment="seeds", runs=folder / "runs", results=folder)
    assert [row for row in both if row["seed"] == 0] == rows and len(both) == 2 * len(rows)
    assert runs.items() <= {path: path.stat().st_mtime_ns for path in folder.glob("runs/*/weights.safetensors")}.items()


def test_crops_by_true_boxes_have_no_split_of_originals(config, folder):
    oracle = replace(config, input="roi", roi_source="oracle", train=replace(config.train, epochs=1))
    rows = cross_validation_study([oracle], experiment="oracle", runs=folder / "runs", results=folder)
    assert {row["split"] for row in rows} == {FILES} and {row["roi"] for row in rows} == {"oracle"}


def test_sets_that_are_not_pooled_or_that_judge_themselves_are_refused_before_any_training(config, tmp_path):
    places = {"experiment": "x", "runs": tmp_path, "results": tmp_path}
    apart = replace(config, train_split="TRAIN")
    with pytest.raises(ConfigError, match="train_split = 'TRAIN' of lenet: cross-validation over all originals needs"):
        cross_validation_study([config, apart], **places)
    with pytest.raises(ConfigError, match="train_split = 'ALL' of lenet trains on TEST, which is to judge it"):
        classification_study([apart, config], **places)
    with pytest.raises(ConfigError, match="train_split = 'ALL' is impossible: expected TRAIN unless a fold is held"):
        replace(config, fold=None)
    assert not list(tmp_path.iterdir())


def test_a_run_on_both_sets_belongs_to_the_files_of_both(config, tmp_path, synthetic_root):
    root = shutil.copytree(synthetic_root, tmp_path / "root")
    moved = replace(config, data=replace(config.data, root=root))
    assert run_folder(tmp_path, moved) == run_folder(tmp_path, config)
    file = kaggle(root, "TEST").paths[0]
    file.write_bytes(file.read_bytes() + b"\0")
    assert run_folder(tmp_path, moved) != run_folder(tmp_path, config)
    apart = [replace(c, train_split="TRAIN") for c in (moved, config)]
    assert run_folder(tmp_path, apart[0]) == run_folder(tmp_path, apart[1])
