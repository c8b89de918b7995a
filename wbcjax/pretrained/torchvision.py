"""torchvision's weights: its classifiers ResNet, VGG16 and InceptionV3, whole or as the trunk of a detector, and its
Mask R-CNN over a ResNet (``maskrcnn_resnet50_fpn``).

    model = build(ModelConfig("resnet50", preprocessing="imagenet"))
    load_torchvision_classifier(model, "resnet50-0676ba61.pth", head=False)

    model = build_detector(DetectorModelConfig(backbone="resnet50", norm="frozen", preprocessing="imagenet", ...))
    load_torchvision_mask_rcnn(model, "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", predictors=False)

The weights come from a ``.pth`` file (read by PyTorch, which unpickles nothing but tensors), from a ``.safetensors``
file of the same names, or from a state dict. They want images that are preprocessed as ``imagenet``, but those of
InceptionV3 as ``symmetric``.
"""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from wbcjax.config import DetectorModelConfig
from wbcjax.errors import CheckpointError
from wbcjax.models.backbone import Backbone
from wbcjax.models.backbone_classifier import DENSE_SIDE, BackboneClassifier
from wbcjax.models.inception import InceptionV3
from wbcjax.models.mask_rcnn import MaskRCNN
from wbcjax.models.norms import EPSILON
from wbcjax.models.resnet import ResNet
from wbcjax.models.vgg import CONVS, VGG16
from wbcjax.pretrained.heads import epsilon_of, fill_classifier, require_flavour, with_epsilon
from wbcjax.pretrained.key_table import Rule, Transform, conv, fill, linear

Source = str | Path | Mapping[str, Any]

PREDICTORS = r"box/(logits|deltas)/.*|mask/logits/.*"
"""Our paths of the layers whose outputs are classes."""


def load_torchvision_mask_rcnn(
    model: MaskRCNN, source: Source, *, predictors: bool = True, epsilon: float = 0.0
) -> MaskRCNN:
    """Fill ``model``, which is returned, with the weights of torchvision's Mask R-CNN over a ResNet.

    Some layers got other names in torchvision 0.13; the old ones, which the published weights have, are known too.

    Args:
      predictors: False leaves the layers whose outputs are classes as they are, to train for other classes.
      epsilon: what the source's batch norms add to the variance. 0 is right for the published weights
        (``MaskRCNN_ResNet50_FPN_Weights.COCO_V1``, for which torchvision sets it to that), 1e-5 for one's own model.

    Raises:
      CheckpointError: if the file cannot be read, or does not hold exactly the arrays of ``model``.
    """
    rules = mask_rcnn_rules(model.config)
    kept = None
    if not predictors:
        kept = PREDICTORS
        rules = [Rule(r"roi_heads\.box_predictor\..*|roi_heads\.mask_predictor\.mask_fcn_logits\..*", None), *rules]
    require_flavour(model.backbone, "torchvision", name_of(source))
    state = with_epsilon(read_state(source), epsilon, EPSILON)
    _require_statistics(model, state, name_of(source))
    fill(model, state, rules, name_of(source), kept)
    return model


def load_torchvision_backbone(backbone: Backbone, source: Source) -> Backbone:
    """Fill ``backbone``, which is returned, with the trunk of torchvision's classifier of the same architecture.

    The classifier's own layers are ignored.

    Raises:
      CheckpointError: if the file cannot be read, or does not hold exactly the arrays of ``backbone``.
    """
    where = name_of(source)
    rules = [*trunk_rules(backbone, where), Rule(r"(fc|classifier|AuxLogits)\..*", None)]
    state = read_state(source)
    _require_statistics(backbone, state, where)
    fill(backbone, state, rules, where)
    return backbone


def load_torchvision_classifier(
    model: BackboneClassifier, source: Source, *, head: bool = True, epsilon: float | None = None
) -> BackboneClassifier:
    """Fill ``model``, which is returned, with the weights of torchvision's classifier of the same architecture.

    ResNets, VGG16 with ``pool="dense"``, its published head, or with another and ``head=False``, and InceptionV3, whose
    auxiliary head is ignored if ``model`` has none.

    Args:
      head: False leaves the layers whose outputs are classes as they are, to train for other classes. VGG16's two dense
        layers and InceptionV3's auxiliary head are loaded up to there where both have them.
      epsilon: what the source's batch norms add to the variance; None is right for the published weights: 1e-3 for
        InceptionV3, 1e-5 for all others.

    Raises:
      CheckpointError: if the file cannot be read, or does not hold exactly the arrays of ``model``.
    """
    return load_classifier(model, source, torchvision_rules(model.backbone, name_of(source)), head, epsilon)


def load_classifier(
    model: BackboneClassifier, source: Source, rules: list[Rule], head: bool, epsilon: float | None
) -> BackboneClassifier:
    """As ``load_torchvision_classifier``, with the rules of a network of PyTorch."""
    where, ours = name_of(source), epsilon_of(model.backbone)
    state = with_epsilon(read_state(source), ours if epsilon is None else epsilon, ours)
    _require_statistics(model, state, where)
    fill_classifier(model, state, rules, where, head)
    return model


def name_of(source: Source) -> str:
    """The source, for messages."""
    return "the state dict" if isinstance(source, Mapping) else str(source)


def _require_statistics(module: nnx.Module, state: Mapping[str, np.ndarray], where: str) -> None:
    if any(name.endswith("running_mean") for name in state) and not nnx.state(module, nnx.BatchStat):
        raise CheckpointError(f"{where}: weights with batch statistics, for which this model has no place: set "
                              "model.norm to frozen, or to batch")


def read_state(source: Source) -> dict[str, np.ndarray]:
    """The arrays of a ``.pth`` or ``.safetensors`` file, or of a state dict, by torchvision's names.

    Raises:
      CheckpointError: if the file is missing or damaged, or PyTorch is needed to read it and not installed.
    """
    state = source if isinstance(source, Mapping) else _read_file(Path(source))
    for key in ("model", "state_dict"):  # as training scripts of torchvision and timm save it, beside the optimiser
        if isinstance(state.get(key), Mapping):
            state = state[key]
    return {name: _as_numpy(value) for name, value in state.items()}


def _read_file(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file; download it, or check the path")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # no such type
            raise CheckpointError(f"{path}: not a safetensors file, or damaged ({error}); copy it again") from error
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"{path}: PyTorch is needed to read it: pip install torch, or convert it once where there is one: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), 'weights.safetensors')") from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path}: not a PyTorch file of tensors alone, or damaged; copy it again ({error})") \
            from error


def _as_numpy(value: Any) -> np.ndarray:
    """An array, or a PyTorch tensor of any type and device, as NumPy's."""
    return value.detach().cpu().float().numpy() if hasattr(value, "detach") else np.asarray(value)


def flattened(side: int) -> Transform:
    """For a dense layer on maps of ``side`` × ``side`` pixels, or a convolution of that size without padding: from
    features flattened as (channel, row, column) to (row, column, channel)."""
    return lambda weight: weight.reshape(len(weight), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(weight))


def _norm(pattern: str, path: str) -> list[Rule]:
    """Rules of a batch norm; its count of batches is of no use to an average with a fixed decay."""
    parts = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    return [*(Rule(rf"{pattern}\.{theirs}", f"{path}/{ours}") for theirs, ours in parts.items()),
            Rule(rf"{pattern}\.num_batches_tracked", None)]


def layer(pattern: str, path: str, kernel: Transform) -> list[Rule]:
    """Rules of the weight and the bias of a layer."""
    return [Rule(rf"{pattern}\.weight", f"{path}/kernel", kernel), Rule(rf"{pattern}\.bias", f"{path}/bias")]


def trunk_rules(backbone: Backbone, where: str, path: str = "") -> list[Rule]:
    """Rules of the trunk of torchvision's classifier of the same architecture.

    Args:
      where: the source, for messages.
      path: how our paths start.

    Raises:
      CheckpointError: if torchvision has no such network, or another flavour of it.
    """
    require_flavour(backbone, "torchvision", where)
    match backbone:
        case VGG16():
            return vgg_rules(len(backbone.block1.norms) > 0, path)
        case InceptionV3():
            return inception_rules(path=path)
        case ResNet():
            return resnet_rules(path=path)
    raise CheckpointError(f"{where}: no weights of torchvision or timm are read into {type(backbone).__name__}; "
                          "resnet18, 34, 50 and 101, vgg16, vgg16_bn and inception_v3 have some")


def torchvision_rules(backbone: Backbone, where: str = "") -> list[Rule]:
    """Rules of a whole classifier over ``backbone``; arguments and errors are those of ``trunk_rules``."""
    return [*trunk_rules(backbone, where, "backbone/"), *head_rules(backbone)]


def head_rules(backbone: Backbone) -> list[Rule]:
    """Rules of what follows the trunk."""
    if isinstance(backbone, VGG16):
        return [*layer(r"classifier\.0", "hidden/0", flattened(DENSE_SIDE)),
                *layer(r"classifier\.3", "hidden/1", linear), *layer(r"classifier\.6", "classifier", linear)]
    aux = inception_aux_rules() if isinstance(backbone, InceptionV3) else []
    return [*aux, *layer("fc", "classifier", linear)]


def resnet_rules(prefix: str = "", path: str = "") -> list[Rule]:
    """Rules of a ResNet's trunk, whose names start with ``prefix`` and whose paths here with ``path``."""
    prefix = re.escape(prefix)
    block, ours = rf"{prefix}layer(\d)\.(\d+)", rf"{path}layer\1/\2"
    return [
        Rule(rf"{prefix}conv1\.weight", f"{path}stem/conv1/kernel", conv),
        *_norm(rf"{prefix}bn1", f"{path}stem/bn1"),
        Rule(rf"{block}\.conv(\d)\.weight", rf"{ours}/conv\3/kernel", conv),
        *_norm(rf"{block}\.bn(\d)", rf"{ours}/bn\3"),
        Rule(rf"{block}\.downsample\.0\.weight", rf"{ours}/downsample_conv/kernel", conv),
        *_norm(rf"{block}\.downsample\.1", rf"{ours}/downsample_bn"),
    ]


def vgg_rules(batch_norm: bool, path: str = "") -> list[Rule]:
    """Rules of VGG16's trunk: its layers are numbered, ReLU and pooling among them."""
    rules, number = [], 0
    for block, convs in enumerate(CONVS, start=1):
        for i in range(convs):
            rules += layer(rf"features\.{number}", f"{path}block{block}/convs/{i}", conv)
            if batch_norm:
                rules += _norm(rf"features\.{number + 1}", f"{path}block{block}/norms/{i}")
            number += 3 if batch_norm else 2
        number += 1
    return rules


def inception_rules(prefix: str = "", path: str = "") -> list[Rule]:
    """Rules of InceptionV3 without its classifiers, whose names start with ``prefix`` and whose paths here with
    ``path``."""
    prefix, rules = re.escape(prefix), []
    for theirs, ours in ((r"Conv2d_(\d\w)_\dx\d", r"conv_\1"), (r"Mixed_(\d\w)\.(branch\w+)", r"mixed_\1/\2")):
        rules += _basic_conv(prefix + theirs, path + ours)
    return rules


def inception_aux_rules(prefix: str = "AuxLogits.", path: str = "aux/") -> list[Rule]:
    """Rules of InceptionV3's auxiliary classifier."""
    prefix = re.escape(prefix)
    return [*_basic_conv(rf"{prefix}conv(\d)", rf"{path}conv\1"), *layer(rf"{prefix}fc", f"{path}logits", linear)]


def _basic_conv(pattern: str, path: str) -> list[Rule]:
    return [Rule(rf"{pattern}\.conv\.weight", f"{path}/conv/kernel", conv), *_norm(rf"{pattern}\.bn", f"{path}/bn")]


def mask_rcnn_rules(config: DetectorModelConfig) -> list[Rule]:
    """Rules of the whole detector; ``(\\.0)?`` and the like are what names became in torchvision 0.13."""
    return [
        *resnet_rules("backbone.body.", "backbone/"),
        *layer(r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?", r"fpn/inner/\1", conv),
        *layer(r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?", r"fpn/layer/\1", conv),
        *layer(r"rpn\.head\.conv(?:\.0\.0)?", "rpn/conv", conv),
        *layer(r"rpn\.head\.cls_logits", "rpn/logits", conv),
        *layer(r"rpn\.head\.bbox_pred", "rpn/deltas", conv),
        *layer(r"roi_heads\.box_head\.fc6", "box/fc6", flattened(config.box.pool)),
        *layer(r"roi_heads\.box_head\.fc7", "box/fc7", linear),
        *layer(r"roi_heads\.box_predictor\.cls_score", "box/logits", linear),
        *layer(r"roi_heads\.box_predictor\.bbox_pred", "box/deltas", linear),
        *(rule for i in range(config.mask.convs)
          for rule in layer(rf"roi_heads\.mask_head\.(?:{i}\.0|mask_fcn{i + 1})", f"mask/convs/{i}", conv)),
        *layer(r"roi_heads\.mask_predictor\.conv5_mask", "mask/deconv", lambda weight: weight.transpose(2, 3, 0, 1)),
        *layer(r"roi_heads\.mask_predictor\.mask_fcn_logits", "mask/logits", lambda weight: weight[:, :, 0, 0].T),
    ]
