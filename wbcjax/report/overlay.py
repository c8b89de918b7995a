"""Boxes and masks drawn over smear images."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Float

from wbcjax.report import style
from wbcjax.report.pictures import AnyImage, box_legend, grid
from wbcjax.typing import Image

TINT = 0.35
"""Share of the colour in a masked pixel."""


def tinted(image: Image, mask: Bool[np.ndarray, "height width"], color: str) -> Image:
    """The image with a mask washed in ``color`` and its outline drawn."""
    rgb = rgb_of(color)
    out = image.copy()
    out[mask] = np.round((1 - TINT) * out[mask] + TINT * np.array(rgb)).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(out, outlines, -1, rgb, 1)


def rgb_of(color: str) -> tuple[int, int, int]:
    """Red, green and blue of ``#rrggbb``, 0 to 255."""
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue


def draw_objects(
    image: Image,
    boxes: Float[np.ndarray, "n 4"],
    masks: Bool[np.ndarray, "n height width"],
    captions: Sequence[str],
    colors: Sequence[str],
) -> Image:
    """The image at its own size with the box, mask and caption of each object."""
    scale = max(image.shape[:2]) / 640  # of lines and letters
    width = max(1, round(2 * scale))
    for mask, color in zip(masks, colors, strict=True):
        image = tinted(image, mask, color)
    for box, caption, color in zip(boxes, captions, colors, strict=True):
        rgb = rgb_of(color)
        left, top, right, bottom = np.round(box).astype(int).tolist()
        image = cv2.rectangle(image, (left, top), (right - 1, bottom - 1), rgb, width)
        (_, height), below = cv2.getTextSize(caption, cv2.FONT_HERSHEY_SIMPLEX, 0.5 * scale, width)
        y = top - below if top > height + below else min(bottom, image.shape[0]) - below
        for line, ink in ((3 * width, (255, 255, 255)), (width, rgb)):
            cv2.putText(image, caption, (left + width, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5 * scale, ink, line,
                        cv2.LINE_AA)
    return image


@style.look()
def masked_detections(
    images: Sequence[AnyImage],
    boxes: Sequence[Float[np.ndarray, "_ 4"]],
    masks: Sequence[Bool[np.ndarray, "_ _ _"]],
    true_boxes: Sequence[Float[np.ndarray, "_ 4"]],
    true_masks: Sequence[Bool[np.ndarray, "_ _ _"]],
    path: Path | str,
    *,
    titles: Sequence[str],
    columns: int = 3,
) -> Path:
    """A grid of images with what was found in orange and what is annotated in blue, boxes and masks.

    Raises:
      ValueError: if there is no image.
    """
    if not images:
        raise ValueError("masked_detections needs at least one image")
    figure, axes = grid(len(images), columns, max(image.shape[0] / image.shape[1] for image in images))
    for ax, image, *objects, title in zip(axes, images, boxes, masks, true_boxes, true_masks, titles, strict=True):
        found, found_masks, true, shown_masks = objects
        for mask in shown_masks:
            image = tinted(image, mask, style.BLUE)
        for mask in found_masks:
            image = tinted(image, mask, style.ORANGE)
        style.bare(ax, image)
        for group, color in ((true, style.BLUE), (found, style.ORANGE)):
            for box in group:
                style.outline(ax, box, color)
        ax.set_title(title, fontsize=8, pad=4)
    box_legend(figure, [("found", style.ORANGE), ("annotated", style.BLUE)])
    return style.save(figure, path)
