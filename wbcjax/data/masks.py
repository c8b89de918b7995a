"""Instance masks from COCO segmentations: polygons and run lengths, raw or compressed.

Written here so that no compiled dependency is needed; the formats are those of COCO's ``maskApi``.
"""

from typing import Any

import numpy as np

from wbcjax.typing import Bool, Float, Size

_FARTHEST = 1e9
"""Pixels: the corners of a polygon lie in an image, or at least near one."""
_MOST = 10**12
"""Pixels, in messages: text of a whole number of thousands of digits helps nobody."""


def polygon_mask(polygons: list[Float[np.ndarray, "_ 2"]], size: Size) -> Bool[np.ndarray, "h w"]:
    """Pixels whose centre lies in any of the polygons (even-odd rule within one), (x, y) in continuous
    pixels."""
    height, width = size
    mask = np.zeros((height, width), bool)
    for polygon in polygons:
        # At each row of centres, every edge that crosses it flips all pixels to the right of the crossing.
        flips = np.zeros((height, width + 1), np.int32)
        for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
            if y0 > y1:
                x0, y0, x1, y1 = x1, y1, x0, y0
            first, last = np.clip(np.ceil([y0 - 0.5, y1 - 0.5]), 0, height).astype(int)
            if first < last:  # an edge between two rows of centres crosses none
                rows = np.arange(first, last)
                x = x0 + (rows + 0.5 - y0) * (x1 - x0) / (y1 - y0)
                np.add.at(flips, (rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)), 1)
        mask |= np.cumsum(flips, axis=1)[:, :width] % 2 == 1
    return mask


def decode_counts(text: str) -> list[int]:
    """Run lengths of a compressed RLE string: five bits a character, each from the third on a difference.

    Raises:
      ValueError: the string is cut off or holds another character.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"the character {character!r} is none of compressed RLE")
        value |= (code & 0x1F) << shift
        shift += 5
        if code & 0x20:  # more to come
            continue
        if code & 0x10:  # the sign of the last group
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the string ends in the middle of a number")
    return counts


def rle_mask(counts: list[int], size: Size) -> Bool[np.ndarray, "h w"]:
    """Mask from run lengths of alternating background and foreground, down the columns.

    Raises:
      ValueError: a negative run, or runs that do not add up to the size.
    """
    height, width = size
    # Python's sum, which does not overflow.
    if not counts or min(counts) < 0 or sum(counts) != height * width:
        covered = min(sum(counts), _MOST)
        raise ValueError(f"the runs cover {covered} pixels{' or more' * (covered == _MOST)}, the image has "
                         f"{height * width}")
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def segmentation_mask(segmentation: Any, size: Size) -> Bool[np.ndarray, "h w"]:
    """Mask of the value of a COCO annotation's "segmentation".

    Raises:
      ValueError: neither polygons nor RLE, malformed, of another size, or without a pixel; says what is
      wrong.
    """
    if isinstance(segmentation, dict):
        if segmentation.get("size") != list(size):
            raise ValueError(f"RLE of size {segmentation.get('size')}, the image has {list(size)}")
        counts = segmentation.get("counts")
        if isinstance(counts, str):
            counts = decode_counts(counts)
        if not isinstance(counts, list) or not all(type(c) is int for c in counts):
            raise ValueError("RLE without counts, expected a list of whole numbers or a string")
        mask = rle_mask(counts, size)
    elif isinstance(segmentation, list) and segmentation:
        mask = polygon_mask([_polygon(p) for p in segmentation], size)
    else:
        raise ValueError("neither polygons nor RLE")
    if not mask.any():
        raise ValueError("a mask without a pixel in the image")
    return mask


def _polygon(values: Any) -> np.ndarray:
    numbers = isinstance(values, list) and all(type(v) in (int, float) for v in values)
    if not numbers or len(values) < 6 or len(values) % 2 or not all(abs(v) <= _FARTHEST for v in values):
        raise ValueError("a polygon that is no list of at least three x, y pairs")
    return np.array(values, np.float64).reshape(-1, 2)
