"""Images of any size on one canvas: scaled to fit, proportions kept, in the top left corner, zeros elsewhere."""

import numpy as np

from wbcjax.data.images import resize
from wbcjax.typing import Image, Size, UInt8


def fit(size: Size, canvas: Size) -> tuple[Size, float]:
    """(height, width) that an image of ``size`` gets on the canvas, at least 1 × 1, and the scale.

    The scale is that of the boxes on both axes. Sides are whole pixels, so the last column may lie half a pixel from
    where the scale puts it.
    """
    scale = min(canvas[0] / size[0], canvas[1] / size[1])
    height, width = (min(max(round(side * scale), 1), limit) for side, limit in zip(size, canvas, strict=True))
    return (height, width), float(scale)


def to_canvas(image: Image, canvas: Size) -> tuple[UInt8[np.ndarray, "canvas_height canvas_width 3"], float]:
    """The image on a canvas of (height, width), and the scale: boxes on the canvas are the image's times it."""
    (height, width), scale = fit(image.shape[:2], canvas)
    placed = np.zeros((*canvas, 3), np.uint8)
    placed[:height, :width] = resize(image, (height, width))
    return placed, scale
