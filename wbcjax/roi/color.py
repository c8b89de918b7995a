"""The colour-based ROI: a range in HSV finds the stained nucleus, its largest contour gives the cell's box.

The paper's section 3.1.1, step by step: Gaussian blur, HSV, range threshold, contours, largest contour, bounding
box. ``FAITHFUL`` is that method and nothing else. Its box covers the nucleus, while the labels box the whole
cell; ``EXPANDED`` goes on from the nucleus to the cell: closing joins its lobes, a second, wider range adds the
cytoplasm that touches it, and the box is enlarged.

What happens in the awkward cases:

- No pixel in range, or no contour of ``min_area``: the result is ``None``, and the caller decides.
- Two cells: the contour enclosing the larger area wins; of equal areas the first in raster order. Cells that
  touch are one region and get one box around both: colour alone cannot part them.
- A cell at the border: the box is clipped to the image.
- The black fill of rotated images is darker than both ranges, so it is never part of a cell.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np

from wbcjax.config import ColorRoiConfig
from wbcjax.typing import Box, Image, Size

REFERENCE_WIDTH = 640
"""The image width at which a config's pixel-valued fields are given."""

FAITHFUL = ColorRoiConfig()
"""The paper's method."""

EXPANDED = ColorRoiConfig(
    close_kernel=25, cytoplasm_reach=44.0, cytoplasm_low=(110, 18, 120), cytoplasm_high=(154, 255, 255),
    cytoplasm_open=17, scale=1.025, pad=6.0, min_area=500.0, work_width=320,
)
"""The whole cell. ``experiments/fit_color_roi.py`` found the values on the detector's 220 training images and no
other: mean IoU 0.869 there. The search left out the opening of the nucleus: it never helped once the cytoplasm was
there."""

ORANGE = (255, 140, 0)


def color_roi(image: Image, config: ColorRoiConfig = FAITHFUL) -> Box | None:
    """Box of the white blood cell in an image, by its colour.

    Args:
      image: RGB, 0..255, any size; the config's pixel-valued fields scale with its width.
      config: thresholds and enlargement; the default is the paper's method.

    Returns:
      The box, xyxy in continuous pixels inside the image, or None where no contour is large enough.
    """
    box = tight_box(image, config)
    return None if box is None else enlarge(box, image.shape[:2], config)


def color_rois(
    images: Sequence[np.ndarray] | np.ndarray, config: ColorRoiConfig = FAITHFUL, workers: int | None = None
) -> list[Box | None]:
    """``color_roi`` of many images in threads; OpenCV releases the interpreter lock while it works.

    Args:
      images: RGB uint8 images, of one size or of several.
      config: as for ``color_roi``.
      workers: threads; None takes one a core.

    Returns:
      One box or None an image, in order.
    """
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        return list(pool.map(lambda image: color_roi(image, config), images))


def tight_box(image: Image, config: ColorRoiConfig = FAITHFUL) -> Box | None:
    """The box of the segmented pixels, before ``enlarge``; None where no contour is large enough."""
    hsv = _to_hsv(_shrunk(image, config), config)
    nucleus = _largest(_cleaned(_nuclear(hsv, config), config), config)
    if nucleus is None:
        return None
    x, y, w, h = cv2.boundingRect(nucleus)
    if config.cytoplasm_reach:
        x, y, w, h = _cell(hsv, nucleus, config)[1]
    return np.array([x, y, x + w, y + h], np.float32) * np.float32(image.shape[1] / hsv.shape[1])


def enlarge(box: Box, size: Size, config: ColorRoiConfig) -> Box:
    """A tight box scaled about its centre, padded, and clipped to the image of ``size``."""
    height, width = size
    centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    half = half * config.scale + config.pad * width / REFERENCE_WIDTH
    box = np.concatenate([centre - half, centre + half])
    return np.clip(box, 0, [width, height, width, height]).astype(np.float32)


def steps(image: Image, config: ColorRoiConfig = FAITHFUL) -> dict[str, np.ndarray]:
    """The intermediate images of ``color_roi`` by name, in order, for the paper's Figure 3.

    Returns:
      ``image``, ``blurred`` and ``hsv`` (h, w, 3) uint8; ``mask``, in range, ``cleaned``, after closing and
      opening, and ``cell``, the region the box is drawn around, (h, w) bool; ``contour`` and ``box`` (h, w, 3)
      uint8, the image with the largest contour and with the final box in orange. All but ``image`` and ``box``
      are at the working width. Without a cell, ``cell`` is empty and the last two are plain.
    """
    small = _shrunk(image, config)
    hsv = _to_hsv(small, config)
    mask = _nuclear(hsv, config)
    cleaned = _cleaned(mask, config)
    nucleus = _largest(cleaned, config)
    cell, with_contour, with_box = np.zeros(mask.shape, bool), small.copy(), image.copy()
    if nucleus is not None:
        cell = _cell(hsv, nucleus, config)[0]
        cv2.drawContours(with_contour, [nucleus], -1, ORANGE, 2)
        left, top, right, bottom = (round(float(v)) for v in color_roi(image, config))
        cv2.rectangle(with_box, (left, top), (right - 1, bottom - 1), ORANGE, 2)
    return {"image": image, "blurred": _blurred(small, config), "hsv": hsv, "mask": mask > 0,
            "cleaned": cleaned > 0, "cell": cell, "contour": with_contour, "box": with_box}


def _shrunk(image: np.ndarray, config: ColorRoiConfig) -> np.ndarray:
    """The image at the config's working width, never enlarged."""
    height, width = image.shape[:2]
    if not config.work_width or width <= config.work_width:
        return image
    size = (config.work_width, max(1, round(height * config.work_width / width)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _blurred(image: np.ndarray, config: ColorRoiConfig) -> np.ndarray:
    # The kernel does not scale with the image: it is there for the noise of single pixels.
    return cv2.GaussianBlur(image, (config.blur_kernel, config.blur_kernel), config.blur_sigma)


def _to_hsv(image: np.ndarray, config: ColorRoiConfig) -> np.ndarray:
    return cv2.cvtColor(_blurred(image, config), cv2.COLOR_RGB2HSV)


def _nuclear(hsv: np.ndarray, config: ColorRoiConfig) -> np.ndarray:
    """(h, w) uint8, 255 in the nucleus' range and 0 elsewhere, as all masks below."""
    return cv2.inRange(hsv, config.hsv_low, config.hsv_high)


def _cleaned(mask: np.ndarray, config: ColorRoiConfig) -> np.ndarray:
    """Closing joins the lobes of a nucleus, opening drops platelets and the rims of red cells."""
    unit = mask.shape[1] / REFERENCE_WIDTH
    mask = _morphology(mask, cv2.MORPH_CLOSE, config.close_kernel * unit)
    return _morphology(mask, cv2.MORPH_OPEN, config.open_kernel * unit)


def _morphology(mask: np.ndarray, operation: int, diameter: float) -> np.ndarray:
    size = 2 * round((diameter - 1) / 2) + 1  # the nearest odd size, so that nothing shifts
    if size <= 1:
        return mask
    return cv2.morphologyEx(mask, operation, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)))


def _largest(mask: np.ndarray, config: ColorRoiConfig) -> np.ndarray | None:
    """The contour enclosing most, if it encloses ``min_area``."""
    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return None
    areas = np.array([cv2.contourArea(c) for c in contours])
    if areas.max() < config.min_area * (mask.shape[1] / REFERENCE_WIDTH) ** 2:
        return None
    # OpenCV's order of contours differs between versions; a contour's first pixel is its first in raster order.
    equals = (contours[i] for i in np.flatnonzero(areas == areas.max()))
    return min(equals, key=lambda c: (c[0, 0, 1], c[0, 0, 0]))


def _cell(
    hsv: np.ndarray, nucleus: np.ndarray, config: ColorRoiConfig
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The nucleus' filled contour and the cytoplasm that touches it: (h, w) bool, and its (x, y, w, h)."""
    unit = hsv.shape[1] / REFERENCE_WIDTH
    x, y, w, h = cv2.boundingRect(nucleus)
    reach = round(config.cytoplasm_reach * unit)
    left, top = max(0, x - reach), max(0, y - reach)
    around = np.s_[top : y + h + reach, left : x + w + reach]
    region = np.zeros(hsv.shape[:2], np.uint8)
    cv2.drawContours(region, [nucleus], -1, 255, cv2.FILLED)
    filled = region[around]
    if reach:
        wide = cv2.inRange(hsv[around], config.cytoplasm_low, config.cytoplasm_high) | filled
        wide = _morphology(wide, cv2.MORPH_OPEN, config.cytoplasm_open * unit) | filled
        _, labels = cv2.connectedComponents(wide)
        first_x, first_y = nucleus[0, 0]  # any pixel of the nucleus tells the component
        filled = (labels == labels[first_y - top, first_x - left]).astype(np.uint8)
        region[around] = filled
    x, y, w, h = cv2.boundingRect(filled)
    return region > 0, (x + left, y + top, w, h)
