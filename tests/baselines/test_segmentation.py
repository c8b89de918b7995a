"""Nucleus and cell of drawn crops."""

import cv2
import numpy as np
import pytest

from wbcjax.baselines.segmentation import segment
from wbcjax.roi import EXPANDED

PLASMA, CYTOPLASM, NUCLEUS, RED_CELL = (235, 228, 232), (200, 180, 226), (120, 70, 190), (225, 185, 190)


def drawn(*lobes, cytoplasm=34, red_cell=False):
    """A crop of 96 pixels: a cell of that radius, and its nucleus of (x, y, radius) discs."""
    image = np.full((96, 96, 3), PLASMA, np.uint8)
    if red_cell:
        cv2.circle(image, (88, 48), 14, RED_CELL, -1)
    cv2.circle(image, (48, 48), cytoplasm, CYTOPLASM, -1)
    for x, y, radius in lobes:
        cv2.circle(image, (x, y), radius, NUCLEUS, -1)
    return image


def disc(x, y, radius):
    return cv2.circle(np.zeros((96, 96), np.uint8), (x, y), radius, 1, -1) > 0


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("red_cell", [False, True])
def test_nucleus_and_cell(red_cell):
    found = segment(drawn((48, 48, 20), red_cell=red_cell), EXPANDED)
    assert iou(found.nucleus, disc(48, 48, 20)) > 0.9
    assert iou(found.cell, disc(48, 48, 34)) > 0.9
    np.testing.assert_array_equal(found.cytoplasm, found.cell & ~found.nucleus)
    assert not (found.nucleus & ~found.cell).any()


def test_lobes_apart_count_and_specks_do_not():
    found = segment(drawn((34, 48, 10), (62, 48, 10), (48, 70, 1)), EXPANDED)
    assert iou(found.nucleus, disc(34, 48, 10) | disc(62, 48, 10)) > 0.85
    assert not found.nucleus[70, 48] and found.cell[70, 48]


def test_black_fill_is_no_part_of_a_cell():
    image = drawn((48, 48, 20))
    image[:, 60:] = 3
    found = segment(image, EXPANDED)
    assert not found.cell[:, 60:].any() and found.nucleus[48, 40]


def test_without_a_cell_something_stands_in():
    black = segment(np.zeros((16, 24, 3), np.uint8), EXPANDED)
    assert black.nucleus.all() and black.cell.all() and not black.cytoplasm.any()
    grey = np.full((32, 32, 3), 200, np.uint8)
    grey[8:20, 8:20] = 90
    found = segment(grey, EXPANDED)
    assert iou(found.nucleus, np.pad(np.ones((12, 12), bool), ((8, 12), (8, 12)))) > 0.75
    assert segment(np.full((16, 16, 3), 200, np.uint8), EXPANDED).nucleus.any()
