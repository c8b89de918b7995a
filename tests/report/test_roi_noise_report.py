"""Noise before the ROI: tables and figures from rows."""

import cv2
import numpy as np
import pytest

from wbcjax.evaluation.results import row
from wbcjax.report.roi_noise import roi_noise_curves, roi_noise_examples, roi_noise_tables


def rows() -> list[dict]:
    localiser = {"model": "color", "input": "whole", "split": "detector test", "variant": "robust"}
    chain = {"model": "custom1", "input": "roi", "split": "TEST", "classifier": "recipe", "images": 622}
    made = [row(**{**localiser, "variant": "expanded, blur of 3 pixels"}, metric="noise_iou", value=0.4)]
    for alpha in (0.0, 0.5):
        at = {"alpha": alpha}
        made += [
            row(**localiser, **at, metric="noise_iou", value=0.8 - alpha, low=0.7 - alpha, high=0.9 - alpha),
            row(**localiser, **at, metric="missed_share", value=alpha / 5, low=0, high=1),
            row(**chain, **at, added="after cropping", localiser="color", metric="chain_accuracy", value=0.9 - alpha,
                low=0.3, high=1),
            row(**chain, **at, added="before the ROI", localiser="color", variant="robust", metric="chain_accuracy",
                value=0.9 - alpha / 2, low=0.3, high=1),
            row(**chain, **at, added="before the ROI", localiser="color", variant="robust", metric="missed_share",
                value=0.6),
        ]
    return [r | {"experiment": "roi_noise"} for r in made]


def test_tables():
    localisers, chain = roi_noise_tables(rows())
    assert [[c.text for c in line] for line in localisers.rows] == [
        ["Colour ROI (robust)", "0.800", "0.300"], ["Colour ROI (robust), missed", "0.0 %", "10.0 %"]]
    assert localisers.rows[0][1].interval == "0.700–0.900"
    assert [[c.text for c in line] for line in chain.rows] == [
        ["recipe", "after cropping", "90.0", "40.0"], ["recipe", "before the ROI: Colour ROI (robust)", "90.0", "65.0"]]
    assert "Custom CNN 1 on 622 files" in chain.title
    assert not list(roi_noise_tables([]))


def test_curves(tmp_path):
    assert min(cv2.imread(str(roi_noise_curves(rows(), tmp_path / "curves.png"))).shape[:2]) > 300
    with pytest.raises(ValueError, match="needs noise_iou"):
        roi_noise_curves([r for r in rows() if r["metric"] == "chain_accuracy"], tmp_path / "none.png")


def test_examples(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 24, 32, 3), dtype=np.uint8)
    path = roi_noise_examples(
        [pictures], [{"a": [np.float32([2, 2, 20, 20]), None], "b": [None, None]}], [{"a": pictures[:, :20, :20]}],
        (0.0, 0.5), tmp_path / "examples.png", names=("a", "b"))
    assert min(cv2.imread(str(path)).shape[:2]) > 100
