"""Noise of boxes: recovered where it is known, and single cells matched with their masks."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from wbcjax.data import DetectionSet
from wbcjax.errors import DataError
from wbcjax.pipeline.box_noise import shared_std, single_cells


def test_shared_noise_is_recovered():
    rng = np.random.default_rng(0)
    shared = rng.normal(0, [3, 6], (4000, 2))
    a, b = (list((shared + rng.normal(0, own, shared.shape)).T) for own in (2, 5))
    np.testing.assert_allclose(shared_std(a, b), [3, 6], rtol=0.1)


def test_estimates_that_contradict_each_other_share_none():
    errors = np.arange(5.0)
    assert shared_std([errors], [-errors]) == [0]


def test_single_cells(tmp_path):
    (tmp_path / "BCCD_masks").mkdir()
    cells = np.zeros((48, 64), np.uint8)
    cells[10:30, 20:40] = 255
    for number in (1, 2, 3):
        cv2.imwrite(str(tmp_path / f"BCCD_masks/BloodImage_Mask_0000{number}.png"), cells)
    box, away = np.float32([[18, 9, 43, 33]]), np.float32([[0, 0, 12, 9]])
    boxes = (box, np.concatenate([box, away]), away, box)  # one cell; two; a box elsewhere; no mask file
    names = tuple(Path(f"BloodImage_0000{number}.jpg") for number in (1, 2, 3, 4))
    found = DetectionSet(names, boxes, tuple(np.zeros(len(b), np.int32) for b in boxes), ("wbc",), ((48, 64),) * 4)
    true, hulls, chosen = single_cells(found, tmp_path)
    np.testing.assert_array_equal(true, box)
    np.testing.assert_array_equal(hulls, [[20, 10, 40, 30]])
    assert chosen == [0]
    with pytest.raises(DataError, match="no image with one white cell and its mask"):
        single_cells(found.subset([2]), tmp_path)
