"""One training run of a detector, from its config to its weights. A finished run is reused."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from flax import nnx

from wbcjax import config as cfg
from wbcjax.data import DetectionSet, corrected, detection_arrays, voc, with_masks
from wbcjax.data.detection_stream import DetectionStream
from wbcjax.data.instances import DetectionArrays
from wbcjax.data.splits import assert_disjoint, detector_split, grouped_folds
from wbcjax.errors import DataError
from wbcjax.models.mask_rcnn import MaskRCNN, build_detector
from wbcjax.pipeline.inputs import data_root
from wbcjax.pipeline.workdir import check_workdir, finish, has_checkpoint, stored_config, write_config
from wbcjax.training import fit, merge, split
from wbcjax.training.detector import detection_loss, evaluator
from wbcjax.training.frozen_features import FeatureStream
from wbcjax.training.mesh import check_batch_size, training_mesh
from wbcjax.training.weights import load_weights
from wbcjax.typing import DETECTION_CLASS_NAMES


def bccd(data: cfg.DataConfig) -> dict[str, DetectionSet]:
    """BCCD with its boxes ``published`` and ``corrected``.

    Raises:
      DataError: as the loaders do.
    """
    published = voc(data_root(data), strict=False)
    return {"published": published, "corrected": corrected(published)}


def side_of_split(
    boxes: DetectionSet, side: Literal["train", "test"], class_names: tuple[str, ...], root: Path
) -> DetectionSet:
    """BCCD's images on one side of the detector's split (``data.splits``), with the masks of a data root."""
    names = detector_split(boxes)[side == "test"]
    return with_masks(boxes.select(names).of_classes(class_names), root)


def with_classes_of(config: cfg.DetectorConfig, detection_set: DetectionSet) -> cfg.DetectorConfig:
    """``config`` for the classes of a detection set."""
    return replace(config, model=replace(config.model, class_names=detection_set.class_names))


def train_detector(
    config: cfg.DetectorConfig,
    workdir: Path | str,
    *,
    resume: bool = False,
    detection_set: DetectionSet | None = None,
    title: str = "train",
) -> bool:
    """Train, and write ``config.json``, ``metrics.jsonl``, ``checkpoints/`` and at the end ``weights.safetensors``.

    Args:
      detection_set: images and boxes of one's own, whose classes the detector then learns (``DetectionSet.of_classes``
        chooses some); boxes without masks get some by colour. None trains on BCCD's training images.

    Returns:
      True if the run is complete, False if it was interrupted (its checkpoint is saved).

    Raises:
      CheckpointError: if ``workdir`` holds another run, or the pretrained weights are of another backbone.
      ConfigError, DataError, NonFiniteError: as their parts do.
    """
    workdir = Path(workdir)
    if detection_set is None:
        data_root(config.data)  # before the model is built, which takes seconds
    else:
        config = with_classes_of(config, detection_set)
    begun = has_checkpoint(workdir)
    check_workdir(workdir, config, resume=resume, begun=begun)
    check_batch_size(config.train.batch_size, training_mesh(config.train.mesh))
    model = build_detector(config.model, config.train.seed)  # refuses an unknown name before any image is read
    if config.weights is not None:
        from wbcjax.pipeline.detector_weights import start_from

        model = start_from(model, config.weights.expanduser())
    train, held_out = training_arrays(config, detection_set)
    stream = (FeatureStream(model, train, config) if config.cached_copies
              else DetectionStream(train, config.train.batch_size, config.train.seed))
    evaluate = None if held_out is None else evaluator(model, held_out, class_name=judged(config.model))
    write_config(workdir, config)
    started = time.perf_counter()
    result = fit(
        model,
        stream,
        detection_loss(config),
        optim=config.optim,
        train=config.train,
        workdir=workdir,
        evaluate=evaluate,
        frozen=model.frozen_paths,
        resume=begun,
        title=title,
    )
    return finish(workdir, config, result, wall_time=time.perf_counter() - started,
                  class_names=config.model.class_names)


def training_arrays(
    config: cfg.DetectorConfig, detection_set: DetectionSet | None = None
) -> tuple[DetectionArrays, DetectionArrays | None]:
    """The images to train on and those of the validation fold, None without one.

    Folds are grouped by field of view, and proved to be.

    Raises:
      DataError: as the loaders do, or where there are no images.
    """
    if detection_set is None:
        boxes = bccd(config.data)[config.annotations]
        detection_set = side_of_split(boxes, "train", config.model.class_names, data_root(config.data))
    if not len(detection_set):
        raise DataError("a detection set without images: nothing to train on")
    arrays = detection_arrays(
        with_masks(detection_set), config.model.class_names, config.model.canvas, strict=config.data.strict,
        cache_dir=config.data.cache_dir.expanduser(), progress=True,
    )
    if config.fold is None:
        return arrays, None
    folds = grouped_folds(np.zeros(len(arrays), np.int32), arrays.names, config.folds, seed=0)
    train, held_out = (arrays.subset(np.flatnonzero(chosen)) for chosen in (folds != config.fold, folds == config.fold))
    assert_disjoint(train.names, held_out.names, what=f"fold {config.fold} and the rest", fields=True)
    return train, held_out


def judged(model: cfg.DetectorModelConfig) -> str:
    """The class whose boxes the validation looks at: white cells, or the first class where there are none."""
    white = DETECTION_CLASS_NAMES[0]
    return white if white in model.class_names else model.class_names[0]


def load_detector(path: Path) -> tuple[MaskRCNN, cfg.DetectorConfig]:
    """The trained model, in evaluation mode, and its config, from a run's folder or its weights file.

    Raises:
      CheckpointError: if there are no weights, or they are damaged, of another model or of a classifier.
    """
    path, config = stored_config(cfg.DetectorConfig, path)
    graphdef, *like = split(nnx.eval_shape(lambda: MaskRCNN(config.model, rngs=nnx.Rngs(0))))
    return merge(graphdef, *load_weights(path, tuple(like)), training=False), config
