"""Configuration: frozen dataclasses, one per concern, validated on construction.

An experiment is one ``ClassifierConfig`` (or a smaller piece of it); the command line overrides any field by its dotted
name. Where the paper contradicts itself or is silent, the choice is a field here with a comment that says so.
"""

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from wbcjax.config_values import convert, describe
from wbcjax.errors import ConfigError

T = TypeVar("T")


def _require(condition: bool, field_name: str, value: Any, expected: str) -> None:
    if not condition:
        raise ConfigError(f"{field_name} = {value!r} is impossible: expected {expected}")


def _require_choices(config: Any, prefix: str = "") -> None:
    """Every field that is a choice has one of its values, from Python too, where no parser looked."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal:
            value = getattr(config, name)
            _require(value in get_args(hint), prefix + name, value, describe(hint))


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from."""

    root: Path | None = field(
        default_factory=lambda: Path(os.environ["WBCJAX_DATA"]) if os.environ.get("WBCJAX_DATA") else None
    )
    """Folder that holds BCCD_Dataset and blood-cells; the environment variable WBCJAX_DATA is its default."""
    cache_dir: Path = Path("~/.cache/wbcjax")
    """Decoded images and downloads are kept here."""
    strict: bool = True
    """Stop at the first damaged or odd file (grey, wrong extension). False converts what can be converted, and drops
    boxes without area with a warning."""


@dataclass(frozen=True)
class ColorRoiConfig:
    """The colour-based ROI of the paper's section 3.1.1, each threshold by its name.

    The defaults are the faithful method; ``wbcjax.roi.EXPANDED`` adds closing, opening, the cytoplasm and enlargement.
    """

    blur_kernel: int = 3
    blur_sigma: float = 0.0
    """0 lets OpenCV derive it from the kernel size (0.8 for 3×3); the paper gives none."""
    hsv_low: tuple[int, int, int] = (80, 60, 140)
    """OpenCV HSV (H 0–179). The paper does not name the colour space of its range; read as RGB it gives a mean IoU of
    0.12, as HSV 0.62."""
    hsv_high: tuple[int, int, int] = (255, 255, 255)
    close_kernel: int = 0
    """Diameter of the elliptic closing, 0 for none. At a width of 640 pixels; scaled with the image."""
    open_kernel: int = 0
    """Diameter of the elliptic opening, 0 for none. At a width of 640 pixels; scaled with the image."""
    cytoplasm_reach: float = 0.0
    """Pixels around the nucleus' box in which pixels of the cytoplasm's colour join the cell if they touch the nucleus;
    0 for the nucleus alone, as in the paper. At a width of 640 pixels; scaled with the image."""
    cytoplasm_low: tuple[int, int, int] = (110, 15, 120)
    cytoplasm_high: tuple[int, int, int] = (150, 255, 255)
    """OpenCV HSV: bluer than red cells (hue from about 150), less pale than plasma (saturation about 13)."""
    cytoplasm_open: int = 0
    """Diameter of the elliptic opening that cuts thin bridges between cytoplasm and neighbours, 0 for none. At a width
    of 640 pixels; scaled with the image."""
    scale: float = 1.0
    """Factor on the box's width and height about its centre."""
    pad: float = 0.0
    """Pixels added on each side after scaling. At a width of 640 pixels; scaled with the image."""
    min_area: float = 0.0
    """Contours enclosing fewer pixels are no cell. At a width of 640 pixels; scaled with the image's area."""
    work_width: int | None = None
    """Wider images are shrunk to this width before the blur: faster. None works at the image's own size."""

    def __post_init__(self):
        _require(self.blur_kernel >= 1 and self.blur_kernel % 2 == 1, "roi.blur_kernel", self.blur_kernel, "odd, >= 1")
        _require(self.blur_sigma >= 0, "roi.blur_sigma", self.blur_sigma, ">= 0")
        _require(self.close_kernel >= 0, "roi.close_kernel", self.close_kernel, ">= 0")
        _require(self.open_kernel >= 0, "roi.open_kernel", self.open_kernel, ">= 0")
        _require(self.scale > 0, "roi.scale", self.scale, "> 0")
        for name in ("cytoplasm_reach", "cytoplasm_open", "pad"):
            _require(getattr(self, name) >= 0, f"roi.{name}", getattr(self, name), ">= 0")
        _require(self.min_area >= 0, "roi.min_area", self.min_area, ">= 0")
        _require(self.work_width is None or self.work_width >= 16, "roi.work_width", self.work_width, ">= 16 or None")
        for name in ("hsv_low", "hsv_high", "cytoplasm_low", "cytoplasm_high"):
            value = getattr(self, name)
            in_range = len(value) == 3 and all(0 <= v <= 255 for v in value)
            _require(in_range, f"roi.{name}", value, "three values in 0..255")
        for name, high in (("hsv_low", self.hsv_high), ("cytoplasm_low", self.cytoplasm_high)):
            value = getattr(self, name)
            ordered = all(low <= top for low, top in zip(value, high, strict=True))
            _require(ordered, f"roi.{name}", value, f"at most {high}")


@dataclass(frozen=True)
class CropConfig:
    """How a box becomes a classifier input of fixed size."""

    margin: float = 0.1
    """Fraction of the box's longer side added on every side before cropping; the paper gives none."""
    square: bool = True
    """Extend the shorter side so that the cell keeps its proportions."""

    def __post_init__(self):
        _require(self.margin >= 0, "crop.margin", self.margin, ">= 0")


@dataclass(frozen=True)
class ModelConfig:
    """Which network, and how it computes."""

    name: str = "custom2"
    num_classes: int = 4
    image_size: tuple[int, int] = (80, 80)
    """(height, width) of the input; the paper does not state its own."""
    head: Literal["softmax", "sigmoid"] = "softmax"
    """The paper ends in a sigmoid layer over four exclusive classes; softmax cross-entropy is the default here."""
    dropout: float | None = None
    """None keeps the model's own rate."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters, logits and losses stay float32."""

    def __post_init__(self):
        _require_choices(self, "model.")
        _require(self.num_classes >= 2, "model.num_classes", self.num_classes, ">= 2")
        _require(min(self.image_size) >= 16, "model.image_size", self.image_size, "at least 16 pixels a side")
        _require(self.dropout is None or 0 <= self.dropout < 1, "model.dropout", self.dropout, "0 <= rate < 1")


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of a training image; zero or False switches one off."""

    flip: bool = True
    rotation: float = 180.0
    """Largest angle in degrees, either way; a cell has no upright position."""
    shift: float = 0.08
    """Largest shift as a fraction of the size."""
    shear: float = 0.1
    """Largest shear (tangent)."""
    scale: float = 0.2
    """Zoom by a factor in [1 - scale, 1 + scale]."""
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.15
    hue: float = 0.015
    """Largest turn of the hue circle, as a fraction of a full turn."""
    stain: float = 0.06
    """Standard deviation of the random gain of each stain in optical density (hematoxylin, eosin, residual)."""
    noise: float = 0.0
    """Largest standard deviation of additive Gaussian noise, on images in [0, 1]."""

    def __post_init__(self):
        for f in dataclasses.fields(self):
            if f.name != "flip":
                _require(getattr(self, f.name) >= 0, f"augment.{f.name}", getattr(self, f.name), ">= 0")
        _require(self.scale < 1, "augment.scale", self.scale, "< 1")


NO_AUGMENT = AugmentConfig(False, *([0.0] * 10))


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

    def __post_init__(self):
        _require_choices(self, "optim.")
        _require(self.learning_rate > 0, "optim.learning_rate", self.learning_rate, "> 0")
        _require(0 <= self.warmup < 1, "optim.warmup", self.warmup, "0 <= fraction < 1")
        _require(self.weight_decay >= 0, "optim.weight_decay", self.weight_decay, ">= 0")
        _require(self.clip_norm is None or self.clip_norm > 0, "optim.clip_norm", self.clip_norm, "> 0 or None")
        _require(self.ema_decay is None or 0 < self.ema_decay < 1, "optim.ema_decay", self.ema_decay, "0 < decay < 1")
        _require(self.accumulate >= 1, "optim.accumulate", self.accumulate, ">= 1")


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 64
    """Images a step, over all devices."""
    seed: int = 0
    """Of the initial weights, the order of the images and every random change."""
    label_smoothing: float = 0.1
    mixup: float = 0.0
    """Mixup (Zhang et al. 2018): parameter of the Beta distribution from which the share of a second image and its
    label is drawn, for each image; 0 mixes none."""
    class_weights: bool = False
    """Weigh each class by the inverse of its number of images."""
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

    def __post_init__(self):
        for name in ("epochs", "batch_size", "eval_every", "checkpoint_every", "log_every"):
            _require(getattr(self, name) >= 1, f"train.{name}", getattr(self, name), ">= 1")
        _require(self.mixup >= 0, "train.mixup", self.mixup, ">= 0")
        _require(0 <= self.label_smoothing < 1, "train.label_smoothing", self.label_smoothing, "0 <= value < 1")
        _require(self.patience is None or self.patience >= 1, "train.patience", self.patience, ">= 1 or None")


@dataclass(frozen=True)
class PretrainConfig:
    """A first stage for whole images: the same network learns the cells on ROI crops, then goes on from there."""

    epochs: int = 0
    """Of the first stage; 0 starts from random weights."""
    image_size: tuple[int, int] = (96, 96)
    """(height, width) of the crops; best where cells are about as many pixels wide as on the whole images."""
    learning_rate: float = 1e-3

    def __post_init__(self):
        _require(self.epochs >= 0, "pretrain.epochs", self.epochs, ">= 0")
        _require(min(self.image_size) >= 16, "pretrain.image_size", self.image_size, "at least 16 pixels a side")
        _require(self.learning_rate > 0, "pretrain.learning_rate", self.learning_rate, "> 0")


@dataclass(frozen=True)
class NoiseConfig:
    """The robustness study of the paper's section 4.4: N = I + αG, clipped to [0, 1]."""

    alphas: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
    seeds: int = 3

    def __post_init__(self):
        _require(all(a >= 0 for a in self.alphas) and self.alphas != (), "noise.alphas", self.alphas, "values >= 0")
        _require(self.seeds >= 1, "noise.seeds", self.seeds, ">= 1")


@dataclass(frozen=True)
class ClassifierConfig:
    """One classification experiment: a model on whole images or on ROI crops."""

    data: DataConfig = field(default_factory=DataConfig)
    input: Literal["whole", "roi"] = "roi"
    """What the model sees: the whole image, or a crop of the region of interest."""
    roi_source: Literal["color", "oracle"] = "color"
    """Where the crops come from: the colour ROI, or the true boxes mapped through the provenance table."""
    roi: ColorRoiConfig = ColorRoiConfig()
    crop: CropConfig = CropConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    pretrain: PretrainConfig = PretrainConfig()
    train_on: Literal["files", "originals"] = "files"
    """What TRAIN is: the 9,957 augmented files, or the 277 smears they were made from, each class as often as the
    most frequent one."""
    folds: int = 5
    """Into how many folds TRAIN is cut."""
    fold: int | None = None
    """Which fold of TRAIN (grouped by original) is held out for validation; None trains on all of TRAIN."""

    def __post_init__(self):
        _require_choices(self)
        _require(self.folds >= 2, "folds", self.folds, ">= 2")
        _require(not self.pretrain.epochs or self.input == "whole", "pretrain.epochs", self.pretrain.epochs,
                 "0 unless input is whole")
        _require(self.fold is None or 0 <= self.fold < self.folds, "fold", self.fold, f"0..{self.folds - 1} or None")
        _require(self.train.patience is None or self.fold is not None, "train.patience", self.train.patience,
                 "None unless a validation fold is set with --fold")


def first_stage(config: ClassifierConfig) -> ClassifierConfig | None:
    """The run on crops that ``config`` starts from, None if it starts from random weights."""
    if not config.pretrain.epochs:
        return None
    return dataclasses.replace(
        config,
        input="roi",
        model=dataclasses.replace(config.model, image_size=config.pretrain.image_size),
        optim=dataclasses.replace(config.optim, learning_rate=config.pretrain.learning_rate),
        train=dataclasses.replace(config.train, epochs=config.pretrain.epochs),
        pretrain=PretrainConfig(),
    )


def to_dict(config: Any) -> dict:
    """Nested plain dict of a config: JSON-ready, paths as text."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def from_dict(cls: type[T], values: dict) -> T:
    """Build config ``cls`` from a nested dict as JSON holds it.

    Raises:
      ConfigError: for an unknown field, naming it and the fields there are, or an impossible value.
    """
    return convert(cls, values, "")


def fingerprint(config: Any) -> str:
    """Twelve hex digits that change whenever a field does; names caches, runs and finished stages."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()[:12]
