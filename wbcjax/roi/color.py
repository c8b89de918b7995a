"""The colour-based ROI: one threshold in HSV finds the stained nucleus, its largest contour gives the cell's box.

The paper's section 3.1.1, step by step: Gaussian blur, HSV, range threshold, contours, largest contour, bounding box.
``FAITHFUL`` is that method and nothing else. ``EXPANDED`` adds what the box needs to cover the whole cell, as
the labels do, instead of the nucleus: closing, opening, and an enlargement.

What happens in the awkward cases:

- No pixel in range, or no contour of ``min_area``: the result is ``None``, and the caller decides.
- Two cells: the contour enclosing the larger area wins; of equal areas the one whose first pixel comes first in raster
  order.
- A cell at the border: the box is clipped to the image.
- The black fill of rotated images: its value is below the threshold's, so it can never be part of a cell.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from wbcjax.config import ColorRoiConfig
from wbcjax.typing import Box, Image

REFERENCE_WIDTH = 640
"""The image width at which a config's pixel-valued fields are given."""

FAITHFUL = ColorRoiConfig()
"""The paper's method."""

EXPANDED = ColorRoiConfig(close_kernel=17, open_kernel=17, scale=1.1, pad=20.0, min_area=500.0, work_width=320)
"""Closing, opening and enlargement beside the paper's threshold."""


def color_roi(image: Image, config: ColorRoiConfig = FAITHFUL) -> Box | None:
    """Box of the white blood cell in an image, by its colour.

    Args:
      image: RGB, 0..255, any size; the config's pixel-valued fields scale with its width.
      config: thresholds and enlargement; the default is the paper's method.

    Returns:
      The box, xyxy in continuous pixels inside the image, or None where no contour is large enough.
    """
    contour = _largest(_contours(_cleaned(_in_range(_shrunk(image, config), config), config)), _minimum(image, config))
    if contour is None:
        return None
    return _enlarged(_bounding_box(contour, image, config), image.shape[:2], config)


def color_rois(
    images: "list[np.ndarray] | tuple[np.ndarray, ...] | UInt8[np.ndarray, 'n h w 3']",
    config: ColorRoiConfig = FAITHFUL,
    workers: int | None = None,
) -> list[Box | None]:
    """``color_roi`` of many images in threads; OpenCV releases the interpreter lock while it works.

    Args:
      images: RGB images, of one size or of several.
      config: as for ``color_roi``.
      workers: threads; None takes one a core.

    Returns:
      One box or None an image, in order.
    """
    workers = workers or os.cpu_count() or 1
    if workers == 1 or len(images) < 2:
        return [color_roi(image, config) for image in images]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda image: color_roi(image, config), images))


def steps(image: Image, config: ColorRoiConfig = FAITHFUL) -> dict[str, np.ndarray]:
    """The intermediate images of ``color_roi`` by name, in order, for the paper's Figure 3.

    Returns:
      ``image``, ``blurred`` and ``hsv`` (h, w, 3) uint8; ``mask`` and ``cleaned`` (h, w) bool; ``contour`` and ``box``
      (h, w, 3) uint8, the image with the largest contour and with the final box drawn in orange. Where there is no cell
      the last two are the plain image. All are at the working size, except ``image`` and ``box``.
    """
    small = _shrunk(image, config)
    blurred = _blurred(small, config)
    hsv = cv2.cvtColor(blurred, cv2.COLOR_RGB2HSV)
    mask = _in_range(small, config)
    cleaned = _cleaned(mask, config)
    contour = _largest(_contours(cleaned), _minimum(image, config))
    box = color_roi(image, config)
    with_contour, with_box = small.copy(), image.copy()
    if contour is not None:
        cv2.drawContours(with_contour, [contour], -1, (255, 140, 0), 2)
        left, top, right, bottom = (round(float(v)) for v in box)
        cv2.rectangle(with_box, (left, top), (right - 1, bottom - 1), (255, 140, 0), 2)
    return {"image": image, "blurred": blurred, "hsv": hsv, "mask": mask > 0, "cleaned": cleaned > 0,
            "contour": with_contour, "box": with_box}


def nucleus_mask(image: Image, config: ColorRoiConfig = FAITHFUL) -> Bool[np.ndarray, "h w"]:
    """Pixels in the colour range after blur, closing and opening, at the working size."""
    return _cleaned(_in_range(_shrunk(image, config), config), config) > 0


def _shrunk(image: np.ndarray, config: ColorRoiConfig) -> np.ndarray:
    """The image at the config's working width, never enlarged."""
    height, width = image.shape[:2]
    if not config.work_width or width <= config.work_width:
        return image
    size = (config.work_width, max(1, round(height * config.work_width / width)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _blurred(image: np.ndarray, config: ColorRoiConfig) -> np.ndarray:
    # The kernel is not scaled with the image: it is there for the noise of single pixels.
    return cv2.GaussianBlur(image, (config.blur_kernel, config.blur_kernel), config.blur_sigma)


def _in_range(image: np.ndarray, config: ColorRoiConfig) -> np.ndarray:
    """(h, w) uint8, 255 where the blurred pixel is in the HSV range, else 0."""
    hsv = cv2.cvtColor(_blurred(image, config), cv2.COLOR_RGB2HSV)
    return cv2.inRange(hsv, config.hsv_low, config.hsv_high)


def _cleaned(mask: np.ndarray, config: ColorRoiConfig) -> np.ndarray:
    """Closing joins the lobes of a nucleus, opening drops platelets and the rims of red cells."""
    unit = mask.shape[1] / REFERENCE_WIDTH
    for operation, diameter in ((cv2.MORPH_CLOSE, config.close_kernel), (cv2.MORPH_OPEN, config.open_kernel)):
        size = 2 * round((diameter * unit - 1) / 2) + 1  # the nearest odd size, so that the result does not shift
        if size > 1:
            kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
            mask = cv2.morphologyEx(mask, operation, kernel)
    return mask


def _contours(mask: np.ndarray) -> list[np.ndarray]:
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return sorted(contours, key=lambda c: (c[0, 0, 1], c[0, 0, 0]))  # raster order of their first pixels


def _largest(contours: list[np.ndarray], minimum: float) -> np.ndarray | None:
    best = max(contours, key=cv2.contourArea, default=None)  # the first of equals
    return best if best is not None and cv2.contourArea(best) >= minimum else None


def _minimum(image: np.ndarray, config: ColorRoiConfig) -> float:
    """``min_area`` in pixels of the working size."""
    width = image.shape[1]
    width = min(width, config.work_width or width)
    return config.min_area * (width / REFERENCE_WIDTH) ** 2


def _bounding_box(contour: np.ndarray, image: np.ndarray, config: ColorRoiConfig) -> np.ndarray:
    """(4,) float32 xyxy in pixels of the image itself."""
    x, y, w, h = cv2.boundingRect(contour)
    factor = max(1.0, image.shape[1] / config.work_width) if config.work_width else 1.0
    return np.array([x, y, x + w, y + h], np.float32) * factor


def _enlarged(box: np.ndarray, size: tuple[int, int], config: ColorRoiConfig) -> np.ndarray:
    """The box scaled about its centre, padded, and clipped to the image."""
    height, width = size
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    half = half * config.scale + config.pad * width / REFERENCE_WIDTH
    box = np.concatenate([centre - half, centre + half])
    return np.clip(box, 0, [width, height, width, height]).astype(np.float32)
