"""A trained Mask R-CNN on new images of any size: boxes, scores, classes and masks in their own pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from wbcjax import config as cfg
from wbcjax.data.canvas import fit, to_canvas
from wbcjax.data.images import read_image
from wbcjax.errors import CheckpointError, DataError
from wbcjax.evaluation.detection import ImageDetections
from wbcjax.models.mask_rcnn import MaskRCNN
from wbcjax.ops.masks import paste
from wbcjax.pipeline.detector_runs import judged, load_detector
from wbcjax.pipeline.workdir import PACKAGED
from wbcjax.training import split
from wbcjax.training.detector import predict_detections
from wbcjax.typing import Box, Image, Size
from wbcjax.typing_detection import Detections

AnyImage = Path | str | np.ndarray


class Detector:
    """A trained detector, ready for images.

        detector = Detector.load("runs/mask_rcnn-compact")
        found = detector("smear.jpg")
        found.boxes, found.masks, [detector.class_names[label] for label in found.labels]
    """

    def __init__(self, model: MaskRCNN, config: cfg.DetectorConfig):
        self.config = config
        self.class_names = config.model.class_names
        self._weights = split(model)

    @classmethod
    def load(cls, path: Path | str | None = None) -> "Detector":
        """The detector of a run's folder or weights file; None takes the compact one that comes with the package.

        Raises:
          CheckpointError: if there are no weights, or they are damaged or of no detector.
        """
        if path is None and not PACKAGED.is_file():
            raise CheckpointError(f"{PACKAGED}: this installation comes without a detector; train one with `wbcjax "
                                  "detector train` and give its folder")
        return cls(*load_detector(PACKAGED if path is None else Path(path)))

    def __call__(
        self, images: AnyImage | Sequence[AnyImage], *, score_threshold: float = 0.5, batch_size: int = 8
    ) -> ImageDetections | list[ImageDetections]:
        """The cells of one image, or of each image of a sequence, by falling score.

        Args:
          images: files, or RGB arrays (uint8), of any size and each of its own.
          score_threshold: cells below it are left out; the model itself gives none below ``box.score_threshold``.
          batch_size: images computed at once.

        Raises:
          DataError: for a file that is missing or damaged, or an array that is no RGB image.
        """
        one = isinstance(images, Path | str | np.ndarray)
        pixels = [as_image(item) for item in ([images] if one else images)]
        canvas = self.config.model.canvas
        fits = [fit(image.shape[:2], canvas) for image in pixels]
        placed = np.array([to_canvas(image, canvas)[0] for image in pixels], np.uint8).reshape(-1, *canvas, 3)
        sizes = np.array([size for size, _ in fits], np.int32).reshape(-1, 2)
        found = predict_detections(*self._weights, placed, sizes, batch_size=batch_size)
        out = [
            in_image_pixels(Detections(*(field[i] for field in found)), scale, image.shape[:2], score_threshold)
            for i, (image, (_, scale)) in enumerate(zip(pixels, fits, strict=True))
        ]
        return out[0] if one else out

    def best_box(self, found: ImageDetections) -> Box | None:
        """The box of highest score of a white cell (of the first class, where there are none); None without one."""
        cells = found.of_class(self.class_names.index(judged(self.config.model)))
        return cells.boxes[0] if len(cells) else None


def in_image_pixels(found: Detections, scale: float, size: Size, score_threshold: float) -> ImageDetections:
    """One image's detections from its canvas to its own pixels, masks pasted.

    Args:
      found: without a batch axis.
      scale: of the image on the canvas.
      size: (height, width) of the image.
    """
    kept = np.flatnonzero(found.valid & (found.scores >= score_threshold))
    height, width = size
    boxes = np.clip(found.boxes[kept] / np.float32(scale), 0, np.float32([width, height, width, height]))
    return ImageDetections(boxes, found.scores[kept], found.labels[kept], paste(found.masks[kept], boxes, size))


def as_image(item: AnyImage) -> Image:
    """RGB pixels of a file (grey is repeated, alpha dropped) or an array.

    Raises:
      DataError: for a file that is missing or damaged, or an array that is no RGB image.
    """
    if not isinstance(item, np.ndarray):
        return read_image(Path(item), strict=False)
    if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3 or 0 in item.shape:
        raise DataError(f"an image of shape {item.shape} and type {item.dtype}; expected RGB: (height, width, 3), "
                        "uint8 in 0..255")
    return item
