"""What images in [0, 1] become before a backbone: it belongs to the weights, so it is chosen with them."""

from typing import Literal

import numpy as np
from jaxtyping import Array, Float

Preprocessing = Literal["unit", "imagenet", "caffe", "symmetric"]

_MEAN_AND_STD = {
    # About zero mean and unit deviation for smears.
    "unit": ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
    # torchvision, of the ImageNet training images.
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # Keras' VGG16 and ResNet50, as they came from Caffe: 0 to 255, the mean subtracted, BGR.
    "caffe": ((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255, 1 / 255, 1 / 255)),
    # -1 to 1, as InceptionV3 was trained.
    "symmetric": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def preprocess(images: Float[Array, "*b h w 3"], name: Preprocessing) -> Float[Array, "*b h w 3"]:
    """Images, RGB in [0, 1], with mean and deviation of the named kind, and for "caffe" as BGR.

    Raises:
      KeyError: if there is no such kind.
    """
    mean, std = (np.array(values, np.float32) for values in _MEAN_AND_STD[name])
    images = (images - mean) / std
    return images[..., ::-1] if name == "caffe" else images


def describe(name: Preprocessing) -> dict:
    """The same in numbers, JSON-ready, for a file of weights: (image - mean) / std by channel of RGB in [0, 1], then
    the channels in ``order``."""
    mean, std = _MEAN_AND_STD[name]
    return {"name": name, "range": [0, 1], "mean": list(mean), "std": list(std),
            "order": "BGR" if name == "caffe" else "RGB"}
