"""torchvision's weights: Mask R-CNN over a ResNet (``maskrcnn_resnet50_fpn``), and the trunks of ResNet and VGG16.

    model = build_detector(DetectorModelConfig(backbone="resnet50", norm="frozen", preprocessing="imagenet", ...))
    load_torchvision_mask_rcnn(model, "maskrcnn_resnet50_fpn_coco-bf2d0c1e.pth", predictors=False)

The weights come from a ``.pth`` file (read by PyTorch, which unpickles nothing but tensors), from a ``.safetensors``
file of the same names, or from a state dict. They want images that are preprocessed as ``imagenet``.
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
from wbcjax.models.mask_rcnn import MaskRCNN
from wbcjax.models.norms import EPSILON
from wbcjax.models.vgg import CONVS, VGG16
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
    _fill(model, _with_epsilon(read_state(source), epsilon), rules, source, kept)
    return model


def load_torchvision_backbone(backbone: Backbone, source: Source) -> Backbone:
    """Fill ``backbone``, which is returned, with the trunk of torchvision's classifier of the same architecture.

    The classifier's own layers are ignored.

    Raises:
      CheckpointError: if the file cannot be read, or does not hold exactly the arrays of ``backbone``.
    """
    trunk = vgg_rules(len(backbone.block1.norms) > 0) if isinstance(backbone, VGG16) else resnet_rules()
    rules = [*trunk, Rule(r"(fc|classifier)\..*", None)]
    _fill(backbone, read_state(source), rules, source)
    return backbone


def _fill(
    module: nnx.Module, state: dict[str, np.ndarray], rules: list[Rule], source: Source, kept: str | None = None
) -> None:
    where = "the state dict" if isinstance(source, Mapping) else str(source)
    if any(name.endswith("running_mean") for name in state) and not nnx.state(module, nnx.BatchStat):
        raise CheckpointError(f"{where}: weights with batch statistics, for which this model has no place: set "
                              "model.norm to frozen, or to batch")
    fill(module, state, rules, where, kept)


def read_state(source: Source) -> dict[str, np.ndarray]:
    """The arrays of a ``.pth`` or ``.safetensors`` file, or of a state dict, by torchvision's names.

    Raises:
      CheckpointError: if the file is missing or damaged, or PyTorch is needed to read it and not installed.
    """
    state = source if isinstance(source, Mapping) else _read_file(Path(source))
    if isinstance(state.get("model"), Mapping):  # as torchvision's training scripts save it, beside the optimiser
        state = state["model"]
    return {name: _as_numpy(value) for name, value in state.items()}


def _read_file(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file; download it, or check the path")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
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


def _with_epsilon(state: dict[str, np.ndarray], epsilon: float) -> dict[str, np.ndarray]:
    """The state with scales of batch norms changed so that adding ``EPSILON`` is as adding ``epsilon`` was.

    Not the variances: some are far smaller than ``EPSILON`` and would lose their digits.
    """
    result = dict(state)
    for name, variance in state.items():
        scale = name.removesuffix("running_var") + "weight"
        if scale != name + "weight" and scale in state:
            variance = variance.astype(np.float64)
            result[scale] = (state[scale] * np.sqrt((variance + EPSILON) / (variance + epsilon))).astype(np.float32)
    return result


def _norm(pattern: str, path: str) -> list[Rule]:
    """Rules of a batch norm; its count of batches is of no use to an average with a fixed decay."""
    parts = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    return [*(Rule(rf"{pattern}\.{theirs}", f"{path}/{ours}") for theirs, ours in parts.items()),
            Rule(rf"{pattern}\.num_batches_tracked", None)]


def _layer(pattern: str, path: str, kernel: Transform) -> list[Rule]:
    """Rules of the weight and the bias of a layer."""
    return [Rule(rf"{pattern}\.weight", f"{path}/kernel", kernel), Rule(rf"{pattern}\.bias", f"{path}/bias")]


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


def vgg_rules(batch_norm: bool) -> list[Rule]:
    """Rules of VGG16's trunk: its layers are numbered, ReLU and pooling among them."""
    rules, number = [], 0
    for block, convs in enumerate(CONVS, start=1):
        for i in range(convs):
            rules += _layer(rf"features\.{number}", f"block{block}/convs/{i}", conv)
            if batch_norm:
                rules += _norm(rf"features\.{number + 1}", f"block{block}/norms/{i}")
            number += 3 if batch_norm else 2
        number += 1
    return rules


def mask_rcnn_rules(config: DetectorModelConfig) -> list[Rule]:
    """Rules of the whole detector; ``(\\.0)?`` and the like are what names became in torchvision 0.13."""
    side = config.box.pool

    def fc6(weight: np.ndarray) -> np.ndarray:
        """From features flattened as (channel, row, column) to (row, column, channel)."""
        return weight.reshape(len(weight), -1, side, side).transpose(2, 3, 1, 0).reshape(-1, len(weight))

    return [
        *resnet_rules("backbone.body.", "backbone/"),
        *_layer(r"backbone\.fpn\.inner_blocks\.(\d)(?:\.0)?", r"fpn/inner/\1", conv),
        *_layer(r"backbone\.fpn\.layer_blocks\.(\d)(?:\.0)?", r"fpn/layer/\1", conv),
        *_layer(r"rpn\.head\.conv(?:\.0\.0)?", "rpn/conv", conv),
        *_layer(r"rpn\.head\.cls_logits", "rpn/logits", conv),
        *_layer(r"rpn\.head\.bbox_pred", "rpn/deltas", conv),
        *_layer(r"roi_heads\.box_head\.fc6", "box/fc6", fc6),
        *_layer(r"roi_heads\.box_head\.fc7", "box/fc7", linear),
        *_layer(r"roi_heads\.box_predictor\.cls_score", "box/logits", linear),
        *_layer(r"roi_heads\.box_predictor\.bbox_pred", "box/deltas", linear),
        *(rule for i in range(config.mask.convs)
          for rule in _layer(rf"roi_heads\.mask_head\.(?:{i}\.0|mask_fcn{i + 1})", f"mask/convs/{i}", conv)),
        *_layer(r"roi_heads\.mask_predictor\.conv5_mask", "mask/deconv", lambda weight: weight.transpose(2, 3, 0, 1)),
        *_layer(r"roi_heads\.mask_predictor\.mask_fcn_logits", "mask/logits", lambda weight: weight[:, :, 0, 0].T),
    ]
