"""A folder of images with boxes: VOC or COCO, recognised or refused with the remedy."""

import json

import cv2
import numpy as np
import pytest

from wbcjax.data import detection_folder, voc
from wbcjax.errors import DataError


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((20, 30, 3), 200, np.uint8))


def coco_file(path, file_name="a.png", box=(2, 3, 10, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({
        "images": [{"id": 1, "file_name": file_name}],
        "categories": [{"id": 5, "name": "blast"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 5, "bbox": list(box)}],
    }))
    return path


def test_voc(synthetic_root):
    for path in (synthetic_root, synthetic_root / "BCCD_Dataset" / "BCCD"):  # the root holds a .json of its own, too
        found = detection_folder(path)
        assert found.names == voc(synthetic_root).names and found.class_names[0] == "wbc"


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("boxes.json", "a.png"),
        ("_annotations.coco.json", "images/a.png"),
        ("annotations/train.json", "a.png"),
        ("annotations/train.json", "train/a.png"),
        ("annotations/train.json", "annotations/a.png"),
    ],
)
def test_coco(tmp_path, file, image):
    path = coco_file(tmp_path / file)
    picture(tmp_path / image)
    (tmp_path / "other").mkdir()
    for given in (tmp_path, path):
        found = detection_folder(given)
        assert found.paths == (tmp_path / image,)
        assert found.class_names == ("blast",) and found.masks is None
        assert found.boxes[0].tolist() == [[2, 3, 12, 11]]


def test_strict_is_passed_on(tmp_path):
    coco_file(tmp_path / "boxes.json", box=(2, 3, 0, 8))
    picture(tmp_path / "a.png")
    assert detection_folder(tmp_path).boxes[0].shape == (0, 4)
    with pytest.raises(DataError, match="zero width"):
        detection_folder(tmp_path, strict=True)


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(DataError, match="none: no such file or folder"):
        detection_folder(tmp_path / "none")
    with pytest.raises(DataError, match=r"holds no boxes; expected a folder Annotations .* or one .json file"):
        detection_folder(tmp_path)
    (tmp_path / "a.xml").write_text("<annotation/>")
    with pytest.raises(DataError, match=r"holds .xml files; move them to .*Annotations and the images to .*JPEGImages"):
        detection_folder(tmp_path)
    with pytest.raises(DataError, match=r"not a .json file"):
        detection_folder(tmp_path / "a.xml")
    coco_file(tmp_path / "boxes.json")
    with pytest.raises(DataError, match=r"its first image a.png is neither beside it nor in a folder beside it"):
        detection_folder(tmp_path)
    coco_file(tmp_path / "more.json")
    with pytest.raises(DataError, match=r"holds 2 .json files, boxes.json, more.json; name one of them"):
        detection_folder(tmp_path)
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(DataError, match="JPEGImages: no such folder beside Annotations"):
        detection_folder(tmp_path)
