"""Image classifiers and detectors as NNX modules: plain dictionaries from name to class, and builders."""

from flax import nnx

from wbcjax.config import ModelConfig
from wbcjax.errors import ConfigError
from wbcjax.models.backbone_classifier import BackboneClassifier
from wbcjax.models.backbones import BACKBONES
from wbcjax.models.capsule import CapsuleNet
from wbcjax.models.classifier import Classifier, parameter_count
from wbcjax.models.custom import CustomCNN1, CustomCNN2
from wbcjax.models.double_conv import DoubleConvNet
from wbcjax.models.lenet import LeNet
from wbcjax.models.mask_rcnn import MaskRCNN, build_detector

MODELS: dict[str, type[Classifier]] = {
    "lenet": LeNet, "custom1": CustomCNN1, "custom2": CustomCNN2, "double_conv": DoubleConvNet, "capsule": CapsuleNet,
    **dict.fromkeys(BACKBONES, BackboneClassifier),
}


def build(config: ModelConfig, seed: int = 0) -> Classifier:
    """The model of ``config`` with parameters drawn from ``seed``, built under jit (eager building is slow).

    Raises:
      ConfigError: if there is no model of that name, or it cannot be what the config says.
    """
    if config.name not in MODELS:
        raise ConfigError(f"model.name = {config.name!r} is unknown; the models are: {', '.join(sorted(MODELS))}")
    return nnx.jit(lambda: MODELS[config.name](config, rngs=nnx.Rngs(seed)))()


__all__ = ["MODELS", "BackboneClassifier", "CapsuleNet", "Classifier", "CustomCNN1", "CustomCNN2", "DoubleConvNet",
           "LeNet", "MaskRCNN", "build", "build_detector", "parameter_count"]
