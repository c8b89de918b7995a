"""The rows of Table 2."""

import cv2
import numpy as np
import pytest

from wbcjax.pipeline.localisation import TEST, iou_rows, ms_per_image
from wbcjax.roi import EXPANDED


def test_rows_count_misses_as_zero_and_leave_out_images_without_truth():
    unit = np.array([0, 0, 10, 10], np.float32)
    nothing = np.zeros((0, 4), np.float32)
    true = [unit[None], unit[None], nothing, nothing]
    rows = iou_rows([unit, None, unit, None], true, split=TEST, variant="faithful")
    values = {r["metric"]: r["value"] for r in rows if r["metric"] != "iou_fraction"}
    assert values == pytest.approx({"mean_iou": 0.5, "min_iou": 0, "max_iou": 1, "std_iou": 0.5, "median_iou": 0.5,
                                    "missed": 2, "images": 2})
    fractions = [r["value"] for r in rows if r["metric"] == "iou_fraction"]
    assert fractions[0] == fractions[-1] == 0.5 and sum(fractions) == 1
    assert {r["metric"] for r in rows if "paper" in r} == {"mean_iou"}


def test_timing_gives_opencv_its_threads_back():
    before = cv2.getNumThreads()
    assert ms_per_image(np.zeros((2, 48, 64, 3), np.uint8), EXPANDED, passes=1) > 0
    assert cv2.getNumThreads() == before
