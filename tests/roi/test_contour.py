"""Our contour tracing against literal cases and against OpenCV's."""

import cv2
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbcjax.roi.contour import contour_area, largest_contour, trace_contours


def grid(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


def opencv(mask: np.ndarray) -> list[np.ndarray]:
    """OpenCV's contours as (k, 2), in raster order of their first pixels."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return sorted((c[:, 0] for c in found), key=lambda c: (c[0, 1], c[0, 0]))


def hull(contour: np.ndarray) -> list[int]:
    return [*contour.min(0), *contour.max(0)]


def assert_same(mask: np.ndarray) -> None:
    ours, theirs = trace_contours(mask), opencv(mask)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert {*map(tuple, mine.tolist())} == {*map(tuple, other.tolist())}
        assert contour_area(mine) == cv2.contourArea(other)
        assert hull(mine) == hull(other)
    largest = largest_contour(mask)
    if not theirs:
        assert largest is None
    else:
        expected = max(theirs, key=cv2.contourArea)
        assert {*map(tuple, largest.tolist())} == {*map(tuple, expected.tolist())}


def test_empty_mask_has_no_contour():
    assert trace_contours(np.zeros((4, 5), bool)) == []
    assert largest_contour(np.zeros((4, 5), bool)) is None


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_mask_without_pixels_has_no_contour(shape):
    assert trace_contours(np.zeros(shape, bool)) == []


def test_single_pixel_is_its_own_contour():
    (contour,) = trace_contours(grid("...", ".#.", "..."))
    assert contour.tolist() == [[1, 1]]
    assert contour_area(contour) == 0


def test_square_is_walked_counterclockwise_from_its_first_pixel():
    (contour,) = trace_contours(grid("###", "###", "###"))
    assert contour.tolist() == [[0, 0], [0, 1], [0, 2], [1, 2], [2, 2], [2, 1], [2, 0], [1, 0]]
    assert contour_area(contour) == 4


def test_thin_line_is_walked_both_ways():
    (contour,) = trace_contours(grid("###"))
    assert contour.tolist() == [[0, 0], [1, 0], [2, 0], [1, 0]]
    assert contour_area(contour) == 0


def test_corners_connect():
    assert len(trace_contours(grid("#..", ".#.", "..#"))) == 1
    assert len(trace_contours(grid("#..", "...", "..#"))) == 2


def test_holes_and_what_is_in_them_have_no_contour():
    ring = grid("#####", "#...#", "#.#.#", "#...#", "#####")
    (contour,) = trace_contours(ring)
    assert hull(contour) == [0, 0, 4, 4]
    assert [2, 2] not in contour.tolist()


def test_region_at_the_right_of_a_ring_is_found():
    ring_and_dot = grid("###..", "#.#.#", "###..")
    assert [hull(c) for c in trace_contours(ring_and_dot)] == [[0, 0, 2, 2], [4, 1, 4, 1]]


def test_of_equal_areas_the_first_in_raster_order_wins():
    two = grid("....##", "##..##", "##....")
    assert hull(largest_contour(two)) == [4, 0, 5, 1]


def test_more_pixels_do_not_make_a_contour_larger():
    """The area is the polygon's, as in OpenCV: a long line encloses nothing."""
    assert hull(largest_contour(grid("########", "........", "##......", "##......"))) == [0, 2, 1, 3]


@settings(max_examples=300, deadline=None)
@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14)))
def test_equals_opencv_on_any_mask(mask):
    assert_same(mask)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.98), st.integers(1, 40), st.integers(1, 40))
def test_equals_opencv_on_masks_of_any_density(seed, density, height, width):
    assert_same(np.random.default_rng(seed).random((height, width)) < density)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1, 4), st.floats(-0.3, 0.3))
def test_equals_opencv_on_smooth_blobs(seed, sigma, level):
    noise = np.random.default_rng(seed).normal(size=(60, 70))
    smooth = cv2.GaussianBlur(noise, (0, 0), sigma)
    assert_same(smooth > level * smooth.std())


@settings(max_examples=50, deadline=None)
@given(hnp.arrays(bool, (9, 9)))
def test_walk_is_opencvs_step_by_step(mask):
    for mine, other in zip(trace_contours(mask), opencv(mask), strict=True):
        assert mine.tolist() == other.tolist()
