"""Runs of a classifier that differ in their seed alone, trained side by side; each then has a folder like any run."""

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wbcjax import config as cfg
from wbcjax.errors import ConfigError
from wbcjax.files import write_text
from wbcjax.pipeline.inputs import Inputs, classifier_inputs, train_and_validation
from wbcjax.pipeline.runs import FIRST_STAGE, check_sizes, initial_model, is_begun, set_up, start_from
from wbcjax.pipeline.workdir import WEIGHTS, check_workdir, finish, has_checkpoint, is_finished, write_config
from wbcjax.training.seeds import fit_seeds

METRICS = "metrics.jsonl"
SEEDS = "seeds.json"
"""In the common folder: the seeds that train there."""


def train_seeds(
    configs: Sequence[cfg.ClassifierConfig],
    folders: Sequence[Path],
    inputs: Inputs | None = None,
    *,
    starts: Sequence[Path] | None = None,
    title: str = "train",
) -> bool:
    """``train_run`` for each config that is not finished, all at once.

    They train in a folder of their own beside the first of ``folders``, where a call with the same arguments goes on
    after an interruption. At the end each run's folder is written as ``train_run`` writes it, but for checkpoints, and
    the common folder goes. In ``summary.json`` the wall time of a run is its share of that of all.

    Args:
      configs: equal but for ``train.seed``.
      folders: of the runs, one a config; none of them begun by ``train_run``.
      inputs: TRAIN, where the caller has it already; otherwise it is read.
      starts: the finished runs of ``first_stage`` of each config, where the caller has them; otherwise they are
        trained in ``first_stage/`` below each folder, side by side too.

    Returns:
      True if all runs are complete, False if they were interrupted (their checkpoint is saved).

    Raises:
      ConfigError: if the configs differ in more than their seed, or cannot be trained side by side.
      CheckpointError: if a folder holds another run, or one that was begun alone.
      DataError, NonFiniteError: as their parts do.
    """
    _check_alike(configs, folders)
    common = _common_folder(folders)
    runs = {config.train.seed: (config, folder) for config, folder in zip(configs, folders, strict=True)}
    starts = [folder / FIRST_STAGE for folder in folders] if starts is None else starts
    start_of = dict(zip(runs, starts, strict=True))
    while pending := [seed for seed, (config, folder) in runs.items() if not is_finished(folder, config)]:
        # Those that were pending when this began, should the end have come between two runs' files.
        noted = common / SEEDS
        together = json.loads(noted.read_text(encoding="utf-8")) if noted.is_file() else pending
        inputs = classifier_inputs(configs[0], configs[0].train_split, progress=True) if inputs is None else inputs
        if not _train({seed: runs[seed] for seed in together}, common, inputs, start_of, title):
            return False
        shutil.rmtree(common, ignore_errors=True)
    shutil.rmtree(common, ignore_errors=True)  # if the end came after all files and before this
    return True


def _train(
    runs: Mapping[int, tuple[cfg.ClassifierConfig, Path]],
    common: Path,
    inputs: Inputs,
    starts: Mapping[int, Path],
    title: str,
) -> bool:
    """Train the runs of these seeds in the ``common`` folder, and write those that are not finished."""
    configs, folders = zip(*runs.values(), strict=True)
    begun = has_checkpoint(common)
    check_workdir(common, configs[0], resume=begun, begun=begun)
    open_runs = [not is_finished(folder, config) for config, folder in runs.values()]
    for config, folder, is_open in zip(configs, folders, open_runs, strict=True):
        if is_open:
            check_workdir(folder, config, resume=False, begun=is_begun(folder))
    models = [initial_model(config) for config in configs]
    train, held_out = train_and_validation(configs[0], inputs)
    check_sizes(configs[0], train)
    write_config(common, configs[0])
    write_text(common / SEEDS, json.dumps(list(runs)))
    first = [cfg.first_stage(config) for config in configs]
    if first[0] is not None:
        begin = [starts[seed] for seed in runs]
        if not train_seeds(first, begin, title=f"{title}, first stage"):
            return False
        models = [start_from(model, start / WEIGHTS) for model, start in zip(models, begin, strict=True)]
    setups = [set_up(config, model, train, held_out) for config, model in zip(configs, models, strict=True)]
    started = time.perf_counter()
    results = fit_seeds(
        models, [setup.stream for setup in setups], setups[0].loss_fn, optim=configs[0].optim, train=configs[0].train,
        workdir=common, seeds=tuple(runs), frozen=setups[0].frozen, rates=setups[0].rates, resume=begun, title=title,
    )
    if results[0].interrupted:
        return False
    wall_time = (time.perf_counter() - started) / len(runs)
    evaluate = setups[0].evaluate
    for config, folder, is_open, result in zip(configs, folders, open_runs, results, strict=True):
        if not is_open:
            continue
        if evaluate is not None:  # as after the last epoch of a run alone
            valid = {f"valid_{name}": value for name, value in evaluate(result.params, result.stats).items()}
            result = replace(result, metrics=result.metrics | valid)
        write_config(folder, config)
        write_text(folder / METRICS, _metrics_of(common / METRICS, config.train.seed))
        finish(folder, config, result, wall_time=wall_time, class_names=train.class_names)
    return True


def _metrics_of(path: Path, seed: int) -> str:
    """The lines of one seed, without its name."""
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return "".join(json.dumps({name: value for name, value in record.items() if name != "seed"}) + "\n"
                   for record in records if record["seed"] == seed)


def _common_folder(folders: Sequence[Path]) -> Path:
    """Where the runs of ``folders`` train together."""
    digest = hashlib.sha256("\n".join(sorted(folder.name for folder in folders)).encode()).hexdigest()[:12]
    return folders[0].parent / f"seeds-{digest}"


def _check_alike(configs: Sequence[cfg.ClassifierConfig], folders: Sequence[Path]) -> None:
    """Refuse configs that no single program can train."""
    seeds = [config.train.seed for config in configs]
    if not len(folders) == len(configs) == len(set(seeds)) > 0:
        raise ConfigError(f"train.seed = {seeds} in {len(folders)} folders is impossible: expected at least one seed, "
                          "each once, with a folder of its own")
    alike = [replace(config, train=replace(config.train, seed=0)) for config in configs]
    if any(config != alike[0] for config in alike):
        raise ConfigError("runs side by side may differ in train.seed alone; train others one at a time")
    if configs[0].cached_copies:
        raise ConfigError(f"cached_copies = {configs[0].cached_copies} is impossible for several seeds side by side, "
                          "each of which augments its own: expected 0; train one seed at a time")
