"""Images in: sources, provenance, splits, checks. See each module."""

from wbcjax.data.coco import coco
from wbcjax.data.corrections import corrected
from wbcjax.data.detection_folder import detection_folder
from wbcjax.data.folders import class_folders
from wbcjax.data.images import load_images, read_image
from wbcjax.data.instances import DetectionArrays, detection_arrays
from wbcjax.data.kaggle import kaggle, originals
from wbcjax.data.mask_sources import with_masks
from wbcjax.data.sets import ClassificationSet, DetectionSet
from wbcjax.data.voc import voc

__all__ = [
    "ClassificationSet",
    "DetectionArrays",
    "DetectionSet",
    "class_folders",
    "coco",
    "corrected",
    "detection_arrays",
    "detection_folder",
    "kaggle",
    "load_images",
    "originals",
    "read_image",
    "voc",
    "with_masks",
]
