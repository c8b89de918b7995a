"""A classification experiment: network, augmentation, stages, noise study."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wbcjax.config.backbone import BackboneConfig
from wbcjax.config.base import require, require_choices
from wbcjax.config.data import ColorRoiConfig, CropConfig, DataConfig
from wbcjax.config.training import OptimConfig, TrainConfig


@dataclass(frozen=True)
class ModelConfig(BackboneConfig):
    """Which network, and how it computes. LeNet and the custom CNNs have no stages to freeze; of these the second
    custom CNN alone has a norm."""

    name: str = "custom2"
    num_classes: int = 4
    image_size: tuple[int, int] = (80, 80)
    """(height, width) of the input; the paper does not state its own."""
    head: Literal["softmax", "sigmoid", "margin"] = "softmax"
    """The paper ends in a sigmoid layer over four exclusive classes; softmax cross-entropy is the default here.
    ``margin`` is the margin loss of capsule networks on the sigmoid of each logit, a capsule's length."""
    pool: Literal["avg", "max", "dense"] = "avg"
    """From a backbone's last map to the features: its mean, its maximum, or the two dense layers of 4096 units that
    VGG16 was published with. LeNet and the custom CNNs keep their own."""
    aux: bool = False
    """InceptionV3's auxiliary head, which training adds to the loss."""
    dropout: float | None = None
    """None keeps the model's own rate."""

    def __post_init__(self):
        super().__post_init__()
        require(self.num_classes >= 2, "model.num_classes", self.num_classes, ">= 2")
        require(min(self.image_size) >= 16, "model.image_size", self.image_size, "at least 16 pixels a side")
        require(self.dropout is None or 0 <= self.dropout < 1, "model.dropout", self.dropout, "0 <= rate < 1")


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
    noise_share: float = 1.0
    """Share of the images that get noise."""
    corruption: float = 0.0
    """Share of the images that get one of the eleven corruptions of microscopy (``wbcjax.data.corruptions``), in groups
    of a batch with one kind each, at a random level."""
    augmix: int = 0
    """Chains of operations that AugMix blends with the image (Hendrycks et al. 2020, who take 3)."""

    def __post_init__(self):
        for f in dataclasses.fields(self):
            if f.name != "flip":
                require(getattr(self, f.name) >= 0, f"augment.{f.name}", getattr(self, f.name), ">= 0")
        require(self.scale < 1, "augment.scale", self.scale, "< 1")
        require(0 < self.noise_share <= 1, "augment.noise_share", self.noise_share, "0 < share <= 1")
        require(self.corruption <= 1, "augment.corruption", self.corruption, "0 <= share <= 1")


NO_AUGMENT = AugmentConfig(flip=False, rotation=0.0, shift=0.0, shear=0.0, scale=0.0, brightness=0.0, contrast=0.0,
                           saturation=0.0, hue=0.0, stain=0.0)


@dataclass(frozen=True)
class PretrainConfig:
    """A first stage: the same network learns the cells on crops of the colour ROI, then goes on from there on whole
    images or other crops."""

    epochs: int = 0
    """Of the first stage; 0 starts from random weights, or from those of ``weights``."""
    image_size: tuple[int, int] = (96, 96)
    """(height, width) of the crops; best where cells are about as many pixels wide as on the whole images."""
    learning_rate: float = 1e-3
    train_share: float = 1.0
    """``train_share`` of the first stage."""

    def __post_init__(self):
        require(self.epochs >= 0, "pretrain.epochs", self.epochs, ">= 0")
        require(min(self.image_size) >= 16, "pretrain.image_size", self.image_size, "at least 16 pixels a side")
        require(self.learning_rate > 0, "pretrain.learning_rate", self.learning_rate, "> 0")
        require(0 < self.train_share <= 1, "pretrain.train_share", self.train_share, "0 < share <= 1")


@dataclass(frozen=True)
class NoiseConfig:
    """The robustness study of the paper's section 4.4: N = I + αG, clipped to [0, 1]."""

    alphas: tuple[float, ...] = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
    seeds: int = 3

    def __post_init__(self):
        require(all(a >= 0 for a in self.alphas) and self.alphas != (), "noise.alphas", self.alphas, "values >= 0")
        require(self.seeds >= 1, "noise.seeds", self.seeds, ">= 1")


@dataclass(frozen=True)
class ClassifierConfig:
    """One classification experiment: a model on whole images or on ROI crops."""

    data: DataConfig = field(default_factory=DataConfig)
    input: Literal["whole", "roi"] = "roi"
    """What the model sees: the whole image, or a crop of the region of interest."""
    roi_source: Literal["color", "mask_rcnn", "oracle"] = "color"
    """Where the crops come from: the colour ROI, the Mask R-CNN of ``detector``, or the true boxes mapped through the
    provenance table."""
    detector: Path | None = None
    """Weights file or run folder of the Mask R-CNN; None takes the one that comes with the package."""
    roi: ColorRoiConfig = ColorRoiConfig()
    crop: CropConfig = CropConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    pretrain: PretrainConfig = PretrainConfig()
    weights: Path | None = None
    """Weights that training starts from, all but the head: a file of Keras, torchvision or timm, one that
    ``wbcjax convert`` wrote, or a run's folder. None starts from random ones."""
    cached_copies: int = 0
    """So many augmented copies of each training image go through the frozen stages once (model.frozen_stages), before
    training, and an epoch is a pass over all of them. 0 augments anew and computes everything at every step."""
    test_views: Literal["one", "flips", "dihedral"] = "one"
    """Test-time augmentation: the logits of an image, or their mean over its mirror images, or over those and quarter
    turns (square inputs)."""
    train_split: Literal["TRAIN", "ALL"] = "TRAIN"
    """ALL pools TRAIN and TEST for cross-validation over all 348 originals; it needs a fold."""
    train_share: float = 1.0
    """Share of the files of each original that are trained on, evenly spaced."""
    train_on: Literal["files", "originals"] = "files"
    """What TRAIN is: the 9,957 augmented files, or the 277 smears they were made from, each class as often as the
    most frequent one."""
    folds: int = 5
    """Into how many folds TRAIN is cut."""
    fold: int | None = None
    """Which fold of TRAIN (grouped by original) is held out for validation; None trains on all of TRAIN."""
    fold_by: Literal["original", "file_number", "file"] = "original"
    """What a fold keeps together. The other two leak, and are there to show how much: ``file_number`` keeps the files
    of one split, class and number (``_12_3456.jpeg``: 12), which is not their original, and ``file`` parts the files at
    random, so cells that are validated on are trained on too."""

    def __post_init__(self):
        require_choices(self)
        require(self.folds >= 2, "folds", self.folds, ">= 2")
        on_color = self.input == "roi" and self.roi_source == "color"
        require(not (self.pretrain.epochs and on_color), "pretrain.epochs", self.pretrain.epochs,
                "0 for crops of the colour ROI, which are the first stage themselves")
        require(0 < self.train_share <= 1, "train_share", self.train_share, "0 < share <= 1")
        require(self.train_split == "TRAIN" or self.fold is not None, "train_split", self.train_split,
                "TRAIN unless a fold is held out with --fold")
        height, width = self.model.image_size
        require(self.test_views != "dihedral" or height == width, "test_views", self.test_views,
                f"one or flips for {height}×{width} inputs")
        require(self.cached_copies == 0 or (self.model.frozen_stages > 0 and self.cached_copies > 0), "cached_copies",
                self.cached_copies, ">= 0, and 0 without frozen stages (model.frozen_stages)")
        require(not self.cached_copies or (not self.train.mixup and not self.model.aux), "cached_copies",
                self.cached_copies, "0 with mixup or an auxiliary head, which need the images")
        require(self.fold is None or 0 <= self.fold < self.folds, "fold", self.fold, f"0..{self.folds - 1} or None")
        require(self.fold_by == "original" or self.fold is not None, "fold_by", self.fold_by,
                "original unless a fold is held out with --fold")
        require(self.train.patience is None or self.fold is not None, "train.patience", self.train.patience,
                 "None unless a validation fold is set with --fold")


def first_stage(config: ClassifierConfig) -> ClassifierConfig | None:
    """The run on crops of the colour ROI that ``config`` goes on from, None if it has no first stage."""
    if not config.pretrain.epochs:
        return None
    return dataclasses.replace(
        config,
        input="roi",
        roi_source="color",
        train_share=config.pretrain.train_share,
        model=dataclasses.replace(config.model, image_size=config.pretrain.image_size),
        optim=dataclasses.replace(config.optim, learning_rate=config.pretrain.learning_rate),
        train=dataclasses.replace(config.train, epochs=config.pretrain.epochs),
        pretrain=PretrainConfig(),
    )
