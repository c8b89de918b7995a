"""One training run of a classifier, from its config to its predictions on TEST. A finished run is reused."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flax import nnx

from wbcjax import config as cfg
from wbcjax.data.device import DeviceStream
from wbcjax.data.splits import assert_disjoint
from wbcjax.errors import CheckpointError, ConfigError
from wbcjax.models import build
from wbcjax.pipeline.inputs import Inputs, classifier_inputs, train_and_validation
from wbcjax.training import classification_loss, evaluator, fit, merge, predict_logits, split
from wbcjax.training.classifier import class_weights
from wbcjax.training.weights import load_weights, read_config, save_weights
from wbcjax.typing import Bool, Float, Int

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"


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
    title: str = "train",
) -> bool:
    """Train, and write ``config.json``, ``metrics.jsonl``, ``checkpoints/`` and at the end ``weights.safetensors``.

    Args:
      inputs: TRAIN, where the caller has it already; otherwise it is read.

    Returns:
      True if the run is complete, False if it was interrupted (its checkpoint is saved).

    Raises:
      CheckpointError: if ``workdir`` holds a run of another config.
      ConfigError, DataError, NonFiniteError: as their parts do.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    stored = workdir / CONFIG
    if stored.exists() and json.loads(stored.read_text()) != portable(config):
        raise CheckpointError(f"{workdir} holds a run of another config ({_difference(stored, config)}); give another "
                              "folder, or delete this one")
    train, held_out = train_and_validation(config, inputs or classifier_inputs(config, "TRAIN", progress=True))
    if config.train.batch_size > len(train):
        raise ConfigError(f"train.batch_size = {config.train.batch_size} is more than the {len(train)} training images")
    model = build(config.model, config.train.seed)
    stored.write_text(json.dumps(portable(config), indent=1, sort_keys=True))
    weights = class_weights(train.labels, config.model.num_classes) if config.train.class_weights else None
    head = config.model.head
    started = time.perf_counter()
    result = fit(
        model,
        DeviceStream(train.images, train.labels, train.names, batch_size=config.train.batch_size,
                     seed=config.train.seed),
        classification_loss(config.augment, config.train, head=head, weights=weights),
        optim=config.optim,
        train=config.train,
        workdir=workdir,
        evaluate=None if held_out is None else evaluator(model, held_out.images, held_out.labels, head=head),
        resume=resume,
        title=title,
    )
    if result.interrupted:
        return False
    save_weights(workdir / WEIGHTS, result.params, result.stats, portable(config))
    summary = {"steps": result.step, "wall_time": time.perf_counter() - started, **result.metrics}
    (workdir / "summary.json").write_text(json.dumps(summary, indent=1))
    return True


def load_run(path: Path) -> tuple[nnx.Module, cfg.ClassifierConfig]:
    """The trained model, in evaluation mode, and its config, from a run's folder or its weights file.

    Raises:
      CheckpointError: if there are no weights, or they are damaged or of another model.
    """
    path = path / WEIGHTS if path.is_dir() else path
    config = cfg.from_dict(cfg.ClassifierConfig, read_config(path))
    graphdef, *like = split(build(config.model))
    return merge(graphdef, *load_weights(path, tuple(like)), training=False), config


def predict_split(model: nnx.Module, inputs: Inputs) -> Predictions:
    """Logits of every image of a split."""
    logits = predict_logits(*split(model), np.asarray(inputs.images))
    return Predictions(logits, inputs.labels, inputs.sources, inputs.names, inputs.missed)


def check_test(train: Inputs, test: Inputs) -> None:
    """Prove that no original is on both sides.

    Raises:
      DataError: with the names of the originals that are.
    """
    assert_disjoint(train.sources, test.sources, what="TRAIN and TEST")


def _difference(stored: Path, config: cfg.ClassifierConfig) -> str:
    """The first field in which two configs differ, for the message."""
    def flat(values: dict, prefix: str = "") -> dict:
        out = {}
        for name, value in values.items():
            out |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        return out

    there, here = flat(json.loads(stored.read_text())), flat(portable(config))
    name = next(n for n in here | there if here.get(n) != there.get(n))
    return f"{name} is {there.get(name)!r} there, {here.get(name)!r} here"
