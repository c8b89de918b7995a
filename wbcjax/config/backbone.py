"""What classifiers and detectors over a backbone share."""

from dataclasses import dataclass
from typing import Literal

from wbcjax.config.base import require, require_choices


@dataclass(frozen=True)
class BackboneConfig:
    """How a backbone normalises, what it takes, and how much of it is trained."""

    norm: Literal["batch", "frozen", "group"] = "batch"
    """Normalisation of backbones that have one: batch statistics, fixed ones (with pretrained weights), or groups."""
    preprocessing: Literal["unit", "imagenet", "caffe", "symmetric"] = "unit"
    """What images in [0, 1] become before the network: ``unit`` (x - 0.5) / 0.25, ``imagenet`` torchvision's mean and
    deviation, ``caffe`` Keras' for VGG16 and ResNet50 (BGR, 0 to 255, mean subtracted), ``symmetric`` -1 to 1, for
    InceptionV3. It belongs to the weights."""
    flavour: Literal["torchvision", "keras"] = "torchvision"
    """Whose weights, where published networks differ: in Keras the stride of a bottleneck of ResNet lies in its first
    1×1 convolution, and average pooling in InceptionV3 leaves the padding out of its count."""
    frozen_stages: int = 0
    """So many of the backbone's first stages keep their initial weights."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the computation; parameters, logits and losses stay float32."""

    def __post_init__(self):
        require_choices(self, "model.")
        require(self.frozen_stages >= 0, "model.frozen_stages", self.frozen_stages, ">= 0")
