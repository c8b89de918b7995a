"""One training run of a classifier, from its config to its predictions on TEST. A finished run is reused."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flax import nnx

from wbcjax import config as cfg
from wbcjax.data.device import DeviceStream, ResidentStream
from wbcjax.data.sets import ClassificationSet
from wbcjax.errors import CheckpointError, ConfigError
from wbcjax.models import Classifier, build
from wbcjax.pipeline.feature_store import FeatureStore, augmented_copies
from wbcjax.pipeline.inputs import Inputs, classifier_inputs, inputs_of, train_and_validation
from wbcjax.pipeline.workdir import (
    SUMMARY,
    WEIGHTS,
    check_workdir,
    finish,
    has_checkpoint,
    is_finished,
    stored_config,
    weights_file,
    write_config,
)
from wbcjax.pretrained.source import find
from wbcjax.pretrained.store import filled
from wbcjax.training import classification_loss, evaluator, fit, merge, predict_logits, split
from wbcjax.training.classifier import class_weights
from wbcjax.training.loop import Evaluate
from wbcjax.training.mesh import check_batch_size, training_mesh
from wbcjax.training.optim import stage_rates
from wbcjax.training.state import LossFn
from wbcjax.training.weights import load_weights, read_card
from wbcjax.typing import CLASS_NAMES, Bool, Float, Images, Int

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


def pooled(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of all parts, such as what each fold held out, in order."""
    return Predictions(
        np.concatenate([part.logits for part in parts]),
        np.concatenate([part.labels for part in parts]),
        tuple(source for part in parts for source in part.sources),
        tuple(name for part in parts for name in part.names),
        np.concatenate([part.missed for part in parts]),
    )


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
    check_workdir(workdir, config, resume=resume, begun=is_begun(workdir))
    model = initial_model(config)  # refuses an unknown name before any image is read
    inputs = classifier_inputs(config, config.train_split, progress=True) if inputs is None else inputs
    train, held_out = train_and_validation(config, inputs)
    check_sizes(config, train)
    write_config(workdir, config)
    first = cfg.first_stage(config)
    if first is not None:
        start = start or workdir / FIRST_STAGE
        if not is_finished(start, first) and not train_run(first, start, resume=is_begun(start),
                                                           title=f"{title}, first stage"):
            return False
        model = start_from(model, start / WEIGHTS)
    setup = set_up(config, model, train, held_out)
    started = time.perf_counter()
    result = fit(
        model, setup.stream, setup.loss_fn, optim=config.optim, train=config.train, workdir=workdir,
        evaluate=setup.evaluate, frozen=setup.frozen, rates=setup.rates, resume=has_checkpoint(workdir), title=title,
    )
    return finish(workdir, config, result, wall_time=time.perf_counter() - started, class_names=train.class_names)


@dataclass(frozen=True, eq=False)
class Setup:
    """What ``fit`` needs beside the model."""

    stream: ResidentStream
    loss_fn: LossFn
    evaluate: Evaluate | None
    frozen: tuple[str, ...]
    rates: dict[str, float]


def set_up(config: cfg.ClassifierConfig, model: Classifier, train: Inputs, held_out: Inputs | None) -> Setup:
    """Data, loss and evaluation for training ``model``, which is in its initial state, as ``config`` says."""
    num_classes, head = config.model.num_classes, config.model.head
    weights = class_weights(train.labels, num_classes) if config.train.class_weights else None
    batch_size, seed = config.train.batch_size, config.train.seed
    if config.cached_copies:
        images = augmented_copies(train.images, config.augment, config.cached_copies, seed)
        resident = {"features": model_inputs(config, model, images, progress=True),
                    "labels": np.tile(train.labels, config.cached_copies)}
        stream = ResidentStream(resident, train.names * config.cached_copies, batch_size, seed)
    else:
        stream = DeviceStream(train.images, train.labels, train.names, batch_size=batch_size, seed=seed)
    evaluate = None
    if held_out is not None:
        evaluate = evaluator(model, model_inputs(config, model, held_out.images), held_out.labels, head=head)
    return Setup(
        stream,
        classification_loss(config.augment, config.train, num_classes=num_classes, head=head, weights=weights),
        evaluate,
        model.stage_names[: config.model.frozen_stages],
        stage_rates(model.stage_names, config.optim.stage_decay),
    )


def model_inputs(
    config: cfg.ClassifierConfig, model: Classifier, images: Images, *, progress: bool = False
) -> np.ndarray:
    """What ``predict_logits`` takes: the images, or the kept features of the frozen stages where the config has any
    cached."""
    if not config.cached_copies:
        return np.asarray(images)
    return FeatureStore(model, config.data.cache_dir, config.model.image_size).features(images, progress=progress)


def initial_model(config: cfg.ClassifierConfig) -> Classifier:
    """The model of a config before training: random, or with the weights that it names, and a fresh head.

    Raises:
      ConfigError: if there is no such model, or the weights want images prepared in another way.
      CheckpointError: if the weights are missing, damaged, or of another architecture.
    """
    if config.weights is None:
        return build(config.model, config.train.seed)
    found = find(config.weights, network=config.model.name)
    for name in ("preprocessing", "flavour"):
        wanted, given = found.fields.get(name), getattr(config.model, name)
        if wanted not in (None, given):
            raise ConfigError(f"model.{name} = {given!r}, but the weights {config.weights} were made with {wanted!r}: "
                              f"set --model.{name} {wanted}")
    return filled(found, config.model, config.train.seed, head=False)


def check_sizes(config: cfg.ClassifierConfig, train: Inputs) -> None:
    """Refuse a batch or a number of classes that does not fit the data."""
    if config.train.batch_size > len(train):
        raise ConfigError(f"train.batch_size = {config.train.batch_size} is more than the {len(train)} training "
                          "images; lower it")
    check_batch_size(config.train.batch_size, training_mesh(config.train.mesh))
    if len(train.class_names) > config.model.num_classes:
        raise ConfigError(f"model.num_classes = {config.model.num_classes}, but the data has {len(train.class_names)} "
                          f"classes: {', '.join(train.class_names)}")


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
      CheckpointError: if there are no weights, or they are damaged, of another model or of a detector.
    """
    path, config = stored_config(cfg.ClassifierConfig, path)
    graphdef, *like = split(nnx.eval_shape(lambda: build(config.model)))
    return merge(graphdef, *load_weights(path, tuple(like)), training=False), config


def class_names_of(path: Path, config: cfg.ClassifierConfig) -> tuple[str, ...]:
    """Names of a run's classes, from its weights file or the summary beside it; the paper's four, or numbers, without.

    Raises:
      CheckpointError: if the weights or the summary are damaged.
    """
    weights = weights_file(path)
    names = read_card(weights).get("class_names")
    if names is not None:
        texts = [name for name in names if isinstance(name, str)] if isinstance(names, list) else []
        if texts != names or len(texts) != config.model.num_classes:
            raise CheckpointError(f"{weights}: its class_names are damaged: expected {config.model.num_classes} names; "
                                  "calibrate again")
        return tuple(names)
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


def is_begun(workdir: Path) -> bool:
    """Whether there is a run to resume, if only in its first stage."""
    return has_checkpoint(workdir) or has_checkpoint(workdir / FIRST_STAGE)


def predict_split(model: Classifier, inputs: Inputs, config: cfg.ClassifierConfig) -> Predictions:
    """Logits of every image of a split, with the test-time views of the config."""
    if config.test_views == "one":
        logits = predict_logits(*split(model), model_inputs(config, model, inputs.images))
    else:
        logits = predict_logits(*split(model), np.asarray(inputs.images), views=config.test_views)
    return Predictions(logits, inputs.labels, inputs.sources, inputs.names, inputs.missed)
