"""Table 9's pretrained networks as configurations: the paper's way (frozen features, a new head) and fine-tuned.

``scale`` is ``paper`` for published sizes and all files, for an accelerator, or ``cpu`` for what two cores train in
minutes: smaller images, fewer passes. The settings were chosen on a fold of TRAIN, never on TEST.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wbcjax import config as cfg
from wbcjax.models.backbones import stage_names
from wbcjax.pipeline.presets import PRESETS, Input
from wbcjax.pretrained.source import find
from wbcjax.roi import EXPANDED

NETWORKS = ("vgg16", "resnet50", "inception_v3")
Scale = Literal["paper", "cpu"]
Protocol = Literal["frozen", "fine-tuned"]
RoiSource = Literal["color", "mask_rcnn", "oracle"]
Kind = Literal["whole", "color", "mask_rcnn", "oracle"]
"""Whole images, or where crops come from."""


@dataclass(frozen=True)
class Setting:
    """What differs between networks and scales; sizes are (height, width), passes below 1 take that share of TRAIN."""

    whole: tuple[int, int]
    roi: tuple[int, int]
    passes: float
    """Over TRAIN, on crops of the colour ROI."""
    further: float
    """Passes of other inputs, which go on from there."""
    learning_rate: float
    stage_decay: float
    """Each stage of pretrained weights learns at this times the rate of the next one."""


SETTINGS: dict[Scale, dict[str, Setting]] = {
    "paper": {
        "vgg16": Setting((224, 288), (224, 224), 20.0, 10.0, 1e-4, 0.8),
        "resnet50": Setting((224, 288), (224, 224), 20.0, 10.0, 3e-4, 0.8),
        "inception_v3": Setting((299, 384), (299, 299), 20.0, 10.0, 3e-4, 0.97),
    },
    "cpu": {
        "vgg16": Setting((96, 128), (80, 80), 0.75, 0.25, 2e-4, 0.8),
        "resnet50": Setting((96, 128), (80, 80), 2.0, 0.25, 1e-3, 0.8),
        "inception_v3": Setting((120, 160), (96, 96), 2.0, 0.5, 1e-3, 0.97),
    },
}


def weights_fields(network: str, weights: Path | None) -> dict:
    """Fields of ``ModelConfig`` that belong to the weights: preprocessing, and whose network it is."""
    if weights is None:
        return {}
    fields = find(weights, network=network).fields
    return {name: fields[name] for name in ("flavour", "preprocessing")}


def frozen_recipe(
    network: str, input: Input, weights: Path | None, *, roi_source: RoiSource = "color", scale: Scale = "cpu"
) -> cfg.ClassifierConfig:
    """The paper's protocol: the trunk as it came, and a new linear head on its pooled features, for 20 epochs."""
    size = getattr(SETTINGS[scale][network], input)
    return cfg.ClassifierConfig(
        input=input,
        roi_source=roi_source,
        roi=EXPANDED,
        model=cfg.ModelConfig(name=network, image_size=size, frozen_stages=len(stage_names(network)), dropout=0.0,
                              **weights_fields(network, weights)),
        weights=weights,
        augment=cfg.NO_AUGMENT,  # the files are augmented copies already
        cached_copies=1,
        train_share=1.0 if scale == "paper" else 1 / 3,
        optim=cfg.OptimConfig(name="adam", learning_rate=1e-3, schedule="constant", warmup=0.0, clip_norm=None,
                              ema_decay=None),
        train=cfg.TrainConfig(epochs=20, batch_size=32, label_smoothing=0.0, checkpoint_every=20),
    )


def fine_tuned_recipe(
    network: str, input: Input, weights: Path | None, *, roi_source: RoiSource = "color", scale: Scale = "cpu"
) -> cfg.ClassifierConfig:
    """The whole network trained: rates that fall from the head to the first stage, augmentation, a moving average,
    label smoothing. Whole images and other crops go on from the run on crops of the colour ROI, at half its rate."""
    setting = SETTINGS[scale][network]
    first = input == "roi" and roi_source == "color"
    passes = setting.passes if first else setting.further
    config = cfg.ClassifierConfig(
        input=input,
        roi_source=roi_source,
        roi=EXPANDED,
        model=cfg.ModelConfig(name=network, image_size=getattr(setting, input), **weights_fields(network, weights)),
        weights=weights,
        train_share=min(1.0, passes),
        optim=cfg.OptimConfig(learning_rate=setting.learning_rate * (1 if first else 0.5),
                              stage_decay=setting.stage_decay if weights else 1.0),
        train=cfg.TrainConfig(epochs=_epochs(passes), batch_size=32),
    )
    if first:
        return config
    return replace(config, pretrain=cfg.PretrainConfig(_epochs(setting.passes), setting.roi, setting.learning_rate,
                                                       min(1.0, setting.passes)))


def _epochs(passes: float) -> int:
    return max(1, round(passes))


def network_configs(
    model: str, kind: Kind, protocols: Sequence[Protocol], weights: Path | None, scale: Scale
) -> list[cfg.ClassifierConfig]:
    """A network of Table 9 on one kind of input: once for each protocol; LeNet and the custom CNNs, of which nobody
    publishes weights, once. A trunk of random weights is not frozen."""
    where = {"input": "whole"} if kind == "whole" else {"input": "roi", "roi_source": kind}
    if model not in NETWORKS:
        return [replace(PRESETS["paper"].recipe(model, where["input"]), **where)]
    recipes = {"frozen": frozen_recipe, "fine-tuned": fine_tuned_recipe}
    return [recipes[name](model, weights=weights, scale=scale, **where) for name in protocols
            if weights is not None or name != "frozen"]
