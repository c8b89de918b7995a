"""Masks and boxes drawn over images."""

import cv2
import numpy as np
import pytest

from wbcjax.report import overlay, style


def test_a_mask_is_washed_in_its_colour_and_nothing_else_changes():
    image, mask = np.full((20, 20, 3), 100, np.uint8), np.zeros((20, 20), bool)
    mask[5:15, 5:15] = True
    drawn = overlay.tinted(image, mask, "#ff0000")
    np.testing.assert_array_equal(drawn[10, 10], [154, 65, 65])
    np.testing.assert_array_equal(drawn[5, 7], [255, 0, 0])  # the outline
    np.testing.assert_array_equal(drawn[~mask], image[~mask])
    assert (image == 100).all(), "the image given must stay as it is"


def test_an_empty_mask_changes_nothing():
    image = np.full((8, 8, 3), 7, np.uint8)
    np.testing.assert_array_equal(overlay.tinted(image, np.zeros((8, 8), bool), style.BLUE), image)


def test_objects_are_outlined_within_the_image():
    image = np.zeros((480, 640, 3), np.uint8)
    boxes = np.array([[100, 200, 300, 400], [500, 0, 640, 480]], np.float32)
    drawn = overlay.draw_objects(image, boxes, np.zeros((2, 480, 640), bool), ["wbc 0.90", "wbc 0.80"],
                                 ["#00ff00", "#0000ff"])
    np.testing.assert_array_equal(drawn[300, 100], [0, 255, 0])
    np.testing.assert_array_equal(drawn[399, 200], [0, 255, 0])
    np.testing.assert_array_equal(drawn[479, 570], [0, 0, 255])
    assert not drawn[300, 200].any() and drawn[180:198, 100:200].any()  # inside nothing, above the caption
    assert drawn.shape == image.shape and not image.any()


def test_the_grid_shows_every_image(tmp_path):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(4)]
    box, mask = np.array([[5, 5, 20, 30]], np.float32), np.zeros((1, 48, 64), bool)
    none = box[:0], mask[:0]
    path = overlay.masked_detections(images, [box, box, none[0], box], [mask, mask, none[1], mask], [box] * 4,
                                     [mask] * 4, tmp_path / "worst.png", titles=list("abcd"))
    height, width, _ = cv2.imread(str(path)).shape
    assert width > height > 200
    with pytest.raises(ValueError, match="at least one image"):
        overlay.masked_detections([], [], [], [], [], tmp_path / "none.png", titles=[])
