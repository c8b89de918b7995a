"""Backbones of detectors and classifiers: a plain dictionary from name to factory."""

import functools
from collections.abc import Callable

from wbcjax.models.backbone import Backbone
from wbcjax.models.compact import Compact
from wbcjax.models.inception import InceptionV3
from wbcjax.models.resnet import BasicBlock, Bottleneck, ResNet
from wbcjax.models.vgg import VGG16

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "compact": Compact,
    "inception_v3": InceptionV3,
    "resnet18": functools.partial(ResNet, block=BasicBlock, depths=(2, 2, 2, 2)),
    "resnet34": functools.partial(ResNet, block=BasicBlock, depths=(3, 4, 6, 3)),
    "resnet50": functools.partial(ResNet, block=Bottleneck, depths=(3, 4, 6, 3)),
    "resnet101": functools.partial(ResNet, block=Bottleneck, depths=(3, 4, 23, 3)),
    "vgg16": VGG16,
    "vgg16_bn": functools.partial(VGG16, batch_norm=True),
}
"""(config, rngs=...) -> backbone."""


def stage_names(name: str) -> tuple[str, ...]:
    """Where the paths of each stage's parameters start, of the backbone called so."""
    factory = BACKBONES[name]
    return getattr(factory, "func", factory).stage_names
