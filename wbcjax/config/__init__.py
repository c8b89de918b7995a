"""Configuration: frozen dataclasses, one per concern, validated on construction.

An experiment is one ``ClassifierConfig`` or ``DetectorConfig`` (or a smaller piece of them); the command line overrides
any field by its dotted name. Where the paper contradicts itself or is silent, the choice is a field with a comment that
says so.
"""

from wbcjax.config.backbone import BackboneConfig
from wbcjax.config.base import fingerprint, from_dict, to_dict
from wbcjax.config.classifier import (
    NO_AUGMENT,
    AugmentConfig,
    ClassifierConfig,
    ModelConfig,
    NoiseConfig,
    PretrainConfig,
    first_stage,
)
from wbcjax.config.data import ColorRoiConfig, CropConfig, DataConfig
from wbcjax.config.denoiser import DenoiserConfig, DenoiserModelConfig
from wbcjax.config.detector import (
    BoxHeadConfig,
    DetectionAugmentConfig,
    DetectorConfig,
    DetectorModelConfig,
    MaskHeadConfig,
    RPNConfig,
)
from wbcjax.config.training import LoopConfig, MeshConfig, OptimConfig, TrainConfig

__all__ = [
    "NO_AUGMENT",
    "AugmentConfig",
    "BackboneConfig",
    "BoxHeadConfig",
    "ClassifierConfig",
    "ColorRoiConfig",
    "CropConfig",
    "DataConfig",
    "DenoiserConfig",
    "DenoiserModelConfig",
    "DetectionAugmentConfig",
    "DetectorConfig",
    "DetectorModelConfig",
    "LoopConfig",
    "MaskHeadConfig",
    "MeshConfig",
    "ModelConfig",
    "NoiseConfig",
    "OptimConfig",
    "PretrainConfig",
    "RPNConfig",
    "TrainConfig",
    "fingerprint",
    "first_stage",
    "from_dict",
    "to_dict",
]
