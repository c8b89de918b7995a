"""Optimiser and training loop, of classifiers and detectors alike."""

from dataclasses import dataclass
from typing import Literal

from wbcjax.config.base import require, require_choices


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and learning-rate schedule."""

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: float = 0.05
    """Fraction of all steps over which the rate rises from 0."""
    weight_decay: float = 0.05
    clip_norm: float | None = 1.0
    """Global gradient norm; None does not clip."""
    ema_decay: float | None = 0.99
    """Exponential moving average of the parameters, used for evaluation; None keeps none."""
    accumulate: int = 1
    """Gradient accumulation: batches averaged before one update."""
    stage_decay: float = 1.0
    """Each stage of a backbone learns at this times the rate of the next one, the last at this times the full rate,
    at which the head learns."""

    def __post_init__(self):
        require_choices(self, "optim.")
        require(self.learning_rate > 0, "optim.learning_rate", self.learning_rate, "> 0")
        require(0 <= self.warmup < 1, "optim.warmup", self.warmup, "0 <= fraction < 1")
        require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, ">= 0")
        require(self.clip_norm is None or self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "> 0 or None")
        require(self.ema_decay is None or 0 < self.ema_decay < 1, "optim.ema_decay", self.ema_decay, "0 < decay < 1")
        require(self.accumulate >= 1, "optim.accumulate", self.accumulate, ">= 1")
        require(0 < self.stage_decay <= 1, "optim.stage_decay", self.stage_decay, "0 < decay <= 1")


@dataclass(frozen=True)
class MeshConfig:
    """How the devices share a training; batches are split over all ``data`` × ``fsdp`` of them."""

    data: int | None = None
    """Groups of devices that each hold a whole copy of the state; None makes as many as there are devices for."""
    fsdp: int = 1
    """Devices among which each copy of the large parameters, moments and averages is split; 1 splits none."""

    def __post_init__(self):
        require(self.data is None or self.data >= 1, "train.mesh.data", self.data, ">= 1 or None")
        require(self.fsdp >= 1, "train.mesh.fsdp", self.fsdp, ">= 1")


@dataclass(frozen=True)
class LoopConfig:
    """The training loop of any model."""

    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step, over all devices."""
    seed: int = 0
    """Of the initial weights, the order of the images and every random change."""
    patience: int | None = None
    """Early stopping: end after this many evaluations without a better validation loss, and keep the best parameters.
    Needs a validation fold; None trains to the end."""
    eval_every: int = 1
    """Epochs between evaluations on the validation fold."""
    checkpoint_every: int = 1
    """Epochs between checkpoints."""
    log_every: int = 20
    """Steps between two lines of the metrics file."""
    tensorboard: bool = False
    mesh: MeshConfig = MeshConfig()
    """Devices to train on; a run's numbers do not depend on it."""
    profile: bool = False
    """Trace a few steps in the middle of the first epoch into the run's folder profile/, for TensorBoard, XProf or
    Perfetto."""

    def __post_init__(self):
        for name in ("epochs", "batch_size", "eval_every", "checkpoint_every", "log_every"):
            require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), ">= 1")
        require(self.patience is None or self.patience >= 1, "train.patience", self.patience, ">= 1 or None")


@dataclass(frozen=True)
class TrainConfig(LoopConfig):
    """The training loop of a classifier, with what its loss adds."""

    label_smoothing: float = 0.1
    mixup: float = 0.0
    """Mixup (Zhang et al. 2018): parameter of the Beta distribution from which the share of a second image and its
    label is drawn, for each image; 0 mixes none."""
    class_weights: bool = False
    """Weigh each class by the inverse of its number of images."""

    def __post_init__(self):
        super().__post_init__()
        require(self.mixup >= 0, "train.mixup", self.mixup, ">= 0")
        require(0 <= self.label_smoothing < 1, "train.label_smoothing", self.label_smoothing, "0 <= value < 1")
