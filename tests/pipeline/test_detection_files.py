"""Detections as files: what they hold, and that they can be read back."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from wbcjax.data import coco
from wbcjax.errors import ConfigError, DataError
from wbcjax.evaluation.detection import ImageDetections
from wbcjax.pipeline.detection_files import as_coco, as_csv, image_files, names_below, write_detections


def objects(size: tuple[int, int], *boxes: tuple[int, int, int, int]) -> ImageDetections:
    """Detections of whole pixels whose masks are the boxes without their first pixel."""
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
        mask[y0, x0] = False
    scores = np.linspace(0.9, 0.6, len(boxes), dtype=np.float32)
    labels = np.arange(len(boxes), dtype=np.int32) % 2
    return ImageDetections(np.array(boxes, np.float32).reshape(-1, 4), scores, labels, masks)


def test_written_detections_are_a_coco_data_set(tmp_path):
    images = [np.full((20, 30, 3), 200, np.uint8), np.full((16, 16, 3), 100, np.uint8)]
    found = [objects((20, 30), (3, 4, 12, 10), (15, 2, 29, 19)), objects((16, 16))]
    write_detections(tmp_path, ["a/x.jpg", "y.png"], images, found, ("wbc", "rbc"))
    drawn = cv2.cvtColor(cv2.imread(str(tmp_path / "a/x.png")), cv2.COLOR_BGR2RGB)
    assert drawn.shape == (20, 30, 3) and (drawn != images[0]).any()
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "y.png")), images[1])

    for name, image in zip(("a/x.jpg", "y.png"), images, strict=True):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / "images" / name), image)
    back = coco(tmp_path / "detections.json", tmp_path / "images", strict=True)
    assert back.class_names == ("wbc", "rbc") and back.sizes == ((20, 30), (16, 16))
    np.testing.assert_array_equal(back.boxes[0], found[0].boxes)
    np.testing.assert_array_equal(back.labels[0], [0, 1])
    np.testing.assert_array_equal(back.masks[0], found[0].masks)
    assert len(back.boxes[1]) == 0


def test_an_empty_mask_is_no_segmentation():
    nothing = objects((20, 30), (3, 4, 4, 5))  # a box of one pixel, whose mask lacks it
    written = as_coco(["a.jpg"], [(20, 30)], [nothing], ("wbc",))
    assert [entry["segmentation"] for entry in written["annotations"]] == [[]]


def test_the_csv_has_a_line_for_each_box():
    text = as_csv(["a.jpg", "b.jpg"], [objects((20, 30), (3, 4, 12, 10)), objects((20, 30))], ("wbc",))
    assert text == ("image,class,score,x_min,y_min,x_max,y_max,mask_area\n"
                    "a.jpg,wbc,0.9000,3.00,4.00,12.00,10.00,53\n")


def test_names_are_below_the_common_folder_and_unambiguous():
    assert names_below([Path("d/a/x.jpg"), Path("d/b/x.jpg")]) == ["a/x.jpg", "b/x.jpg"]
    assert names_below([Path("d/a/x.jpg")]) == ["x.jpg"]
    with pytest.raises(ConfigError, match=r"x\.jpg and x\.bmp would be drawn into the same PNG"):
        names_below([Path("d/x.jpg"), Path("d/x.bmp")])
    with pytest.raises(ConfigError, match=r"x\.jpg and x\.jpg would be drawn into the same PNG"):
        names_below([Path("d/x.jpg"), Path("d/x.jpg")])


def test_folders_stand_for_their_images(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert image_files([tmp_path, Path("z.jpg")]) == [tmp_path / "a.jpg", tmp_path / "b.PNG", Path("z.jpg")]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no image"):
        image_files([tmp_path / "empty"])
