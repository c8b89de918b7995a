"""The figure of settings changed one at a time."""

import cv2
import pytest

from wbcjax.evaluation.results import row
from wbcjax.report.sensitivity import sensitivity_figure

COMMON = {"model": "custom1", "input": "roi", "split": "TRAIN, folds 0, 1 of 5"}


def test_a_figure_with_and_without_differences(tmp_path):
    rows = [row(**COMMON, variant="recipe", metric="accuracy", value=0.9, low=0.85, high=0.94),
            row(**COMMON, variant="head: sigmoid", metric="accuracy", value=0.88, low=0.8, high=0.93)]
    path = sensitivity_figure(rows, tmp_path / "a.png", base="recipe", choices={"head": "softmax"})
    plain = cv2.imread(str(path))
    rows.append(row(**COMMON, variant="head: sigmoid", metric="difference", value=-0.02, low=-0.04, high=0.01))
    full = cv2.imread(str(sensitivity_figure(rows, tmp_path / "b.png", base="recipe", choices={"head": "softmax"})))
    assert min(plain.shape[:2]) > 100 and (plain.shape != full.shape or (plain != full).any())
    with pytest.raises(ValueError, match="needs the accuracy of 'base'"):
        sensitivity_figure(rows, tmp_path / "c.png", base="base", choices={})
