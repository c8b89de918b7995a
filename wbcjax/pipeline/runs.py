"""One training run of a classifier, from its config to its predictions on TEST. A finished run is reused."""

import importlib.util
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flax import nnx

from wbcjax import config as cfg
from wbcjax.data.device import DeviceStream
from wbcjax.data.sets import ClassificationSet
from wbcjax.errors import CheckpointError, ConfigError
from wbcjax.files import write_text
from wbcjax.models import build
from wbcjax.pipeline.inputs import Inputs, classifier_inputs, inputs_of, train_and_validation
from wbcjax.training import classification_loss, data_mesh, evaluator, fit, merge, predict_logits, split
from wbcjax.training.classifier import class_weights
from wbcjax.training.mesh import check_batch_size
from wbcjax.training.weights import load_weights, read_config, save_weights
from wbcjax.typing import CLASS_NAMES, Bool, Float, Int

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
SUMMARY = "summary.json"
FIRST_STAGE = "first_stage"


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a run says of one split."""

    logits: Float[np.ndarray, "n c"]
    labels: Int[np.ndarray, "n"]
    sources: tuple[str, ...]
    names: tuple[str, ...]
    missed: Bool[np.ndarray, "n"]

    @property
    def classes(self) -> Int[np.ndarray, "n"]:
        """The predicted class of each image."""
        return self.logits.argmax(axis=-1)


def portable(config: cfg.ClassifierConfig) -> dict:
    """The config as JSON without the folders of one machine: what identifies a run."""
    values = cfg.to_dict(config)
    del values["data"]["root"], values["data"]["cache_dir"]
    return values


def is_finished(workdir: Path, config: cfg.ClassifierConfig) -> bool:
    """Whether ``workdir`` holds the weights of this very config."""
    path = workdir / WEIGHTS
    return path.is_file() and read_config(path) == portable(config)


def train_run(
    config: cfg.ClassifierConfig,
    workdir: Path,
    *,
    resume: bool = False,
    inputs: Inputs | None = None,
    start: Path | None = None,
    title: str = "train",
) -> bool:
    """Train, and write ``config.json``, ``metrics.jsonl``, ``checkpoints/`` and at the end ``weights.safetensors``.

    Args:
      inputs: TRAIN, where the caller has it already; otherwise it is read.
      start: the finished run of ``first_stage(config)``, where the caller has it; otherwise it is trained in
        ``first_stage/`` below ``workdir``.

    Returns:
      True if the run is complete, False if it was interrupted (its checkpoint is saved).

    Raises:
      CheckpointError: if ``workdir`` holds a run of another config.
      ConfigError, DataError, NonFiniteError: as their parts do.
    """
    _check_workdir(workdir, config, resume)
    if config.train.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError("train.tensorboard needs a package: pip install 'wbcjax[tensorboard]', or leave it off")
    model = build(config.model, config.train.seed)  # refuses an unknown name before any image is read
    inputs = classifier_inputs(config, "TRAIN", progress=True) if inputs is None else inputs
    train, held_out = train_and_validation(config, inputs)
    if config.train.batch_size > len(train):
        raise ConfigError(f"train.batch_size = {config.train.batch_size} is more than the {len(train)} training "
                          "images; lower it")
    check_batch_size(config.train.batch_size, data_mesh())
    if len(train.class_names) > config.model.num_classes:
        raise ConfigError(f"model.num_classes = {config.model.num_classes}, but the data has {len(train.class_names)} "
                          f"classes: {', '.join(train.class_names)}")
    write_text(workdir / CONFIG, json.dumps(portable(config), indent=1, sort_keys=True))
    first = cfg.first_stage(config)
    if first is not None:
        start = start or workdir / FIRST_STAGE
        if not is_finished(start, first) and not train_run(first, start, resume=has_checkpoint(start),
                                                           title=f"{title}, first stage"):
            return False
        model = start_from(model, start / WEIGHTS)
    weights = class_weights(train.labels, config.model.num_classes) if config.train.class_weights else None
    head = config.model.head
    started = time.perf_counter()
    result = fit(
        model,
        DeviceStream(train.images, train.labels, train.names, batch_size=config.train.batch_size,
                     seed=config.train.seed),
        classification_loss(config.augment, config.train, num_classes=config.model.num_classes, head=head,
                            weights=weights),
        optim=config.optim,
        train=config.train,
        workdir=workdir,
        evaluate=None if held_out is None else evaluator(model, held_out.images, held_out.labels, head=head),
        resume=_has_own_checkpoint(workdir),
        title=title,
    )
    if result.interrupted:
        return False
    summary = {"steps": result.step, "wall_time": time.perf_counter() - started, **result.metrics,
               "class_names": train.class_names}
    write_text(workdir / SUMMARY, json.dumps(summary, indent=1))
    # Last: a run with weights is finished, and takes the names of its classes from the summary.
    save_weights(workdir / WEIGHTS, result.params, result.stats, portable(config))
    return True


def start_from(model: nnx.Module, weights: Path) -> nnx.Module:
    """``model`` with the weights of another run of the same architecture.

    Raises:
      CheckpointError: if a tensor differs, as those of LeNet do between image sizes.
    """
    graphdef, *like = split(model)
    return merge(graphdef, *load_weights(weights, tuple(like)), training=True)


def train_on(
    items: ClassificationSet,
    config: cfg.ClassifierConfig,
    workdir: Path | str,
    *,
    true_boxes: Sequence[Float[np.ndarray, "_ 4"]] | None = None,
    resume: bool = False,
) -> bool:
    """``train_run`` on any classification set, such as ``class_folders``; the arguments are those of ``inputs_of``."""
    inputs = inputs_of(items, config, true_boxes=true_boxes, progress=True)
    return train_run(config, Path(workdir), resume=resume, inputs=inputs)


def load_run(path: Path) -> tuple[nnx.Module, cfg.ClassifierConfig]:
    """The trained model, in evaluation mode, and its config, from a run's folder or its weights file.

    Raises:
      CheckpointError: if there are no weights, or they are damaged or of another model.
    """
    path = path / WEIGHTS if path.is_dir() else path
    try:
        config = cfg.from_dict(cfg.ClassifierConfig, read_config(path))
    except ConfigError as error:
        raise CheckpointError(f"{path}: written by another version ({error}); train again") from error
    graphdef, *like = split(build(config.model))
    return merge(graphdef, *load_weights(path, tuple(like)), training=False), config


def class_names_of(path: Path, config: cfg.ClassifierConfig) -> tuple[str, ...]:
    """Names of a run's classes, from the summary beside its weights; the paper's four, or numbers, without one.

    Raises:
      CheckpointError: if the summary is damaged.
    """
    summary = (path if path.is_dir() else path.parent) / SUMMARY
    try:
        names = json.loads(summary.read_text(encoding="utf-8"))["class_names"] if summary.is_file() else ()
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{summary}: damaged ({error!r}); delete it to go without the classes' names") from error
    if len(names) == config.model.num_classes:
        return tuple(names)
    if config.model.num_classes == len(CLASS_NAMES):
        return CLASS_NAMES
    return tuple(f"class {k}" for k in range(config.model.num_classes))


def has_checkpoint(workdir: Path) -> bool:
    """Whether there is a run to resume, if only in its first stage."""
    return _has_own_checkpoint(workdir) or _has_own_checkpoint(workdir / FIRST_STAGE)


def predict_split(model: nnx.Module, inputs: Inputs) -> Predictions:
    """Logits of every image of a split."""
    logits = predict_logits(*split(model), np.asarray(inputs.images))
    return Predictions(logits, inputs.labels, inputs.sources, inputs.names, inputs.missed)


def _has_own_checkpoint(workdir: Path) -> bool:
    # Orbax gives what it has not finished writing a longer name.
    return any(folder.name.isdecimal() for folder in (workdir / "checkpoints").glob("*"))


def _check_workdir(workdir: Path, config: cfg.ClassifierConfig, resume: bool) -> None:
    """Refuse, before anything is read or written, a folder that holds another run, or none to resume."""
    stored = workdir / CONFIG
    if stored.exists():
        try:
            there = json.loads(stored.read_text())
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{stored}: damaged ({error}); delete {workdir}, or give another folder") from error
        if there != portable(config):
            raise CheckpointError(f"{workdir} holds a run of another config ({_difference(there, portable(config))}); "
                                  "give another folder, or delete this one")
    if resume and not has_checkpoint(workdir):
        raise CheckpointError(f"{workdir}: no checkpoint here to resume; start without --resume, or check the folder")
    if not resume and has_checkpoint(workdir):
        raise CheckpointError(f"{workdir} holds a run already; --resume continues it, or give another folder")


def _difference(there: dict, here: dict) -> str:
    """The first field in which two configs differ, for the message."""
    def flat(values: dict, prefix: str = "") -> dict:
        out = {}
        for name, value in values.items():
            out |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        return out

    there, here = flat(there), flat(here)
    name = next(n for n in here | there if here.get(n) != there.get(n))
    return f"{name} is {there.get(name)!r} there, {here.get(name)!r} here"
