"""Images on a canvas: size, scale, corner, zeros elsewhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wbcjax.data.canvas import fit, to_canvas


@pytest.mark.parametrize(
    ("size", "canvas", "expected", "scale"),
    [
        ((480, 640), (480, 640), (480, 640), 1.0),
        ((480, 640), (240, 320), (240, 320), 0.5),
        ((10, 20), (40, 40), (20, 40), 2.0),
        ((20, 10), (40, 40), (40, 20), 2.0),
        ((333, 500), (240, 320), (213, 320), 0.64),
        ((1, 1000), (64, 64), (1, 64), 0.064),  # would be rounded to nothing
    ],
)
def test_fit(size, canvas, expected, scale):
    assert fit(size, canvas) == (expected, scale)


@given(size=st.tuples(st.integers(1, 3000), st.integers(1, 3000)), canvas=st.tuples(*[st.integers(1, 700)] * 2))
def test_an_image_touches_two_sides_of_its_canvas_and_crosses_none(size, canvas):
    (height, width), scale = fit(size, canvas)
    assert 1 <= height <= canvas[0] and 1 <= width <= canvas[1]
    assert height == canvas[0] or width == canvas[1]
    assert abs(height - max(scale * size[0], 1)) <= 0.5 and abs(width - max(scale * size[1], 1)) <= 0.5


def test_an_image_of_the_canvas_is_unchanged():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    placed, scale = to_canvas(image, (6, 8))
    np.testing.assert_array_equal(placed, image)
    assert scale == 1


def test_shrinking_averages_and_the_rest_is_zero():
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, ::2] = 100
    placed, scale = to_canvas(image, (2, 5))
    assert scale == 0.5
    np.testing.assert_array_equal(placed[:, :2], 50)
    np.testing.assert_array_equal(placed[:, 2:], 0)


def test_boxes_follow_the_scale():
    image = np.zeros((30, 40, 3), np.uint8)
    image[10:20, 16:28] = 200
    for canvas in ((60, 80), (15, 64)):
        placed, scale = to_canvas(image, canvas)
        y, x = np.nonzero(placed[..., 0] >= 100)
        found = [x.min(), y.min(), x.max() + 1, y.max() + 1]
        np.testing.assert_allclose(found, np.array([16, 10, 28, 20]) * scale, atol=0.5)
