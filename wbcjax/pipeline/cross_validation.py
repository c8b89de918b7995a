"""Cross-validation over all 348 originals: every cell is judged by a model that never saw it.

TEST has four monocytes, so one cell that is mislabelled or hard moves its accuracy by six points. Pooled and cut into
folds by original, the data judges a setting on 20 monocytes and 348 cells.
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from wbcjax import config as cfg
from wbcjax.data.kaggle import originals
from wbcjax.errors import ConfigError
from wbcjax.evaluation import classification as metrics
from wbcjax.evaluation.results import write_results
from wbcjax.pipeline.inputs import Inputs, data_root, inputs_of, train_and_validation
from wbcjax.pipeline.rows import Rows, accuracy_rows, confusion_rows, source_rows
from wbcjax.pipeline.runs import Predictions, load_run, pooled, predict_split
from wbcjax.pipeline.studies import Progress, Splits, data_fingerprint, ensure_trained, run_labels, training_files
from wbcjax.pipeline.workdir import portable
from wbcjax.typing import CLASS_NAMES

FILES, SMEARS = "all files, each by the folds without its original", "the originals, each by the folds without it"


def cross_validation_study(
    configs: Sequence[cfg.ClassifierConfig],
    *,
    experiment: str,
    runs: Path,
    results: Path,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Rows:
    """Train each config once for every fold of TRAIN and TEST together, and judge it on what each fold held out.

    Two splits come of it: the augmented files, as the official TEST has them, and the originals themselves, one image a
    cell (without crops by true boxes, which exist for files alone). Intervals are bootstrapped over originals.

    Raises:
      ConfigError: if a config does not pool TRAIN and TEST.
    """
    started = time.perf_counter()
    for config in configs:
        if config.train_split != "ALL":
            raise ConfigError(f"train_split = {config.train_split!r} of {config.model.name}: cross-validation over all "
                              "originals needs 'ALL'")
    splits, rows, done = Splits(), [], 0
    total = sum(config.folds for config in configs)
    for config in configs:
        smears = None if config.roi_source == "oracle" and config.input == "roi" else all_originals(config)
        on_files, on_smears = [], []
        for fold in range(config.folds):
            held = replace(config, fold=fold)
            model, _ = load_run(ensure_trained(held, runs, splits))
            _, files = train_and_validation(held, splits.get(held, "ALL"))
            on_files.append(predict_split(model, files, held))
            if smears is not None:
                members = set(files.sources)
                chosen = np.flatnonzero([source in members for source in smears.sources])
                on_smears.append(predict_split(model, smears.subset(chosen), held))
            done += 1
            if progress is not None:
                progress(done, total)
        common = {"model": config.model.name, "input": config.input, "seed": config.train.seed,
                  **run_labels(config, model)}
        rows += fold_rows(on_files, split=FILES, **common)
        if on_smears:
            rows += fold_rows(on_smears, split=SMEARS, **common)
    write_results(
        results / f"{experiment}.json",
        experiment=experiment,
        config={"runs": [portable(config) for config in configs]},
        rows=rows,
        seeds=sorted({config.train.seed for config in configs}),
        data_fingerprint=data_fingerprint(*training_files(configs[0])),
        wall_time=time.perf_counter() - started,
        notes=notes,
    )
    return rows


def fold_rows(folds: Sequence[Predictions], **common) -> Rows:
    """Accuracy and balanced accuracy over what all folds held out, the confusion matrix, and ``source_rows``."""
    everything = pooled(folds)
    names, counts = metrics.confusion_by_source(
        everything.labels, everything.classes, everything.sources, len(CLASS_NAMES)
    )
    return [*accuracy_rows(counts, **common), *confusion_rows(counts.sum(axis=0), **common),
            *source_rows(names, counts, **common)]


def all_originals(config: cfg.ClassifierConfig) -> Inputs:
    """The 348 smears as the config wants them."""
    return inputs_of(originals(data_root(config.data)), config)
