"""From a box to a classifier input: margin, square, crop, fixed size."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from jaxtyping import UInt8

from wbcjax.config import CropConfig
from wbcjax.errors import DataError
from wbcjax.typing import Box, Image, Images, Size

DEFAULT = CropConfig()

Crop = UInt8[np.ndarray, "crop_height crop_width 3"]


def window(box: Box, config: CropConfig = DEFAULT) -> Box:
    """The part of the plane a crop shows: the box with its margin, made square if the config says so.

    It is not clipped: a cell at the border stays in the centre, and keeps its size relative to the window.

    Raises:
      DataError: for a box without area or with a value that is not finite.
    """
    centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
    if not (np.isfinite(box).all() and (size > 0).all()):
        raise DataError(f"box {box.tolist()} has no area to crop: drop it, or give None for the whole image")
    longer = size.max()
    size = (np.full(2, longer) if config.square else size) + 2 * config.margin * longer
    return np.concatenate([centre - size / 2, centre + size / 2]).astype(np.float32)


def crop(image: Image, box: Box | None, size: Size, config: CropConfig = DEFAULT) -> Crop:
    """The window around a box, resized to a fixed size.

    Args:
      image: RGB, 0..255.
      box: xyxy in continuous pixels; None takes the whole image, stretched to ``size``.
      size: (height, width) of the result.
      config: margin and squareness.

    Returns:
      (height, width, 3) uint8. The window is rounded to whole pixels, at least one a side; what of it lies
      outside the image is black, like the fill of the augmented Kaggle images. Pixels are averaged (INTER_AREA)
      where the window shrinks along both sides, else interpolated linearly.

    Raises:
      DataError: for a box without area, or one whose window misses the image.
    """
    part = image
    if box is not None:
        left, top, right, bottom = (round(float(v)) for v in window(box, config))
        right, bottom = max(right, left + 1), max(bottom, top + 1)
        height, width = image.shape[:2]
        x0, y0, x1, y1 = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
        if x0 >= x1 or y0 >= y1:
            raise DataError(f"box {box.tolist()} lies outside its {width}×{height} image: "
                            "check that both are at the same scale")
        part = image[y0:y1, x0:x1]
        if part.shape[:2] != (bottom - top, right - left):
            part = cv2.copyMakeBorder(part, y0 - top, bottom - y1, x0 - left, right - x1,
                                      cv2.BORDER_CONSTANT)
    shrinks = size[0] <= part.shape[0] and size[1] <= part.shape[1]
    return cv2.resize(part, (size[1], size[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def crops(
    images: Sequence[np.ndarray] | np.ndarray,
    boxes: Sequence[np.ndarray | None] | np.ndarray,
    size: Size,
    config: CropConfig = DEFAULT,
    workers: int | None = None,
) -> Images:
    """``crop`` of many images in threads, one box or None each, into one array.

    Raises:
      DataError: if the numbers of images and boxes differ, or as ``crop`` does, with the image's position.
    """
    if len(images) != len(boxes):
        raise DataError(f"{len(images)} images but {len(boxes)} boxes: give one box or None an image")
    out = np.empty((len(images), *size, 3), np.uint8)

    def fill(index: int) -> None:
        try:
            out[index] = crop(images[index], boxes[index], size, config)
        except DataError as error:
            raise DataError(f"image {index}: {error}") from error

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        list(pool.map(fill, range(len(images))))
    return out
