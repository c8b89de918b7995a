"""The check of a data root: counts and anomalies, on a small root with one of each and on the real data."""

import cv2
import numpy as np
import pytest

from wbcjax.data.check import check
from wbcjax.data.provenance import Provenance, write_table
from wbcjax.errors import DataError

CLASSES = ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL")
_XML = (
    "<annotation><filename>{name}.jpg</filename><size><width>64</width><height>48</height></size>"
    "<object><name>{kind}</name><bndbox><xmin>10</xmin><ymin>1</ymin><xmax>{right}</xmax><ymax>30</ymax></bndbox>"
    "</object></annotation>"
)


def picture(path, seed, size=(24, 32)):
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 255, (4, 4, 3), np.uint8)
    assert cv2.imwrite(str(path), cv2.resize(small, size[::-1]))
    return path


@pytest.fixture
def root(tmp_path):
    """A clean data root: one file a class and split, each of its own original, and their annotations."""
    images = tmp_path / "blood-cells" / "dataset2-master" / "dataset2-master" / "images"
    names, sources, labels = [], [], [",Image,Category"]
    for i, split in enumerate(("TRAIN", "TEST", "TEST_SIMPLE")):
        for j, name in enumerate(CLASSES):
            source = 1000 + 10 * i + j
            picture(images / split / name / "_0_1.jpeg", source)
            names.append(f"{split}/{name}/_0_1.jpeg")
            sources.append(source)
            labels.append(f",{source},{name}")
            original = f"BloodImage_{source:05d}"
            bccd = tmp_path / "BCCD_Dataset" / "BCCD"
            picture(bccd / "JPEGImages" / f"{original}.jpg", 100 + source, (48, 64))
            (bccd / "Annotations").mkdir(exist_ok=True)
            (bccd / "Annotations" / f"{original}.xml").write_text(_XML.format(name=original, kind="WBC", right=60))
    folder = tmp_path / "blood-cells" / "dataset-master" / "dataset-master"
    folder.mkdir(parents=True)
    (folder / "labels.csv").write_text("\n".join(labels) + "\n")
    number = np.array(sources, np.int32)
    table = Provenance(tuple(names), number, number, number, number, np.zeros((12, 2, 3), np.float32))
    write_table(table, tmp_path / "provenance.csv")
    return tmp_path


def kinds(report):
    return {anomaly.kind: anomaly.message for anomaly in report.anomalies}


def test_clean_root(root):
    report = check(root)
    assert report.anomalies == []
    assert report.files["TRAIN"] == dict.fromkeys(("eosinophil", "lymphocyte", "monocyte", "neutrophil"), 1)
    assert report.originals["TEST"]["monocyte"] == 1
    assert (report.annotated, report.boxes, report.dropped) == (12, {"wbc": 12}, 0)
    assert report.wbc_per_image == {1: 12} and report.wbc_at_border == 12
    lines = report.text().splitlines()
    assert "  TRAIN                 1           1         1           1    4" in lines
    assert lines[-1] == "Anomalies: 0"


def test_every_anomaly_is_named(root):
    images = root / "blood-cells" / "dataset2-master" / "dataset2-master" / "images"
    bccd = root / "BCCD_Dataset" / "BCCD"
    train = images / "TRAIN" / "EOSINOPHIL"
    whole = (train / "_0_1.jpeg").read_bytes()
    (images / "TEST" / "EOSINOPHIL" / "_0_1.jpeg").write_bytes(whole)
    (train / "_0_2.jpeg").write_bytes(whole[:-30])
    (train / "notes.txt").touch()
    picture(train / "_0_3.jpeg", 5, (10, 10))
    cv2.imwrite(str(train / "_0_4.jpeg"), np.full((24, 32, 3), 90, np.uint8))
    (images / "TRAIN" / "BASOPHIL").mkdir()
    (images / "TEST_SIMPLE" / "MONOCYTE" / "_0_1.jpeg").unlink()
    labels = root / "blood-cells" / "dataset-master" / "dataset-master" / "labels.csv"
    labels.write_text(labels.read_text().replace(",1000,EOSINOPHIL", ",1000,MONOCYTE"))
    annotation = bccd / "Annotations" / "BloodImage_01000.xml"
    annotation.write_text(_XML.format(name="BloodImage_01000", kind="RBC", right=10))
    (bccd / "Annotations" / "BloodImage_01001.xml").write_text("<annotation>")
    narrow = _XML.format(name="BloodImage_01002", kind="WBC", right=12)
    (bccd / "Annotations" / "BloodImage_01002.xml").write_text(narrow)

    report = check(root)
    found = kinds(report)
    assert "_0_2.jpeg: truncated JPEG" in found["damaged or odd file"]
    assert found["image of another size"] == "TRAIN/EOSINOPHIL/_0_3.jpeg: 10×10 pixels, most have 32×24"
    assert found["image without colour"] == "TRAIN/EOSINOPHIL/_0_4.jpeg"
    assert found["identical files"] == "TRAIN/EOSINOPHIL/_0_1.jpeg = TEST/EOSINOPHIL/_0_1.jpeg"
    assert found["file that is no image"] == "TRAIN/EOSINOPHIL/notes.txt"
    assert found["unexpected folder"] == "TRAIN/BASOPHIL"
    assert found["class without images"] == "TEST_SIMPLE/MONOCYTE"
    assert found["missing file"] == "TEST_SIMPLE/MONOCYTE/_0_1.jpeg"
    assert found["file of unknown original"] == "TRAIN/EOSINOPHIL/_0_4.jpeg"
    assert "BloodImage_01000: its copies lie in EOSINOPHIL" in found["class of an original that differs"]
    assert found["box or size that is wrong"] == "BloodImage_01000: RBC box 1 has zero width (10, 1, 10, 30)"
    assert "BloodImage_01001.xml: not valid XML" in found["damaged annotation"]
    assert found["image without an annotation"] == "BloodImage_01001.jpg"
    assert found["image without a WBC box"] == "BloodImage_01000"
    assert found["box of an unusual size for its class"].startswith("BloodImage_01002: wbc (10, 1, 12, 30): 8 pixels")
    assert report.dropped == 1
    text = report.text()
    assert all(anomaly.message in text for anomaly in report.anomalies)


def test_original_in_both_splits(root):
    number = np.array([1000, 1000], np.int32)
    names = ("TRAIN/EOSINOPHIL/_0_1.jpeg", "TEST/EOSINOPHIL/_0_1.jpeg")
    write_table(
        Provenance(names, number, number, number, number, np.zeros((2, 2, 3), np.float32)), root / "provenance.csv"
    )
    assert kinds(check(root))["original in TRAIN and TEST"] == "BloodImage_01000"


def test_parts_are_enough_but_nothing_is_not(root, tmp_path_factory):
    only_boxes = check(root / "BCCD_Dataset" / "BCCD")
    assert only_boxes.files == {} and only_boxes.annotated == 12
    assert set(kinds(only_boxes)) == {"missing data set"}
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match="holds neither blood-cells nor BCCD_Dataset; check the data root"):
        check(empty)
    with pytest.raises(DataError, match=r"none: no such folder"):
        check(empty / "none")


def test_real_data(data_root):
    report = check(data_root)
    assert {split: sum(row.values()) for split, row in report.files.items()} == {
        "TRAIN": 9957,
        "TEST": 2487,
        "TEST_SIMPLE": 71,
    }
    assert list(report.files["TRAIN"].values()) == [2497, 2483, 2478, 2499]
    assert list(report.originals["TRAIN"].values()) == [75, 27, 16, 159]
    assert report.boxes == {"wbc": 372, "rbc": 4153, "platelets": 361} and report.dropped == 2
    assert report.wbc_per_image == {0: 6, 1: 344, 2: 14} and report.wbc_at_border == 109
    numbers = {}
    for anomaly in report.anomalies:
        numbers[anomaly.kind] = numbers.get(anomaly.kind, 0) + 1
    assert numbers == {
        "identical files": 2,
        "box or size that is wrong": 2,
        "image without a WBC box": 6,
        "box of an unusual size for its class": 3,
        "cell in TRAIN and TEST": 6,
        "one cell of two classes": 1,
        "originals of the same cell within a split": 21,
    }
