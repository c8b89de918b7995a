"""Crops: where the window lies, what is in it, what is outside."""

import cv2
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbcjax.config import CropConfig
from wbcjax.errors import DataError
from wbcjax.roi.crop import crop, crops, window

TIGHT = CropConfig(margin=0.0, square=False)
COORDINATES = np.indices((48, 64)).astype(np.uint8)
IMAGE = np.stack([COORDINATES[1], COORDINATES[0], np.full((48, 64), 200, np.uint8)], axis=-1)  # red is x, green is y


def box(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_tight_crop_is_the_slice():
    np.testing.assert_array_equal(crop(IMAGE, box(10, 5, 30, 25), (20, 20), TIGHT), IMAGE[5:25, 10:30])


def test_no_box_is_the_whole_image_resized():
    expected = cv2.resize(IMAGE, (16, 12), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(crop(IMAGE, None, (12, 16)), expected)


def test_square_window_is_centred_on_the_box():
    assert window(box(10, 10, 30, 20), CropConfig(margin=0.0)).tolist() == [10, 5, 30, 25]


def test_margin_is_a_fraction_of_the_longer_side():
    config = CropConfig(margin=0.1, square=False)
    assert window(box(10, 10, 30, 20), config).tolist() == [8, 8, 32, 22]


def test_outside_the_image_is_black_and_the_cell_stays_in_place():
    result = crop(IMAGE, box(-4, -2, 16, 18), (20, 20), TIGHT)
    assert (result[:2] == 0).all() and (result[:, :4] == 0).all()
    np.testing.assert_array_equal(result[2:, 4:], IMAGE[:18, :16])


def test_bottom_right_corner_is_padded():
    result = crop(IMAGE, box(54, 38, 74, 58), (20, 20), TIGHT)
    np.testing.assert_array_equal(result[:10, :10], IMAGE[38:, 54:])
    assert (result[10:] == 0).all() and (result[:, 10:] == 0).all()


def test_shrinking_averages_and_growing_interpolates():
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    full = box(0, 0, 40, 40)
    small, large = crop(noise, full, (10, 10), TIGHT), crop(noise, full, (80, 80), TIGHT)
    means = noise.reshape(10, 4, 10, 4, 3).mean((1, 3))
    assert np.abs(small - means).max() <= 0.5 + 1e-6
    np.testing.assert_array_equal(large, cv2.resize(noise, (80, 80), interpolation=cv2.INTER_LINEAR))


def test_box_thinner_than_a_pixel_gives_one_pixel():
    result = crop(IMAGE, box(10.1, 20.1, 10.2, 20.2), (3, 3), TIGHT)
    assert (result == IMAGE[20, 10]).all()


@pytest.mark.parametrize("bad", [(5, 5, 5, 9), (5, 9, 9, 5), (np.nan, 0, 1, 1), (0, 0, np.inf, 1)])
def test_box_without_area_is_refused(bad):
    with pytest.raises(DataError, match="no area to crop"):
        crop(IMAGE, box(*bad), (8, 8))


def test_box_beside_the_image_is_refused():
    with pytest.raises(DataError, match="lies outside its 64×48 image"):
        crop(IMAGE, box(100, 0, 120, 20), (8, 8))


def test_many_are_as_one_by_one():
    boxes = [box(0, 0, 9, 9), None, box(40, 30, 64, 48)]
    result = crops([IMAGE] * 3, boxes, (11, 13), workers=3)
    assert result.shape == (3, 11, 13, 3) and result.dtype == np.uint8
    for one, b in zip(result, boxes, strict=True):
        np.testing.assert_array_equal(one, crop(IMAGE, b, (11, 13)))


def test_images_may_differ_in_size_or_come_as_one_array():
    assert crops([IMAGE, IMAGE[:20, :20]], [None, None], (8, 8)).shape == (2, 8, 8, 3)
    assert crops(np.stack([IMAGE, IMAGE]), [None, None], (8, 8)).shape == (2, 8, 8, 3)
    assert crops([], [], (8, 8)).shape == (0, 8, 8, 3)


def test_error_names_the_image():
    with pytest.raises(DataError, match="image 1: box"):
        crops([IMAGE, IMAGE], [None, box(1, 1, 1, 1)], (8, 8))


def test_every_image_needs_its_box():
    with pytest.raises(DataError, match="2 images but 1 boxes"):
        crops([IMAGE, IMAGE], [None], (8, 8))


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float32, (2,), elements=st.floats(0, 47, width=32)),
    hnp.arrays(np.float32, (2,), elements=st.floats(0.5, 60, width=32)),
    st.booleans(), st.floats(0, 1), st.sampled_from([(8, 8), (20, 30), (96, 80)]),
)
def test_any_box_in_the_image_gives_the_size_and_a_window_about_its_centre(corner, extent, square, margin, size):
    config = CropConfig(margin=margin, square=square)
    target = np.concatenate([corner, corner + extent])
    assert crop(IMAGE, target, size, config).shape == (*size, 3)
    frame = window(target, config)
    np.testing.assert_allclose(frame[:2] + frame[2:], target[:2] + target[2:], rtol=1e-4, atol=1e-3)
    assert (frame[:2] <= target[:2] + 1e-3).all() and (frame[2:] >= target[2:] - 1e-3).all()
    if square:
        np.testing.assert_allclose(frame[2] - frame[0], frame[3] - frame[1], rtol=1e-4)
