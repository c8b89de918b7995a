"""A trained run on new images: the class, its probabilities, and the box that was looked at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import numpy as np
from flax import nnx
from jaxtyping import Float, UInt8

from wbcjax import config as cfg
from wbcjax.data.images import read_image, resize
from wbcjax.errors import ConfigError, DataError
from wbcjax.pipeline.confidence import confidence_of
from wbcjax.pipeline.detector import Detector
from wbcjax.pipeline.inputs import FILE_SIZE
from wbcjax.pipeline.runs import class_names_of, load_run
from wbcjax.pipeline.workdir import detector_weights, with_detector
from wbcjax.roi import color_roi, crop
from wbcjax.training import predict_logits, split
from wbcjax.typing import Box, Image

Resized = UInt8[np.ndarray, "new_height new_width 3"]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What a run says of one image."""

    class_name: str
    probabilities: dict[str, float]
    """By class. Of a sigmoid or margin head each stands for itself, so they need not sum to 1."""
    box: Box | None
    """The region that was classified, xyxy in pixels of the image; None where the whole image was."""
    missed: bool
    """The run classifies regions and found none: the whole image stood in."""
    candidates: tuple[str, ...] | None = None
    """Classes, the likeliest first, of which one is the true one with the probability that the run's ``confidence``
    promises for images like those that it was trained on; None where the run was not calibrated."""


class Run:
    """A trained run, ready for images."""

    def __init__(
        self,
        path: Path | str,
        *,
        detector: Path | str | None = None,
        roi_source: Literal["color", "mask_rcnn"] | None = None,
    ):
        """Load a run's folder, or its weights file.

        Args:
          detector: weights file or run folder of the Mask R-CNN that crops come from; the packaged one need not be
            given.
          roi_source: where crops come from instead of where they came from in training: noise leads the colour ROI
            astray, but not Mask R-CNN.

        Raises:
          CheckpointError: if there are no weights, or they are damaged, or those of the detector are not at hand, or
            of another one.
          ConfigError: if a detector is given to a run that crops by none, or a source of crops to one of whole images.
        """
        self.path = Path(path)
        model, config = load_run(self.path)
        detector = None if detector is None else Path(detector)
        if roi_source is not None and config.input == "whole":
            raise ConfigError(f"roi_source = {roi_source!r}, but the run takes whole images; leave it out")
        if roi_source in (None, config.roi_source):
            self.config = with_detector(config, detector)
        else:
            self.config = replace(config, roi_source=roi_source, detector=detector, pretrain=cfg.PretrainConfig())
        self.model: nnx.Module = model
        self.class_names = class_names_of(self.path, self.config)
        self.confidence = confidence_of(self.path)
        """What ``calibrate`` fitted; None without."""
        self._weights = split(model)
        by_detector = self.config.input == "roi" and self.config.roi_source == "mask_rcnn"
        self._detector = Detector.load(detector_weights(self.config)) if by_detector else None

    def predict(self, images: Iterable[Path | str | np.ndarray]) -> list[Prediction]:
        """Classify files or RGB arrays (uint8, any size), each with one cell.

        Raises:
          DataError: for a file that is missing, damaged or odd, or an array that is no RGB image.
        """
        boxes, inputs = [], []
        for item in images:
            image = self._image(item)
            boxes.append(find_region(image, self.config, self._detector))
            inputs.append(classifier_input(image, boxes[-1], self.config))
        if not inputs:
            return []
        probabilities = self.probabilities(np.stack(inputs))
        looks_for_regions = self.config.input == "roi"
        return [
            Prediction(self.class_names[int(p.argmax())], dict(zip(self.class_names, p.tolist(), strict=True)), box,
                       looks_for_regions and box is None, candidates)
            for p, box, candidates in zip(probabilities, boxes, self._candidates(probabilities), strict=True)
        ]

    def _candidates(self, probabilities: Float[np.ndarray, "n c"]) -> list[tuple[str, ...] | None]:
        """The classes in the set of each image, the likeliest first."""
        if self.confidence is None:
            return [None] * len(probabilities)
        order = np.argsort(-probabilities, axis=1, kind="stable")
        return [tuple(self.class_names[k] for k in ranked if members[k])
                for ranked, members in zip(order, self.confidence.sets(probabilities), strict=True)]

    def _image(self, item: Path | str | np.ndarray) -> Image:
        if not isinstance(item, np.ndarray):
            return read_image(Path(item), strict=self.config.data.strict)
        if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3:
            raise DataError(f"an image of shape {item.shape} and type {item.dtype}; expected RGB: (height, width, 3), "
                            "uint8 in 0..255")
        return item

    def probabilities(self, inputs: np.ndarray) -> Float[np.ndarray, "n c"]:
        """Probabilities of classifier inputs, uint8 (n, h, w, 3) of the model's size; calibrated, if the run is."""
        logits = predict_logits(*self._weights, inputs, views=self.config.test_views)
        if self.confidence is not None:
            return self.confidence.probabilities(logits)
        head = jax.nn.softmax if self.config.model.head == "softmax" else jax.nn.sigmoid
        return np.asarray(head(logits))


def find_region(image: Image, config: cfg.ClassifierConfig, detector: Detector | None = None) -> Box | None:
    """The cell's box, in pixels of the image; None where none is found, or the run takes whole images.

    As in training it is looked for on an image of the width of ``FILE_SIZE``, by the detector or by colour. A run
    trained on true boxes has none here, and finds the cell by its colour too.
    """
    if config.input == "whole":
        return None
    small = _at_file_width(image)
    box = color_roi(small, config.roi) if detector is None else detector.best_box(detector(small))
    return None if box is None else box * np.float32(image.shape[1] / small.shape[1])


def classifier_input(image: Image, box: Box | None, config: cfg.ClassifierConfig) -> Resized:
    """The crop around ``box``, or the whole image where there is none, at the model's size."""
    size = tuple(config.model.image_size)
    if config.input == "whole":
        return resize(image, size)
    small = _at_file_width(image)
    scaled = None if box is None else box * np.float32(small.shape[1] / image.shape[1])
    return crop(small, scaled, size, config.crop)


def _at_file_width(image: Image) -> Resized:
    """An image wider than ``FILE_SIZE`` shrunk to its width, with its own proportions."""
    width = FILE_SIZE[1]
    if image.shape[1] <= width:
        return image
    return resize(image, (max(1, round(image.shape[0] * width / image.shape[1])), width))


def load(path: Path | str, **how) -> Run:
    """A trained run from its folder or weights file; further arguments are those of ``Run``."""
    return Run(path, **how)


def predict(path: Path | str, images: Sequence[Path | str | np.ndarray], **how) -> list[Prediction]:
    """Classify images with the run at ``path``; further arguments are those of ``Run``."""
    return Run(path, **how).predict(images)
