"""Nucleus and cytoplasm of the cell in a crop, by colour."""

from typing import NamedTuple

import cv2
import numpy as np

from wbcjax.config import ColorRoiConfig
from wbcjax.typing import Bool, Image

BLACK = 40
"""The fill of turned images, and what JPEG and resizing make of it, is at most so bright in every channel."""
SPECK = 0.05
"""Regions of the nucleus' colour smaller than this share of the largest are platelets and noise."""

REACH = 0.15
"""The cytoplasm ends at most this share of the crop's shorter side from the nucleus' hull."""


class Cell(NamedTuple):
    """Masks of one crop; the cytoplasm is what the cell has beside its nucleus."""

    nucleus: Bool[np.ndarray, "h w"]
    cell: Bool[np.ndarray, "h w"]

    @property
    def cytoplasm(self) -> Bool[np.ndarray, "h w"]:
        """What the cell has beside its nucleus."""
        return self.cell & ~self.nucleus


def segment(image: Image, roi: ColorRoiConfig) -> Cell:
    """The cell of a crop: its nucleus is what is blue and dark in the red channel, the rest what surrounds it in the
    colours of a white cell.

    The stain of a nucleus takes up red, that of granules and cytoplasm does not; Otsu's threshold parts the two. All
    parts of the nucleus count but specks, as lobes may hang together by nothing. The cell is the convex hull of the
    nucleus and of what touches it, is not far, and lies in the colour ranges of the colour ROI. Where nothing is blue,
    what is dark is the nucleus; an image that is all black is its own nucleus and cell.

    Args:
      image: RGB, 0..255, a crop around one cell.
    """
    shown = cv2.erode((image.max(axis=2) > BLACK).astype(np.uint8), _disc(5)) > 0  # its border is blurred
    if not shown.any():
        whole = np.ones(shown.shape, bool)
        return Cell(whole, whole)
    blurred = cv2.GaussianBlur(image, (3, 3), 0)
    hsv = cv2.cvtColor(blurred, cv2.COLOR_RGB2HSV)
    red = blurred[..., 0]
    limit, _ = cv2.threshold(red[shown][None], 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    dark = shown & (red <= max(limit, red[shown].min()))  # of one value alone the threshold lies below it
    blue = cv2.inRange(hsv, (roi.hsv_low[0], roi.hsv_low[1], 0), (roi.cytoplasm_high[0], 255, 255)) > 0
    nucleus = _without_specks(dark & blue if (dark & blue).any() else dark)
    stained = cv2.inRange(hsv, roi.hsv_low, roi.hsv_high) | cv2.inRange(hsv, roi.cytoplasm_low, roi.cytoplasm_high)
    stained = cv2.morphologyEx(stained, cv2.MORPH_OPEN, _disc(7)) > 0
    reach = cv2.dilate(_hull(nucleus).astype(np.uint8), _disc(2 * round(REACH * min(shown.shape)) + 1)) > 0
    _, regions = cv2.connectedComponents(((stained & shown & reach) | nucleus).astype(np.uint8))
    return Cell(nucleus, nucleus | (_hull(np.isin(regions, regions[nucleus])) & shown))


def _disc(diameter: int) -> np.ndarray:
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (diameter, diameter))


def _without_specks(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    _, regions, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = stats[1:, cv2.CC_STAT_AREA]
    return np.isin(regions, 1 + np.flatnonzero(areas >= SPECK * areas.max()))


def _hull(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    points = cv2.findNonZero(mask.astype(np.uint8))
    return cv2.fillConvexPoly(np.zeros(mask.shape, np.uint8), cv2.convexHull(points), 1) > 0
