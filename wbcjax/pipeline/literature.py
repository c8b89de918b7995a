"""Table 10: methods of other papers, rerun on this data under the official split, which shares no original.

Classifiers on hand-made features get theirs from the same crops as the networks, and their settings by folds of TRAIN
grouped by original. The networks are trained by one setting each, which was not searched for.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from wbcjax import config as cfg
from wbcjax.baselines.classifiers import Fitted, fit
from wbcjax.baselines.features import by_group, feature_matrix
from wbcjax.data.kaggle import kaggle
from wbcjax.evaluation.results import HANDMADE, row, write_results
from wbcjax.pipeline.inputs import Inputs, data_root, thinned
from wbcjax.pipeline.presets import PRESETS
from wbcjax.pipeline.rows import Rows, classification_rows, unshared_rows
from wbcjax.pipeline.runs import Predictions, load_run, predict_split
from wbcjax.pipeline.studies import Progress, Splits, ensure_trained, proven_fingerprint, run_labels
from wbcjax.pipeline.workdir import portable
from wbcjax.typing import CLASS_NAMES

NETWORKS = ("double_conv", "capsule")
FOLDS = "TRAIN, folds by original"
"""The split of the accuracy that settings were chosen by."""
KEPT = ("accuracy", "balanced_accuracy", "precision", "recall", "f1", "missed")
"""Metrics that the results hold of every method."""


@dataclass(frozen=True)
class FeatureConfig:
    """How classifiers on hand-made features are set."""

    classifiers: tuple[str, ...] = HANDMADE
    share: float = 0.3
    """Of each original's files, evenly spaced, on which settings are chosen; the final fit takes all."""
    folds: int = 5
    seed: int = 0
    roi_sources: tuple[str, ...] = field(default=("color", "oracle"))
    """Where the crops come from."""


def network_config(name: str, data: cfg.DataConfig) -> cfg.ClassifierConfig:
    """The setting of one network of the literature: crops of the colour ROI of 64 pixels, for a CPU core; otherwise the
    recipe of this package's own networks. The capsule network has its margin loss, on targets without smoothing.

    Raises:
      KeyError: for a name not in ``NETWORKS``.
    """
    head = {"double_conv": "softmax", "capsule": "margin"}[name]
    base = PRESETS["paper"].config("custom2", "roi", data)
    smoothing = 0.0 if head == "margin" else base.train.label_smoothing
    return replace(
        base, model=replace(base.model, name=name, image_size=(64, 64), head=head),
        train=replace(base.train, label_smoothing=smoothing),
    )


def literature_study(
    networks: Sequence[cfg.ClassifierConfig],
    crops: cfg.ClassifierConfig,
    handmade: FeatureConfig,
    *,
    experiment: str,
    runs: Path,
    results: Path,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Rows:
    """Accuracy on TEST of every classifier on features and of every network, all from TRAIN alone.

    Args:
      crops: whose crops the features are of; its network is not used.

    Raises:
      ConfigError: if the ``literature`` extra is not installed.
      DataError: if TRAIN and TEST share an original.
    """
    started = time.perf_counter()
    fingerprint = proven_fingerprint(crops.data)
    splits, rows, chosen = Splits(), [], {}
    total = len(handmade.roi_sources) * len(handmade.classifiers) + len(networks)
    done = 0
    for source in handmade.roi_sources:
        config = replace(crops, roi_source=source)
        train, test = (splits.get(config, name) for name in ("TRAIN", "TEST"))
        names, on_train = feature_matrix(train.images, config.roi)
        _, on_test = feature_matrix(test.images, config.roi)
        few = few_of_each_original(train, handmade.share)
        for name in handmade.classifiers:
            fitted = fit(name, on_train, train.labels, train.sources, chosen_on=few, folds=handmade.folds,
                         seed=handmade.seed)
            rows += handmade_rows(fitted, on_test, test, config, model=name, roi=source, seed=handmade.seed)
            chosen[f"{name}, {source}"] = fitted.settings | {"features": by_group(names)}
            done += 1
            if progress is not None:
                progress(done, total)
    for config in networks:
        model, _ = load_run(ensure_trained(config, runs, splits))
        predictions = predict_split(model, splits.get(config, "TEST"), config)
        rows += test_rows(predictions, config, model=config.model.name, seed=config.train.seed,
                          **run_labels(config, model))
        done += 1
        if progress is not None:
            progress(done, total)
    write_results(
        results / f"{experiment}.json",
        experiment=experiment,
        config={"runs": [portable(config) for config in networks], "crops": portable(crops),
                "handmade": asdict(handmade), "chosen": chosen},
        rows=rows,
        seeds=sorted({handmade.seed, *(config.train.seed for config in networks)}),
        data_fingerprint=fingerprint,
        wall_time=time.perf_counter() - started,
        notes=notes,
    )
    return rows


def handmade_rows(
    fitted: Fitted, features: np.ndarray, test: Inputs, config: cfg.ClassifierConfig, *, model: str, **common
) -> Rows:
    """``test_rows`` of a classifier on features, and its accuracy on the folds that chose its settings."""
    votes = np.eye(len(CLASS_NAMES), dtype=np.float32)[fitted.pipeline.predict(features)]
    predictions = Predictions(votes, test.labels, test.sources, test.names, test.missed)
    return [*test_rows(predictions, config, model=model, **common),
            row(model=model, input=config.input, split=FOLDS, metric="accuracy", value=fitted.fold_accuracy, **common)]


def test_rows(predictions: Predictions, config: cfg.ClassifierConfig, **common) -> Rows:
    """The figures of ``KEPT`` on TEST, and accuracies on its originals whose cells TRAIN does not show."""
    common |= {"input": config.input}
    train = kaggle(data_root(config.data), "TRAIN", strict=config.data.strict)
    rows = classification_rows(predictions, split="TEST", **common)
    return [r for r in rows if r["metric"] in KEPT] + unshared_rows(predictions, train, **common)


def few_of_each_original(inputs: Inputs, share: float) -> np.ndarray:
    """Indices of this share of each original's files, as ``thinned`` takes them."""
    kept = set(thinned(inputs, share).names)
    return np.flatnonzero([name in kept for name in inputs.names])
