"""Anchors: literal values, rounding, order, a plain loop."""

import math

import numpy as np
import pytest

from wbcjax.ops.anchors import base_anchors, grid_anchors, pyramid_anchors, strides_of


def test_base_anchors_literal():
    np.testing.assert_array_equal(base_anchors([32], [1.0]), [[-16, -16, 16, 16]])
    # sqrt(2) * 32 = 45.25 and 22.63: half of each is rounded
    np.testing.assert_array_equal(base_anchors([32], [0.5, 2.0]), [[-23, -11, 23, 11], [-11, -23, 11, 23]])


def test_ratios_are_outermost():
    base = base_anchors([10, 20], [1.0, 4.0])
    np.testing.assert_array_equal(base[:, 2], [5, 10, 2, 5])  # 2.5 is rounded to the even 2
    np.testing.assert_array_equal(base[:, 3], [5, 10, 10, 20])


def test_grid_equals_plain_loop():
    base = base_anchors([8, 16], [0.5, 1.0])
    expected = [
        [x * 3 + b[0], y * 4 + b[1], x * 3 + b[2], y * 4 + b[3]]
        for y in range(2) for x in range(5) for b in base
    ]  # fmt: skip
    np.testing.assert_array_equal(grid_anchors(base, (2, 5), (4, 3)), expected)


def test_pyramid():
    shapes, sizes, ratios = [(6, 8), (3, 4)], [(16,), (32,)], [(0.5, 1.0, 2.0)] * 2
    levels = pyramid_anchors(shapes, [8, 16], sizes, ratios)
    assert [level.shape for level in levels] == [(6 * 8 * 3, 4), (3 * 4 * 3, 4)]
    assert all(level.dtype == np.float32 for level in levels)
    for level, (size,) in zip(levels, sizes, strict=True):
        sides = level[:, 2:] - level[:, :2]
        np.testing.assert_allclose(np.sqrt(sides.prod(1)), size, rtol=0.05)
    with pytest.raises(ValueError):
        pyramid_anchors(shapes, [8], sizes, ratios)


def test_strides():
    assert strides_of((480, 640), [(120, 160), (15, 20), (8, 10)]) == ((4, 4), (32, 32), (60, 64))


def test_no_location():
    assert grid_anchors(base_anchors([32], [1.0, 2.0]), (0, 4), 8).shape == (0, 4)


def test_sides_follow_ratio_and_size():
    for ratio in (0.5, 1.0, 2.0):
        x1, y1, x2, y2 = base_anchors([512], [ratio])[0]
        assert math.isclose((y2 - y1) / (x2 - x1), ratio, rel_tol=0.01)
