"""Keras' weights of its VGG16, ResNet50 (and deeper) and InceptionV3: whole classifiers, or the trunk of a detector.

    model = build(ModelConfig("resnet50", flavour="keras", preprocessing="caffe"))
    load_keras_classifier(model, "resnet50_weights_tf_dim_ordering_tf_kernels.h5", head=False)

The images that they want are preprocessed as ``caffe``, those of InceptionV3 as ``symmetric``.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from wbcjax.errors import CheckpointError
from wbcjax.models.backbone import Backbone
from wbcjax.models.backbone_classifier import BackboneClassifier
from wbcjax.models.inception import InceptionV3
from wbcjax.models.resnet import Bottleneck, ResNet
from wbcjax.models.vgg import CONVS, VGG16
from wbcjax.pretrained.heads import epsilon_of, fill_classifier, require_flavour, with_epsilon
from wbcjax.pretrained.keras_file import NORM, read_keras
from wbcjax.pretrained.keras_inception import canonical, inception_rules
from wbcjax.pretrained.key_table import Rule, fill

Source = str | Path | Mapping[str, np.ndarray]

EPSILON = 1.001e-5
"""What ResNet50's batch norms add to the variance."""
TOP = {"fc1": "hidden/0", "fc2": "hidden/1", "predictions": "classifier"}
"""Our paths of the dense layers of all three networks; the features are flattened in the same order."""


def load_keras_classifier(model: BackboneClassifier, source: Source, *, head: bool = True) -> BackboneClassifier:
    """Fill ``model``, which is returned, with the weights of Keras' classifier of the same architecture.

    VGG16 has its top where ``pool="dense"``. ResNet50 and InceptionV3 want ``flavour="keras"``.

    Args:
      source: a file, ``.h5`` of weights or of a whole model, ``.weights.h5`` or ``.keras``; or the arrays of a model in
        memory, ``{weight.path: weight.numpy() for weight in model.weights}``.
      head: False leaves the layer whose outputs are classes as it is, to train for other classes, as for files without
        top. VGG16's two dense layers are loaded where both have them.

    Raises:
      CheckpointError: if the file is missing, damaged, or does not hold exactly the arrays of ``model``.
    """
    where = _name_of(source)
    rules = keras_rules(model.backbone, where)
    fill_classifier(model, _prepared(source, model.backbone), rules, where, head)
    return model


def load_keras_backbone(backbone: Backbone, source: Source) -> Backbone:
    """Fill ``backbone``, which is returned, with the trunk of Keras' classifier of the same architecture.

    The classifier's own layers are ignored; sources are those of ``load_keras_classifier``.

    Raises:
      CheckpointError: if the file is missing, damaged, or does not hold exactly the arrays of ``backbone``.
    """
    where = _name_of(source)
    rules = [*trunk_rules(backbone, where), Rule(f"(?:{'|'.join(TOP)})/.*", None)]
    fill(backbone, _prepared(source, backbone), rules, where)
    return backbone


def keras_rules(backbone: Backbone, where: str = "") -> list[Rule]:
    """Rules of a whole classifier over ``backbone``; arguments and errors are those of ``trunk_rules``."""
    return [*trunk_rules(backbone, where, "backbone/"), *_dense(TOP)]


def trunk_rules(backbone: Backbone, where: str, path: str = "") -> list[Rule]:
    """Rules of the trunk of Keras' classifier of the same architecture, for prepared arrays.

    Args:
      where: the source, for messages.
      path: how our paths start.

    Raises:
      CheckpointError: if Keras has no such network, or another flavour of it.
    """
    require_flavour(backbone, "keras", where)
    match backbone:
        case VGG16() if not backbone.block1.norms:
            return vgg16_rules(path)
        case InceptionV3():
            return inception_rules(path)
        case ResNet() if backbone.expansion == Bottleneck.expansion:
            return resnet_rules(backbone, path)
    raise CheckpointError(f"{where}: no weights of Keras are read into this {type(backbone).__name__}: set model.name, "
                          "or a detector's model.backbone, to resnet50, resnet101, vgg16 or inception_v3")


def _name_of(source: Source) -> str:
    return "the arrays" if isinstance(source, Mapping) else str(source)


def _prepared(source: Source, backbone: Backbone) -> dict[str, np.ndarray]:
    """The arrays with names and values that the rules can take one by one."""
    arrays = dict(source) if isinstance(source, Mapping) else read_keras(Path(source))
    if isinstance(backbone, InceptionV3):
        return canonical(arrays, _name_of(source))
    if isinstance(backbone, ResNet):
        arrays = with_epsilon(arrays, EPSILON, epsilon_of(backbone), var="moving_variance", scale="gamma")
        return without_biases(arrays)
    return arrays


def without_biases(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Biases of convolutions that a batch norm follows, moved into its mean."""
    result = dict(arrays)
    for name, bias in arrays.items():
        mean = name.removesuffix("conv/bias") + "bn/moving_mean"
        if name.endswith("_conv/bias") and mean in arrays and arrays[mean].shape == bias.shape:
            result[mean] = arrays[mean] - result.pop(name)
    return result


def vgg16_rules(path: str = "") -> list[Rule]:
    """Rules of VGG16's convolutions; our paths start with ``path``."""
    return _dense({f"block{block}_conv{i + 1}": f"{path}block{block}/convs/{i}"
                   for block, convs in enumerate(CONVS, 1) for i in range(convs)})


def resnet_rules(backbone: ResNet, path: str = "") -> list[Rule]:
    """Rules of a ResNet's trunk, after ``without_biases``; our paths start with ``path``."""
    rules = [Rule("conv1_conv/kernel", f"{path}stem/conv1/kernel"), *_norm("conv1_bn", f"{path}stem/bn1")]
    for number in range(1, 5):
        for i in range(len(getattr(backbone, f"layer{number}"))):
            theirs, ours = f"conv{number + 1}_block{i + 1}", f"{path}layer{number}/{i}"
            rules += [Rule(rf"{theirs}_([123])_conv/kernel", rf"{ours}/conv\1/kernel"),
                      Rule(rf"{theirs}_0_conv/kernel", f"{ours}/downsample_conv/kernel"),
                      *_norm(rf"{theirs}_([123])_bn", rf"{ours}/bn\1"),
                      *_norm(f"{theirs}_0_bn", f"{ours}/downsample_bn")]
    return rules


def _norm(theirs: str, path: str) -> list[Rule]:
    return [Rule(f"{theirs}/{part}", f"{path}/{ours}") for part, ours in NORM.items()]


def _dense(layers: dict[str, str]) -> list[Rule]:
    """Rules of the kernel and the bias of each layer."""
    return [Rule(f"{layer}/{part}", f"{path}/{part}") for layer, path in layers.items() for part in ("kernel", "bias")]
