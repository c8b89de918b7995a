"""The detection experiments as configurations: Mask R-CNN on three backbones, for a GPU and for a CPU.

The paper trains Mask R-CNN on VGG16 and ResNet50 with Adam, for 50 epochs in batches of 32. Its settings at full
resolution take an accelerator. The CPU settings shrink the canvas and keep the lower stages of a pretrained backbone,
and ``compact`` is a small network for smears alone, of which cells are large and few.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from wbcjax import config as cfg
from wbcjax.typing import DETECTION_CLASS_NAMES

DetectorName = Literal["vgg16", "resnet50", "compact"]
PresetName = Literal["cpu", "paper"]

LEVELS = {"vgg16": (2, 3, 4, 5), "resnet50": (2, 3, 4, 5, 6)}
"""Pyramid levels, from stride 4 on, of the paper's settings."""
FROZEN = {"vgg16": 4, "resnet50": 3}
"""Stages of a pretrained backbone up to stride 8, which the CPU settings keep."""


def paper_settings(backbone: str, weights: Path | None = None) -> cfg.DetectorConfig:
    """Adam, 50 epochs in batches of 32, at the images' own 480×640 pixels.

    The paper states no learning rate; ``weights`` are the backbone's pretrained ones.
    """
    return cfg.DetectorConfig(
        model=_model(backbone, weights, canvas=(480, 640)),
        optim=cfg.OptimConfig(name="adam", learning_rate=1e-4, weight_decay=0.0),
        train=cfg.LoopConfig(epochs=50, batch_size=32),
        weights=weights,
    )


def cpu_settings(backbone: str, weights: Path | None = None) -> cfg.DetectorConfig:
    """A sixth of the pixels, narrow heads, few proposals: half an hour to an hour on one core.

    A pretrained backbone keeps its stages up to stride 8, through which eight augmented copies of each image go once; 6
    epochs are then 48 passes over the images. Without weights everything is trained, in 15 passes.
    """
    model = replace(
        _model(backbone, weights, canvas=(192, 256)),
        levels=(3, 4, 5),
        channels=64,
        canonical_size=90.0,  # in proportion to the canvas: boxes come from the levels that they come from at full size
        frozen_stages=0 if weights is None else FROZEN[backbone],
        rpn=cfg.RPNConfig(anchor_scales=(3.0, 4.5), pre_nms=200, post_nms=64, sample=64),
        box=cfg.BoxHeadConfig(hidden=256, sample=32, max_detections=16),
        mask=cfg.MaskHeadConfig(channels=64, convs=2),
    )
    return cfg.DetectorConfig(
        model=model,
        optim=cfg.OptimConfig(learning_rate=5e-4 if weights is None else 2e-4),
        train=cfg.LoopConfig(epochs=15 if weights is None else 6, batch_size=8),
        weights=weights,
        cached_copies=0 if weights is None else 8,
    )


def compact() -> cfg.DetectorConfig:
    """A small network from random weights: a quarter of an hour on one core to train, milliseconds an image to run."""
    return cfg.DetectorConfig(
        model=cfg.DetectorModelConfig(
            backbone="compact",
            canvas=(288, 384),
            levels=(3, 4, 5),
            channels=64,
            norm="batch",
            canonical_size=135.0,
            rpn=cfg.RPNConfig(anchor_scales=(3.0, 4.5), pre_nms=200, post_nms=64, sample=64),
            box=cfg.BoxHeadConfig(hidden=256, sample=32, max_detections=16),
            mask=cfg.MaskHeadConfig(channels=64, convs=2),
        ),
        augment=cfg.DetectionAugmentConfig(scale=0.15),
        optim=cfg.OptimConfig(learning_rate=2e-3),
        train=cfg.LoopConfig(epochs=80, batch_size=8),
    )


def compact_all_classes() -> cfg.DetectorConfig:
    """The compact network for white cells, red cells and platelets, of which an image holds a dozen and more."""
    config = compact()
    model = replace(
        config.model,
        class_names=DETECTION_CLASS_NAMES,
        box=replace(config.model.box, sample=64, max_detections=48),
    )
    return replace(config, model=model, train=replace(config.train, epochs=30))


PRESETS: dict[str, Callable[[str, Path | None], cfg.DetectorConfig]] = {"cpu": cpu_settings, "paper": paper_settings}


def detector_config(name: DetectorName, preset: PresetName = "cpu", weights: Path | None = None) -> cfg.DetectorConfig:
    """The setting of one detector; that of ``compact`` is the same in every preset, and takes no weights."""
    return compact() if name == "compact" else PRESETS[preset](name, weights)


def _model(backbone: str, weights: Path | None, canvas: tuple[int, int]) -> cfg.DetectorModelConfig:
    """Normalisation and preprocessing belong to the weights: Keras' of VGG16, torchvision's of ResNet50."""
    pretrained = {"vgg16": {"preprocessing": "caffe"}, "resnet50": {"preprocessing": "imagenet", "norm": "frozen"}}
    return cfg.DetectorModelConfig(
        backbone=backbone, canvas=canvas, levels=LEVELS[backbone], **({} if weights is None else pretrained[backbone])
    )
