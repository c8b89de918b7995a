"""The detection experiments as configurations: Mask R-CNN on three backbones, for a GPU and for a CPU.

The paper trains Mask R-CNN on VGG16 and ResNet50 with Adam, for 50 epochs in batches of 32. Its settings at full
resolution take an accelerator. The CPU settings halve the canvas and keep the backbone's lower stages as they are, and
``compact`` is a small network for smears alone, of which cells are large and few.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from wbcjax import config as cfg

DetectorName = Literal["vgg16", "resnet50", "compact"]
PresetName = Literal["cpu", "paper"]

SMALL = (256, 320)
"""Canvas of the CPU settings: images of 480×640 take 240×320 of it, and its sides are multiples of the stride 32."""
LEVELS = {"vgg16": (2, 3, 4, 5), "resnet50": (2, 3, 4, 5, 6)}
"""Pyramid levels; those of VGG16 have the strides 4 to 32 of its last four pooling layers."""


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
    """A quarter of the pixels, fewer proposals, and pretrained lower stages kept as they are: hours on two cores."""
    model = _model(backbone, weights, canvas=SMALL)
    model = replace(
        model,
        canonical_size=112.0,  # half the canvas: boxes come from the levels that they come from at its full size
        frozen_stages=0 if weights is None else 3,
        rpn=cfg.RPNConfig(anchor_scales=(3.0, 4.5), pre_nms=200, post_nms=64, sample=128),
        box=cfg.BoxHeadConfig(hidden=256, sample=32, max_detections=16),
        mask=cfg.MaskHeadConfig(channels=64, convs=2),
        channels=64,
    )
    return cfg.DetectorConfig(
        model=model,
        optim=cfg.OptimConfig(learning_rate=5e-4),
        train=cfg.LoopConfig(epochs=30, batch_size=8),
        weights=weights,
    )


def compact() -> cfg.DetectorConfig:
    """A small network from random weights: minutes on one core to train, milliseconds an image to run."""
    return cfg.DetectorConfig(
        model=cfg.DetectorModelConfig(
            backbone="compact",
            canvas=SMALL,
            levels=(3, 4, 5),
            channels=64,
            norm="batch",
            canonical_size=112.0,
            rpn=cfg.RPNConfig(anchor_scales=(3.0, 4.5), pre_nms=200, post_nms=64, sample=128),
            box=cfg.BoxHeadConfig(hidden=256, sample=32, max_detections=16),
            mask=cfg.MaskHeadConfig(channels=64, convs=2),
        ),
        optim=cfg.OptimConfig(name="adamw", learning_rate=2e-3, schedule="cosine", ema_decay=0.99),
        train=cfg.LoopConfig(epochs=100, batch_size=16),
    )


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
