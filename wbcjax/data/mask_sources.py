"""Masks for boxes: the published ones of BCCD's white cells, and a segmentation by colour inside every other box.

BCCD's masks cover nucleus and cytoplasm of each white cell of an image, in one file: each box takes the connected part
that it holds most of, and boxes that share one divide it. A part that fills less than half of its box shows something
else (BloodImage_00177), and colour decides. There are no masks of red cells and platelets.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from wbcjax.data.cell_masks import BACKGROUND, cell_mask_path, read_cell_mask
from wbcjax.data.images import read_image
from wbcjax.data.sets import DetectionSet
from wbcjax.errors import DataError
from wbcjax.ops.boxes import paired_iou
from wbcjax.typing import Bool, Box, Boxes, Float, Image, Int, Size

WHITE_CELLS = "wbc"
MIN_IOU = 0.5
"""Least overlap of a box with the bounding box of its published mask."""
_MIN_SOLID = 0.8  # share of its convex hull that a whole cell fills
_MIN_FILLED = 0.4  # share of the oval below which the colour has found a fragment


def with_masks(detection_set: DetectionSet, root: Path | None = None) -> DetectionSet:
    """The set with a mask for each box; a set that has masks is returned as it is.

    Masks are dense, (boxes, height, width) an image: of a large set take the classes needed first (``of_classes``).

    Args:
      root: data root with BCCD_masks, for boxes of the class "wbc"; None, or where it holds no file of an image, leaves
        all to colour.

    Raises:
      DataError: a box is empty, an image or a mask file is damaged, or they are of different sizes.
    """
    if detection_set.masks is not None:
        return detection_set
    detection_set.require_areas()
    white = detection_set.class_names.index(WHITE_CELLS) if WHITE_CELLS in detection_set.class_names else -1
    with ThreadPoolExecutor() as pool:
        masks = pool.map(
            lambda path, boxes, labels, size: _masks_of(path, boxes, labels == white, size, root),
            detection_set.paths, detection_set.boxes, detection_set.labels, detection_set.sizes,
        )
        return replace(detection_set, masks=tuple(masks))


def _masks_of(
    path: Path, boxes: Boxes, white: Bool[np.ndarray, "n"], size: Size, root: Path | None
) -> Bool[np.ndarray, "n _ _"]:
    """The masks of one image."""
    masks = np.zeros((len(boxes), *size), bool)
    published = cell_mask_path(Path(root), path.stem) if root is not None and white.any() else None
    if published is not None:
        cells = read_cell_mask(published) != BACKGROUND
        if cells.shape != size:
            raise DataError(
                f"{published}: {cells.shape[1]}×{cells.shape[0]} pixels, {path.name} has {size[1]}×{size[0]}; "
                f"replace or delete the mask"
            )
        masks[white] = assign_parts(cells, boxes[white])
    rest = np.flatnonzero(~masks.any(axis=(1, 2)))
    if rest.size:
        stained = stained_pixels(read_image(path, strict=False))
        for i in rest:
            masks[i] = segment_in_box(stained, boxes[i])
    return masks


def assign_parts(cells: Bool[np.ndarray, "h w"], boxes: Boxes) -> Bool[np.ndarray, "n h w"]:
    """The mask of each box, cut to it, from the mask of all cells; empty where none fits.

    Where several boxes hold most of the same part, each of its pixels goes to the box in whose oval it lies deepest.
    """
    masks = np.zeros((len(boxes), *cells.shape), bool)
    parts, part_of_box = matched_parts(cells, boxes)
    everywhere = slice(None), slice(None)
    depth = np.array([_oval_radius(box, cells.shape, everywhere) for box in boxes])
    for part in np.unique(part_of_box[part_of_box > 0]):
        sharing = np.flatnonzero(part_of_box == part)
        nearest = sharing[np.argmin(depth[sharing], axis=0)]
        for i in sharing:
            mask = (parts == part) & (nearest == i)
            hull = hull_of(mask)
            if paired_iou(hull, boxes[i]) >= MIN_IOU:
                window = _inside(boxes[i], cells.shape)
                masks[i][window] = mask[window]
    return masks


def matched_parts(
    cells: Bool[np.ndarray, "h w"], boxes: Boxes
) -> tuple[Int[np.ndarray, "h w"], Int[np.ndarray, "n"]]:
    """The connected parts of a mask (numbers from 1), and the part that each box holds most pixels of, 0 for none."""
    count, parts = cv2.connectedComponents(cells.astype(np.uint8))
    matched = np.zeros(len(boxes), np.int32)
    for i, box in enumerate(boxes):
        pixels = np.bincount(parts[_inside(box, cells.shape)].ravel(), minlength=count)[1:]
        if pixels.any():
            matched[i] = 1 + np.argmax(pixels)
    return parts, matched


def stained_pixels(image: Image) -> Bool[np.ndarray, "h w"]:
    """Pixels that differ from the plasma in colour: cells of all kinds, without the pale centre of red ones.

    The plasma is the median of the brighter side of Otsu's threshold in the green channel, in which stained cells are
    dark. Otsu's threshold of the logarithm of the distance in Lab (lightness counts half, as illumination varies) then
    parts plasma from everything else, however few and dark the nuclei are.
    """
    smooth = cv2.GaussianBlur(image, (3, 3), 0)
    green = np.ascontiguousarray(smooth[..., 1])
    threshold, _ = cv2.threshold(green, 0, 255, cv2.THRESH_OTSU)
    lab = cv2.cvtColor(smooth, cv2.COLOR_RGB2LAB).astype(np.float32) * np.float32([0.5, 1, 1])
    bright = green > threshold
    plasma = np.median(lab[bright] if bright.any() else lab.reshape(-1, 3), axis=0)
    distance = np.log1p(np.linalg.norm(lab - plasma, axis=2))
    levels = np.round(distance * (255 / max(distance.max(), 1))).astype(np.uint8)
    threshold, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_OTSU)
    return levels > threshold


def segment_in_box(stained: Bool[np.ndarray, "h w"], box: Box) -> Bool[np.ndarray, "h w"]:
    """The stained part in the middle of a box, without threads and holes, within a slightly enlarged oval; never empty.

    A part that is far from convex is the broken ring of a pale cell, and its convex hull is taken; where colour finds
    less than a fragment, the oval itself.
    """
    mask = np.zeros(stained.shape, bool)
    window = _inside(box, stained.shape)
    radius = _oval_radius(box, stained.shape, window)
    width = max(round(0.08 * min(radius.shape)), 1)  # of what counts as a thread
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width))
    found = cv2.morphologyEx(
        (stained[window] & (radius <= 1.1)).astype(np.uint8), cv2.MORPH_OPEN, kernel,
        borderType=cv2.BORDER_REPLICATE,
    )
    count, parts = cv2.connectedComponents(found, connectivity=4)
    central = np.bincount(parts[radius <= 0.8], minlength=count)[1:]
    part = np.zeros(radius.shape, np.uint8)
    if central.any():
        part[parts == 1 + np.argmax(central)] = 1
        outlines, _ = cv2.findContours(part, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        hull = cv2.fillConvexPoly(np.zeros_like(part), cv2.convexHull(outlines[0]), 1)
        cv2.drawContours(part, outlines, -1, 1, cv2.FILLED)
        if part.sum() < _MIN_SOLID * hull.sum():
            part = hull
    oval = radius <= max(1.0, float(radius.min()))  # a box of few pixels may hold no pixel centre of its oval
    mask[window] = part > 0 if part.sum() >= _MIN_FILLED * oval.sum() else oval
    return mask


def hull_of(mask: Bool[np.ndarray, "h w"]) -> Box:
    """The bounding box of a mask; zeros for an empty one."""
    x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
    return np.array([x, y, x + width, y + height], np.float32)


def _inside(box: Box, size: Size) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a box touches, at least one of each."""
    left, top = np.floor(box[:2]).astype(int)
    right, bottom = np.ceil(box[2:]).astype(int)
    return slice(max(top, 0), min(bottom, size[0])), slice(max(left, 0), min(right, size[1]))


def _oval_radius(box: Box, size: Size, window: tuple[slice, slice]) -> Float[np.ndarray, "h w"]:
    """Distance of the pixels in a window from the middle of a box, 1 on the ellipse that touches its sides.

    A cell cut off by the border of the image does not round off there: on that side only the other axis counts.
    """
    squares = []
    for axis, length, part in ((1, size[0], window[0]), (0, size[1], window[1])):
        low, high = box[axis], box[axis + 2]
        u = (np.arange(length, dtype=np.float32) + 0.5 - (low + high) / 2) / ((high - low) / 2)
        u = np.clip(u, 0 if low <= 1 else None, 0 if high >= length - 1 else None)
        squares.append(np.square(u[part]))
    return np.sqrt(squares[0][:, None] + squares[1])
