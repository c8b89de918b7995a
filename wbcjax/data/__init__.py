"""Images in: sources, provenance, splits, checks. See each module."""

from wbcjax.data.coco import coco
from wbcjax.data.folders import class_folders
from wbcjax.data.images import load_images, read_image
from wbcjax.data.kaggle import kaggle, originals
from wbcjax.data.sets import ClassificationSet, DetectionSet
from wbcjax.data.voc import voc

__all__ = [
    "ClassificationSet",
    "DetectionSet",
    "class_folders",
    "coco",
    "kaggle",
    "load_images",
    "originals",
    "read_image",
    "voc",
]
