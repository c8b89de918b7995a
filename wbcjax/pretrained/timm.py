"""timm's weights of its ResNets, VGG16 and InceptionV3, whose trunks have torchvision's names.

    model = build(ModelConfig("inception_v3", preprocessing="symmetric"))
    load_timm_classifier(model, "model.safetensors", head=False)

The images that they want are preprocessed as ``imagenet``, those of InceptionV3 as ``symmetric``; for some, as its
``pretrained_cfg`` tells, otherwise.
"""

from wbcjax.models.backbone import Backbone
from wbcjax.models.backbone_classifier import DENSE_SIDE, BackboneClassifier
from wbcjax.models.vgg import VGG16
from wbcjax.pretrained.key_table import Rule, linear
from wbcjax.pretrained.torchvision import (
    Source,
    flattened,
    layer,
    load_classifier,
    name_of,
    torchvision_rules,
    trunk_rules,
)


def load_timm_classifier(
    model: BackboneClassifier, source: Source, *, head: bool = True, epsilon: float | None = None
) -> BackboneClassifier:
    """Fill ``model``, which is returned, with the weights of timm's classifier of the same architecture.

    Arguments and errors are those of ``load_torchvision_classifier``. On maps larger than 7×7, those of images of 256
    pixels and more, timm's VGG16 averages over what its dense layers make of every window of 7×7; ours averages the map
    to 7×7 first, as torchvision does.
    """
    return load_classifier(model, source, timm_rules(model.backbone, name_of(source)), head, epsilon)


def timm_rules(backbone: Backbone, where: str = "") -> list[Rule]:
    """As ``torchvision_rules``; the dense layers of VGG16 are convolutions of 7×7 and 1×1 here."""
    if not isinstance(backbone, VGG16):
        return torchvision_rules(backbone, where)
    return [*trunk_rules(backbone, where, "backbone/"),
            *layer(r"pre_logits\.fc1", "hidden/0", flattened(DENSE_SIDE)),
            *layer(r"pre_logits\.fc2", "hidden/1", flattened(1)),
            *layer(r"head\.fc", "classifier", linear)]
