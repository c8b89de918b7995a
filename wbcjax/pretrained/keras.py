"""Keras' weights: the trunk of its VGG16, from an ``.h5`` file with or without the top.

The images that they want are preprocessed as ``caffe``.
"""

from pathlib import Path

import numpy as np

from wbcjax.errors import CheckpointError
from wbcjax.models.backbone import Backbone
from wbcjax.models.vgg import CONVS, VGG16
from wbcjax.pretrained.key_table import Rule, fill


def vgg16_rules() -> list[Rule]:
    """Rules of VGG16; Keras has named the arrays of a layer in several ways since 2016."""
    rules = [Rule(r"(?:fc\d|predictions)/.*", None)]
    for block, convs in enumerate(CONVS, 1):
        for i in range(convs):
            layer, path = rf"block{block}_conv{i + 1}/(?:.*/)?", f"block{block}/convs/{i}"
            rules += [
                Rule(rf"{layer}(?:kernel|block\d_conv\d_W_1)(?::0)?", f"{path}/kernel"),
                Rule(rf"{layer}(?:bias|block\d_conv\d_b_1)(?::0)?", f"{path}/bias"),
            ]
    return rules


def load_keras_backbone(backbone: Backbone, path: Path | str) -> Backbone:
    """Fill ``backbone``, which is returned, with the convolutions of Keras' VGG16.

    Raises:
      CheckpointError: if the backbone is another, or the file is missing, damaged, or does not hold exactly its arrays.
    """
    if not isinstance(backbone, VGG16):
        raise CheckpointError(f"{path}: weights of Keras are read into VGG16 alone, not into "
                              f"{type(backbone).__name__}: set model.backbone = 'vgg16'")
    fill(backbone, read_h5(Path(path)), vgg16_rules(), str(path))
    return backbone


def read_h5(path: Path) -> dict[str, np.ndarray]:
    """Every array of an HDF5 file by its name in the file.

    Raises:
      CheckpointError: if the file is missing or no HDF5 file.
    """
    import h5py

    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file; download it, or check the path")
    arrays = {}

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item, np.float32)

    try:
        with h5py.File(path) as file:
            file.get("model_weights", file).visititems(add)
    except (OSError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not an HDF5 file of numbers, or damaged ({error}); download it again") \
            from error
    return arrays
