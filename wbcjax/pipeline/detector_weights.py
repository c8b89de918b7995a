"""Weights that the training of a detector starts from, whoever wrote them."""

from pathlib import Path

from wbcjax.errors import CheckpointError
from wbcjax.models.mask_rcnn import MaskRCNN
from wbcjax.pipeline.workdir import WEIGHTS
from wbcjax.pretrained.key_table import Rule, fill
from wbcjax.pretrained.torchvision import (
    PREDICTORS,
    load_torchvision_backbone,
    load_torchvision_mask_rcnn,
    read_state,
)
from wbcjax.training.weights import is_ours, read_config

TORCHVISION_DETECTOR = "backbone.body."
"""How names of its Mask R-CNN start."""


def start_from(model: MaskRCNN, path: Path) -> MaskRCNN:
    """Fill ``model``, which is returned, with what the file holds of it, recognised by its names.

    - ``.h5``: the VGG16 of Keras, its trunk.
    - torchvision's classifier (``.pth``, ``.safetensors``): its trunk; torchvision's Mask R-CNN: all but the layers
      whose outputs are classes.
    - weights of a detector of this package, or its folder: everything, without these layers where the classes differ.

    Raises:
      CheckpointError: if the file is missing, damaged, or of another architecture.
    """
    path = path / WEIGHTS if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file; download it, or check the path given as weights")
    if path.suffix in (".h5", ".hdf5"):
        from wbcjax.pretrained.keras import load_keras_backbone

        load_keras_backbone(model.backbone, path)
    elif is_ours(path):
        start_from_ours(model, path)
    else:
        state = read_state(path)
        if any(name.startswith(TORCHVISION_DETECTOR) for name in state):
            load_torchvision_mask_rcnn(model, state, predictors=False)
        else:
            load_torchvision_backbone(model.backbone, state)
    return model


def start_from_ours(model: MaskRCNN, path: Path) -> None:
    """Fill ``model`` from a detector's run."""
    from safetensors.numpy import load_file

    rules, kept = [Rule(r"(?:params|stats)/(.*)", r"\1")], None
    if tuple(read_config(path).get("model", {}).get("class_names", ())) != model.config.class_names:
        rules, kept = [Rule(rf"params/(?:{PREDICTORS})", None), *rules], PREDICTORS
    fill(model, load_file(path), rules, str(path), kept=kept)
