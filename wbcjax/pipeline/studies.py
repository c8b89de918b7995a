"""The paper's tables as studies: each trains or loads what it needs and writes one results file."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from wbcjax import config as cfg
from wbcjax.data.kaggle import kaggle
from wbcjax.data.sets import ClassificationSet
from wbcjax.data.splits import assert_disjoint
from wbcjax.errors import CheckpointError, ConfigError
from wbcjax.evaluation import classification as metrics
from wbcjax.evaluation.results import row, write_results
from wbcjax.evaluation.uncertainty import Interval, bootstrap
from wbcjax.models import Classifier
from wbcjax.pipeline.inputs import Inputs, classifier_inputs, data_root, train_and_validation
from wbcjax.pipeline.rows import (
    Rows,
    accuracy_rows,
    classification_rows,
    noise_predictor,
    noise_rows,
    unshared_rows,
)
from wbcjax.pipeline.runs import is_begun, load_run, pooled, predict_split, train_run
from wbcjax.pipeline.seed_runs import train_seeds
from wbcjax.pipeline.workdir import is_finished, portable, run_digest
from wbcjax.typing import CLASS_NAMES, Int

Progress = Callable[[int, int], None]
"""Told (runs done, runs in all)."""


class Interrupted(Exception):
    """Training was asked to stop; its checkpoint is saved."""


def with_seeds(configs: Sequence[cfg.ClassifierConfig], seeds: Sequence[int]) -> list[cfg.ClassifierConfig]:
    """Each config once for every seed.

    Raises:
      ConfigError: without a seed.
    """
    if not seeds:
        raise ConfigError("seeds = () is impossible: expected at least one")
    return [replace(config, train=replace(config.train, seed=seed)) for config in configs for seed in seeds]


def run_folder(runs: Path, config: cfg.ClassifierConfig) -> Path:
    """Folder of a run: readable, and unique to its config and to the files that it is trained on."""
    where = config.input if config.input == "whole" else f"roi-{config.roi_source}"
    by = "" if config.fold_by == "original" else f"-by-{config.fold_by}"
    fold = "" if config.fold is None else f"-fold{config.fold}{by}"
    digest = run_digest(config, data_fingerprint(*training_files(config)))
    return runs / f"{config.model.name}-{where}-seed{config.train.seed}{fold}-{digest}"


def training_files(config: cfg.ClassifierConfig) -> list[ClassificationSet]:
    """The sets that ``config`` trains on."""
    parts = ("TRAIN", "TEST") if config.train_split == "ALL" else ("TRAIN",)
    return [kaggle(data_root(config.data), part, strict=config.data.strict) for part in parts]


def run_labels(config: cfg.ClassifierConfig, model: Classifier) -> dict[str, str]:
    """What tells rows of runs apart beside model, input and seed: where crops come from, and which part of a backbone
    was trained, from which weights."""
    labels = {"roi": config.roi_source} if config.input == "roi" else {}
    if model.stage_names:
        whole = "fine-tuned" if config.weights is not None else "from random weights"
        labels["protocol"] = "frozen" if config.model.frozen_stages == len(model.stage_names) else whole
    return labels


class Splits:
    """The inputs of one config after another; what the next config shares with the last is not made again."""

    def __init__(self, *, progress: bool = True) -> None:
        self.progress = progress
        """Whether decoding shows a bar of its own."""
        self._key: tuple | None = None
        self._inputs: dict[str, Inputs] = {}

    def get(self, config: cfg.ClassifierConfig, split: str) -> Inputs:
        """``classifier_inputs``; of another input, crop or size than the last, those of the last are let go."""
        key = (config.data, config.input, config.roi_source, config.detector, config.roi, config.crop,
               config.model.image_size)
        if key != self._key:
            self._key, self._inputs = key, {}
        if split not in self._inputs:
            self._inputs[split] = classifier_inputs(config, split, progress=self.progress)
        return self._inputs[split]


def ensure_trained(config: cfg.ClassifierConfig, runs: Path, splits: Splits | None = None) -> Path:
    """Folder of the finished run of ``config``: reused, resumed or trained.

    Raises:
      Interrupted: if training was stopped by a signal.
    """
    folder = run_folder(runs, config)
    if not is_finished(folder, config):
        splits = splits or Splits()
        first = cfg.first_stage(config)
        start = None if first is None else ensure_trained(first, runs, splits)
        train = splits.get(config, config.train_split)
        title = folder.name.rsplit("-", 1)[0]
        if not train_run(config, folder, resume=is_begun(folder), inputs=train, start=start, title=title):
            raise Interrupted(f"{folder}: interrupted and saved; the same command goes on from here")
    return folder


def train_side_by_side(configs: Sequence[cfg.ClassifierConfig], runs: Path, splits: Splits) -> None:
    """On an accelerator, train those runs together that differ in their seed alone, one batched program for all; what
    is left is for ``ensure_trained``. On a CPU runs would only take turns.

    Raises:
      Interrupted: if training was stopped by a signal.
    """
    if jax.default_backend() == "cpu":
        return
    alike: dict[str, list[cfg.ClassifierConfig]] = {}
    stages = [stage for config in configs for stage in (cfg.first_stage(config), config) if stage is not None]
    for config in dict.fromkeys(stages):
        folder = run_folder(runs, config)
        if not (config.cached_copies or is_begun(folder) or is_finished(folder, config)):
            alike.setdefault(repr(replace(config, train=replace(config.train, seed=0))), []).append(config)
    for group in alike.values():
        if len(group) > 1:
            firsts = [cfg.first_stage(config) for config in group]
            starts = None if firsts[0] is None else [ensure_trained(first, runs, splits) for first in firsts]
            folders = [run_folder(runs, config) for config in group]
            inputs = splits.get(group[0], group[0].train_split)
            if not train_seeds(group, folders, inputs, starts=starts, title=folders[0].name.rsplit("-", 2)[0]):
                raise Interrupted(f"{folders[0].parent}: interrupted and saved; the same command goes on from here")


def classification_study(
    configs: Sequence[cfg.ClassifierConfig],
    *,
    experiment: str,
    runs: Path,
    results: Path,
    variant: str | None = None,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
    splits: Splits | None = None,
) -> Rows:
    """Train each config on TRAIN and evaluate it on every image of TEST.

    An image whose region is not found falls back to the whole image and is counted in the ``missed`` row. ``variant``
    names a setting other than that of the paper's tables; ``splits`` are inputs that the caller has made already.

    Raises:
      ConfigError: if a config trains on TEST.
    """
    started = time.perf_counter()
    splits = splits or Splits()
    fingerprint = proven_fingerprint(configs[0].data)
    for config in configs:
        if config.train_split != "TRAIN":
            raise ConfigError(f"train_split = {config.train_split!r} of {config.model.name} trains on TEST, which is "
                              "to judge it; use 'TRAIN'")
    train_side_by_side(configs, runs, splits)
    rows: Rows = []
    for number, config in enumerate(configs, 1):
        model, _ = load_run(ensure_trained(config, runs, splits))
        test = splits.get(config, "TEST")
        predictions = predict_split(model, test, config)
        common = {"model": config.model.name, "input": config.input, "seed": config.train.seed,
                  **run_labels(config, model)}
        if variant is not None:
            common["variant"] = variant
        rows += classification_rows(predictions, split="TEST", **common)
        train = kaggle(data_root(config.data), "TRAIN", strict=config.data.strict)
        rows += unshared_rows(predictions, train, **common)
        if progress is not None:
            progress(number, len(configs))
    write_results(
        results / f"{experiment}.json",
        experiment=experiment,
        config={"runs": [portable(config) for config in configs]},
        rows=rows,
        seeds=sorted({config.train.seed for config in configs}),
        data_fingerprint=fingerprint,
        wall_time=time.perf_counter() - started,
        notes=notes,
    )
    return rows


def fold_study(
    candidates: Mapping[str, cfg.ClassifierConfig],
    *,
    experiment: str,
    runs: Path,
    results: Path,
    folds: Sequence[int] = (),
    notes: Sequence[str] = (),
) -> Rows:
    """Compare settings on what is held out of TRAIN; TEST is not read.

    Beside its accuracy, each variant that was judged on the same originals as the first has its ``difference`` from the
    first, whose interval is that of the pairs: the originals are drawn for both together.

    Args:
      candidates: name of the variant to its config, with ``fold`` set where no ``folds`` are given.
      folds: folds that each config holds out in turn, one training each; what is said of them is pooled.

    Raises:
      ConfigError: if a config holds out no fold.
    """
    started = time.perf_counter()
    splits = Splits()
    rows: Rows = []
    base: tuple | None = None
    for variant, config in candidates.items():
        if config.fold is None and not folds:
            raise ConfigError(f"fold = None of candidate {variant!r} is impossible: name the fold of TRAIN to hold out")
        parts = []
        for fold in folds or [config.fold]:
            one = replace(config, fold=fold)
            model, _ = load_run(ensure_trained(one, runs, splits))
            _, held_out = train_and_validation(one, splits.get(one, "TRAIN"))
            parts.append(predict_split(model, held_out, one))
        said = pooled(parts)
        names, counts = metrics.confusion_by_source(said.labels, said.classes, said.sources, len(CLASS_NAMES))
        which = f"folds {', '.join(map(str, folds))}" if len(folds) > 1 else f"fold {(*folds, config.fold)[0]}"
        common = {"model": config.model.name, "input": config.input, "variant": variant,
                  "split": f"TRAIN, {which} of {config.folds}"}
        rows += accuracy_rows(counts, **common)
        if base is None:
            base = names, counts
        elif names == base[0]:
            rows.append(row(**common, metric="difference", **difference(counts, base[1])._asdict()))
    first = next(iter(candidates.values()))
    write_results(
        results / f"{experiment}.json",
        experiment=experiment,
        config={variant: portable(config) for variant, config in candidates.items()},
        rows=rows,
        seeds=sorted({config.train.seed for config in candidates.values()}),
        data_fingerprint=data_fingerprint(kaggle(data_root(first.data), "TRAIN", strict=first.data.strict)),
        wall_time=time.perf_counter() - started,
        notes=notes,
    )
    return rows


def difference(counts: Int[np.ndarray, "sources c c"], base: Int[np.ndarray, "sources c c"]) -> Interval:
    """How much more accurate, and its interval, from the confusion matrices of the same originals in the same order."""
    return bootstrap(
        np.stack([counts, base], axis=1), lambda sums: metrics.accuracy(sums[:, 0]) - metrics.accuracy(sums[:, 1]),
        classes=counts.sum(axis=2).argmax(axis=1),
    )


def evaluation_study(
    model: Classifier, config: cfg.ClassifierConfig, split_name: str, path: Path, *, temperature: float = 1.0
) -> Rows:
    """Evaluate one trained model on every image of a split; writes the results file ``path``.

    Args:
      temperature: what logits are divided by, of a run that was calibrated.

    Raises:
      CheckpointError: if the model has other classes than the data.
    """
    if config.model.num_classes != len(CLASS_NAMES):
        raise CheckpointError(f"the run tells {config.model.num_classes} classes apart, the data has "
                              f"{len(CLASS_NAMES)}: {', '.join(CLASS_NAMES)}; evaluate a run trained on this data")
    started = time.perf_counter()
    fingerprint = proven_fingerprint(config.data, split_name)
    predictions = predict_split(model, classifier_inputs(config, split_name, progress=True), config)
    predictions = replace(predictions, logits=predictions.logits / np.float32(temperature))
    rows = classification_rows(predictions, model=config.model.name, input=config.input, split=split_name,
                               **run_labels(config, model))
    write_results(path, experiment=path.stem, config=portable(config), rows=rows, seeds=config.train.seed,
                  data_fingerprint=fingerprint, wall_time=time.perf_counter() - started,
                  notes=[] if temperature == 1 else [f"Probabilities at the temperature {temperature:.3f}."])
    return rows


def noise_study(
    configs: Sequence[cfg.ClassifierConfig],
    noise: cfg.NoiseConfig,
    *,
    experiment: str,
    runs: Path,
    results: Path,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
    splits: Splits | None = None,
) -> Rows:
    """Accuracy on TEST under N = clip(I + αG, 0, 1), of each config's run (Figure 12)."""
    started = time.perf_counter()
    splits = splits or Splits()
    fingerprint = proven_fingerprint(configs[0].data)
    rows: Rows = []
    for number, config in enumerate(configs, 1):
        model, _ = load_run(ensure_trained(config, runs, splits))
        rows += noise_rows(noise_predictor(model), splits.get(config, "TEST"), noise, model=config.model.name,
                           input=config.input, roi=config.roi_source if config.input == "roi" else None)
        if progress is not None:
            progress(number, len(configs))
    write_results(
        results / f"{experiment}.json",
        experiment=experiment,
        config={"runs": [portable(config) for config in configs], "noise": cfg.to_dict(noise)},
        rows=rows,
        seeds=list(range(noise.seeds)),
        data_fingerprint=fingerprint,
        wall_time=time.perf_counter() - started,
        notes=notes,
    )
    return rows


def proven_fingerprint(data: cfg.DataConfig, split: str = "TEST") -> str:
    """``data_fingerprint`` of TRAIN and ``split``, which are proved to share no original.

    Raises:
      DataError: with the names of the originals they share.
    """
    train, other = (kaggle(data_root(data), name, strict=data.strict) for name in ("TRAIN", split))
    if split != "TRAIN":
        assert_disjoint(train.sources, other.sources, what=f"TRAIN and {split}")
    return data_fingerprint(train, other)


def data_fingerprint(*sets: ClassificationSet) -> str:
    """Digest of names, labels and file sizes of what was used."""
    digest = hashlib.sha256()
    for items in sets:
        for name, label, path in zip(items.names, items.labels.tolist(), items.paths, strict=True):
            digest.update(f"{name}\0{label}\0{path.stat().st_size}\n".encode())
    return digest.hexdigest()[:16]
