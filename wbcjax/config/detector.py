"""A detection experiment: Mask R-CNN over any backbone, its two stages, and how it is trained.

The defaults of the stages are those of torchvision's ``maskrcnn_resnet50_fpn``, except where a comment says otherwise.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wbcjax.config.backbone import BackboneConfig
from wbcjax.config.base import require, require_choices
from wbcjax.config.data import DataConfig
from wbcjax.config.training import LoopConfig, OptimConfig


@dataclass(frozen=True)
class RPNConfig:
    """Region proposal network: which boxes of an image are worth a second look."""

    anchor_scales: tuple[float, ...] = (8.0,)
    """Side of the anchors (square root of their area) in units of their level's stride."""
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height / width."""
    foreground_iou: float = 0.7
    background_iou: float = 0.3
    sample: int = 256
    """Anchors an image in the loss."""
    positive_fraction: float = 0.5
    pre_nms: int = 1000
    """Proposals kept of each level before non-maximum suppression (torchvision trains with 2000)."""
    post_nms: int = 1000
    """Proposals an image after it (torchvision trains with 2000)."""
    nms_iou: float = 0.7
    min_size: float = 1e-3
    """Proposals with a side shorter than this, in pixels, are dropped."""

    def __post_init__(self):
        require(self.anchor_scales != () and min(self.anchor_scales) > 0, "rpn.anchor_scales", self.anchor_scales,
                "values > 0")
        require(self.aspect_ratios != () and min(self.aspect_ratios) > 0, "rpn.aspect_ratios", self.aspect_ratios,
                "values > 0")
        require(0 <= self.background_iou <= self.foreground_iou <= 1, "rpn.foreground_iou", self.foreground_iou,
                f"{self.background_iou} (rpn.background_iou) to 1")
        require(0 < self.positive_fraction <= 1, "rpn.positive_fraction", self.positive_fraction, "0 < share <= 1")
        for name in ("sample", "pre_nms", "post_nms"):
            require(getattr(self, name) >= 1, f"rpn.{name}", getattr(self, name), ">= 1")
        require(0 < self.nms_iou <= 1, "rpn.nms_iou", self.nms_iou, "0 < IoU <= 1")
        require(self.min_size >= 0, "rpn.min_size", self.min_size, ">= 0")


@dataclass(frozen=True)
class BoxHeadConfig:
    """Second stage: class and exact box of each proposal."""

    pool: int = 7
    """Side of the ROI Align grid."""
    hidden: int = 1024
    """Units of the two dense layers."""
    foreground_iou: float = 0.5
    sample: int = 64
    """Proposals an image in the loss; torchvision has 512, for photographs with many objects."""
    positive_fraction: float = 0.25
    delta_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    max_detections: int = 100

    def __post_init__(self):
        for name in ("pool", "hidden", "sample", "max_detections"):
            require(getattr(self, name) >= 1, f"box.{name}", getattr(self, name), ">= 1")
        for name in ("foreground_iou", "positive_fraction", "nms_iou"):
            require(0 < getattr(self, name) <= 1, f"box.{name}", getattr(self, name), "0 < value <= 1")
        require(0 <= self.score_threshold < 1, "box.score_threshold", self.score_threshold, "0 <= score < 1")
        require(min(self.delta_weights) > 0, "box.delta_weights", self.delta_weights, "four values > 0")


@dataclass(frozen=True)
class MaskHeadConfig:
    """Second stage: the mask of each detection, predicted at twice the pooled size."""

    pool: int = 14
    channels: int = 256
    convs: int = 4

    def __post_init__(self):
        for name in ("pool", "channels"):
            require(getattr(self, name) >= 1, f"mask.{name}", getattr(self, name), ">= 1")
        require(self.convs >= 0, "mask.convs", self.convs, ">= 0")


@dataclass(frozen=True)
class DetectorModelConfig(BackboneConfig):
    """Which Mask R-CNN, and how it computes."""

    backbone: str = "resnet50"
    class_names: tuple[str, ...] = ("wbc",)
    """The classes found, without the background."""
    canvas: tuple[int, int] = (480, 640)
    """(height, width) that images are scaled to fit in, keeping their proportions; a multiple of the largest stride."""
    levels: tuple[int, ...] = (2, 3, 4, 5, 6)
    """Pyramid levels; the stride of a level is 2 to its power. Levels above the backbone's are pooled from the one
    below and serve proposals alone."""
    channels: int = 256
    """Of every level of the feature pyramid."""
    norm: Literal["batch", "frozen", "group"] = "group"
    """Normalisation of backbones that have one; batches of a detector are too small for statistics of their own."""
    canonical_size: float = 224.0
    """Side of a box that is pooled from level 4 (FPN, Lin et al. 2017, equation 1)."""
    rpn: RPNConfig = RPNConfig()
    box: BoxHeadConfig = BoxHeadConfig()
    mask: MaskHeadConfig = MaskHeadConfig()

    def __post_init__(self):
        super().__post_init__()
        require(len(self.class_names) >= 1 and len(set(self.class_names)) == len(self.class_names),
                "model.class_names", self.class_names, "one or more different names")
        consecutive = self.levels == tuple(range(self.levels[0], self.levels[0] + len(self.levels)))
        require(consecutive and self.levels[0] >= 1, "model.levels", self.levels, "consecutive numbers, finest first")
        stride = 2 ** min(self.levels[-1], 5)  # coarser levels are pooled, from any size
        require(all(side > 0 and side % stride == 0 for side in self.canvas), "model.canvas", self.canvas,
                f"multiples of {stride}")
        require(self.channels >= 1, "model.channels", self.channels, ">= 1")
        require(self.canonical_size > 0, "model.canonical_size", self.canonical_size, "> 0")


@dataclass(frozen=True)
class DetectionAugmentConfig:
    """Random changes of a training image together with its boxes and masks; zero or False switches one off."""

    flip: bool = True
    """Left-right and up-down, each in half of the cases."""
    scale: float = 0.25
    """Zoom by a factor in [1 - scale, 1 + scale]."""
    shift: float = 0.15
    """Largest shift as a fraction of the canvas."""
    min_visible: float = 0.3
    """Cells of which a smaller share is left on the canvas are no targets."""
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.15
    hue: float = 0.015
    """Largest turn of the hue circle, as a fraction of a full turn."""
    stain: float = 0.06
    """Standard deviation of the random gain of each stain in optical density."""
    noise: float = 0.0
    """Largest standard deviation of additive Gaussian noise, on images in [0, 1]."""
    noise_share: float = 1.0
    """Share of the images that get noise."""

    def __post_init__(self):
        for name in ("scale", "shift", "min_visible", "brightness", "contrast", "saturation", "hue", "stain", "noise"):
            require(getattr(self, name) >= 0, f"augment.{name}", getattr(self, name), ">= 0")
        require(self.scale < 1, "augment.scale", self.scale, "< 1")
        require(self.min_visible <= 1, "augment.min_visible", self.min_visible, "<= 1")
        require(0 < self.noise_share <= 1, "augment.noise_share", self.noise_share, "0 < share <= 1")


@dataclass(frozen=True)
class DetectorConfig:
    """One detection experiment on the 220 / 144 split of BCCD, or on data of one's own."""

    data: DataConfig = field(default_factory=DataConfig)
    annotations: Literal["published", "corrected"] = "corrected"
    """BCCD's boxes as published, or with the white cells that they miss (see ``wbcjax.data.corrections``)."""
    model: DetectorModelConfig = DetectorModelConfig()
    augment: DetectionAugmentConfig = DetectionAugmentConfig()
    optim: OptimConfig = OptimConfig()
    train: LoopConfig = LoopConfig(epochs=50, batch_size=32)
    weights: Path | None = None
    """Pretrained weights of the backbone; None starts from random ones."""
    cached_copies: int = 0
    """So many augmented copies of each training image go through the backbone's frozen stages once, before training,
    and an epoch is a pass over all of them. 0 augments anew and computes everything at every step."""
    folds: int = 5
    """Into how many folds the training images are cut."""
    fold: int | None = None
    """Which fold (grouped by field of view) is held out for validation; None trains on all training images."""

    def __post_init__(self):
        require_choices(self)
        require(self.folds >= 2, "folds", self.folds, ">= 2")
        require(self.cached_copies == 0 or (self.model.frozen_stages > 0 and self.cached_copies > 0), "cached_copies",
                self.cached_copies, ">= 0, and 0 without frozen stages (model.frozen_stages)")
        require(self.fold is None or 0 <= self.fold < self.folds, "fold", self.fold, f"0..{self.folds - 1} or None")
        require(self.train.patience is None or self.fold is not None, "train.patience", self.train.patience,
                "None unless a validation fold is set with --fold")
