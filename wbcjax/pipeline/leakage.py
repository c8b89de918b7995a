"""How much a split that leaks adds to an accuracy.

The files of TRAIN and TEST are copies of 348 originals. Pooled and split again at random, or by the number in the file
name, nearly every cell that is tested on is trained on too. The same network is trained and judged under such splits
and under folds by original.
"""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from wbcjax import config as cfg
from wbcjax.errors import ConfigError
from wbcjax.evaluation import classification as metrics
from wbcjax.evaluation.results import row, write_results
from wbcjax.pipeline.inputs import train_and_validation
from wbcjax.pipeline.rows import Rows, accuracy_rows
from wbcjax.pipeline.runs import Predictions, load_run, pooled, predict_split
from wbcjax.pipeline.studies import Progress, Splits, data_fingerprint, ensure_trained, run_labels, training_files
from wbcjax.pipeline.workdir import portable
from wbcjax.typing import CLASS_NAMES

HELD_OUT = "TRAIN and TEST pooled, held out"


def leakage_study(
    base: cfg.ClassifierConfig,
    folds: Mapping[str, int],
    *,
    experiment: str,
    runs: Path,
    results: Path,
    notes: tuple[str, ...] = (),
    progress: Progress | None = None,
) -> Rows:
    """Accuracy on held-out files of TRAIN and TEST together, by what the folds keep together.

    Every row has ``fold_by``. Of each split, ``originals`` and ``images`` count what is trained on and held out, over
    all its folds, and the originals that are both. Intervals are bootstrapped over the held-out originals; where these
    are trained on too, an interval covers other copies of the same cells, and no new cells.

    Args:
      folds: ``fold_by`` and how many of its folds are trained and judged, the first of ``base.folds``.

    Raises:
      ConfigError: for an unknown ``fold_by``, or more folds than there are.
    """
    started = time.perf_counter()
    splits, rows, done = Splits(), [], 0
    for fold_by, count in folds.items():
        if not 1 <= count <= base.folds:
            raise ConfigError(f"{count} folds by {fold_by} are impossible: expected 1..{base.folds}")
        judged, parts = [], []
        for fold in range(count):
            config = replace(base, train_split="ALL", fold=fold, fold_by=fold_by)
            model, _ = load_run(ensure_trained(config, runs, splits))
            train, held_out = train_and_validation(config, splits.get(config, "ALL"))
            judged.append(predict_split(model, held_out, config))
            parts.append((train.sources, held_out.sources))
            done += 1
            if progress is not None:
                progress(done, sum(folds.values()))
        common = {"model": base.model.name, "input": base.input, "seed": base.train.seed, "fold_by": fold_by,
                  "split": HELD_OUT, **run_labels(config, model)}
        rows += split_rows(judged, parts, folds_judged=count, **common)
    write_results(
        results / f"{experiment}.json",
        experiment=experiment,
        config={"base": portable(replace(base, train_split="ALL", fold=0)), "folds": dict(folds)},
        rows=rows,
        seeds=base.train.seed,
        data_fingerprint=data_fingerprint(*training_files(replace(base, train_split="ALL", fold=0))),
        wall_time=time.perf_counter() - started,
        notes=notes,
    )
    return rows


def split_rows(
    judged: list[Predictions], parts: list[tuple[tuple[str, ...], tuple[str, ...]]], **common
) -> Rows:
    """The figures of one kind of split: accuracy over what all its folds held out, and a fold's mean counts.

    Args:
      judged: of each fold.
      parts: the originals of each fold's training files and of its held-out files, one a file.
    """
    said = pooled(judged)
    _, counts = metrics.confusion_by_source(said.labels, said.classes, said.sources, len(CLASS_NAMES))
    mean = lambda values: float(np.mean(list(values)))  # noqa: E731
    return [
        *accuracy_rows(counts, **common),
        row(**common, metric="images", part="trained on", value=mean(len(train) for train, _ in parts)),
        row(**common, metric="images", part="held out", value=mean(len(held) for _, held in parts)),
        row(**common, metric="originals", part="trained on", value=mean(len(set(train)) for train, _ in parts)),
        row(**common, metric="originals", part="held out", value=mean(len(set(held)) for _, held in parts)),
        row(**common, metric="originals", part="both", value=mean(len(set(a) & set(b)) for a, b in parts)),
    ]
