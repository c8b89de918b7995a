"""Sources of images: class folders, the Kaggle layout, VOC and COCO, good and bad."""

import json
import logging

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path as Outline

from wbcjax.data import class_folders, kaggle, originals, voc
from wbcjax.data.coco import coco
from wbcjax.data.masks import decode_counts, polygon_mask, rle_mask, segmentation_mask
from wbcjax.data.provenance import Provenance, write_table
from wbcjax.errors import DataError


def picture(path, height=48, width=64):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((height, width, 3), 200, np.uint8))
    return path


# --- folders of class folders ---


def test_class_folders(tmp_path):
    for name in ("b/2.png", "b/1.JPG", "a/3.jpeg"):
        picture(tmp_path / name)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    (tmp_path / "b" / ".hidden.png").touch()
    (tmp_path / ".git").mkdir()
    found = class_folders(tmp_path)
    assert found.class_names == ("a", "b")
    assert [p.name for p in found.paths] == ["3.jpeg", "1.JPG", "2.png"]
    assert found.labels.tolist() == [0, 1, 1] and found.labels.dtype == np.int32
    assert found.sources == ("3", "1", "2")
    assert found.names[0] == f"{tmp_path.name}/a/3.jpeg"
    part = found.subset([2, 0])
    assert (part.sources, part.labels.tolist(), len(part)) == (("2", "3"), [1, 0], 2)


def test_class_folders_refuses_what_is_no_data_set(tmp_path, caplog):
    with pytest.raises(DataError, match=r"none: no such folder; check the path"):
        class_folders(tmp_path / "none")
    with pytest.raises(DataError, match="holds no class folder; put the images of each class into a folder"):
        class_folders(tmp_path)
    (tmp_path / "a").mkdir()
    with pytest.raises(DataError, match=r"a: holds no image .*add images, delete the folder"):
        class_folders(tmp_path)
    with pytest.raises(DataError, match="no class folder holds an image"):
        class_folders(tmp_path, strict=False)
    picture(tmp_path / "b" / "1.png")
    caplog.clear()
    assert class_folders(tmp_path, strict=False).class_names == ("a", "b")
    assert len(caplog.records) == 1 and "a: holds no image" in caplog.text


# --- the Kaggle layout ---


@pytest.fixture
def kaggle_root(tmp_path):
    """A data root of two originals: one eosinophil (TRAIN), one monocyte (TEST), its table and labels."""
    images = tmp_path / "blood-cells" / "dataset2-master" / "dataset2-master" / "images"
    for split in ("TRAIN", "TEST"):
        for name in ("EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL"):
            (images / split / name).mkdir(parents=True)
    picture(images / "TRAIN" / "EOSINOPHIL" / "_0_1.jpeg")
    picture(images / "TRAIN" / "EOSINOPHIL" / "_0_2.jpeg")
    picture(images / "TEST" / "MONOCYTE" / "_0_3.jpeg")
    picture(tmp_path / "BCCD_Dataset" / "BCCD" / "JPEGImages" / "BloodImage_00007.jpg")
    folder = tmp_path / "blood-cells" / "dataset-master" / "dataset-master"
    picture(folder / "JPEGImages" / "BloodImage_00009.jpg")
    (folder / "labels.csv").write_text(",Image,Category\n,7,EOSINOPHIL\n,8,\n,9,MONOCYTE\n,,\n")
    number = np.array([7, 9], np.int32)
    table = Provenance(
        ("TRAIN/EOSINOPHIL/_0_1.jpeg", "TEST/MONOCYTE/_0_3.jpeg"),
        number,
        number,
        number,
        number,
        np.zeros((2, 2, 3), np.float32),
    )
    write_table(table, tmp_path / "provenance.csv")
    return tmp_path


def test_kaggle_reads_sources_from_the_table_of_the_root(kaggle_root):
    found = kaggle(kaggle_root, "TRAIN", strict=False)
    assert found.class_names == ("eosinophil", "lymphocyte", "monocyte", "neutrophil")
    assert found.names == ("TRAIN/EOSINOPHIL/_0_1.jpeg", "TRAIN/EOSINOPHIL/_0_2.jpeg")
    assert found.sources == ("BloodImage_00007", "_0_2")  # the second is not in the table
    images = kaggle_root / "blood-cells" / "dataset2-master" / "dataset2-master" / "images"
    test = kaggle(images, "TEST", strict=False)
    assert (test.labels.tolist(), test.sources) == ([2], ("BloodImage_00009",))


def test_originals_are_found_in_both_folders(kaggle_root):
    found = originals(kaggle_root)
    assert found.sources == ("BloodImage_00007", "BloodImage_00009")
    assert found.labels.tolist() == [0, 2]
    assert originals(kaggle_root, "TEST").sources == ("BloodImage_00009",)


def test_kaggle_refuses_what_is_incomplete(kaggle_root):
    with pytest.raises(DataError, match=r"LYMPHOCYTE: holds no image"):
        kaggle(kaggle_root, "TRAIN")
    with pytest.raises(DataError, match=r"TEST_SIMPLE.EOSINOPHIL: no such folder; check the path"):
        kaggle(kaggle_root, "TEST_SIMPLE")
    with pytest.raises(DataError, match="split 'VAL' is unknown; choose one of TRAIN, TEST, TEST_SIMPLE"):
        kaggle(kaggle_root, "VAL")
    with pytest.raises(DataError, match=r"elsewhere: holds no blood-cells/.*check the data root"):
        kaggle(kaggle_root / "elsewhere")
    labels = kaggle_root / "blood-cells" / "dataset-master" / "dataset-master" / "labels.csv"
    labels.write_text(",Image,Category\n,7,BASOPHIL\n,9,MONOCYTE\n")
    with pytest.raises(DataError, match=r"labels\.csv: BloodImage_00007 has the class 'basophil'"):
        originals(kaggle_root)
    labels.write_text(",Image,Category\n,seven,BASOPHIL\n")
    with pytest.raises(DataError, match=r"labels\.csv: line 2 names the image 'seven'"):
        originals(kaggle_root)
    labels.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"labels\.csv: no CSV file"):
        originals(kaggle_root)
    labels.unlink()
    with pytest.raises(DataError, match=r"labels\.csv: no such file"):
        originals(kaggle_root)


# --- VOC ---


def write_voc(root, objects, name="BloodImage_00001", filename=None, size=(48, 64), body=None):
    """A VOC folder with one image of 64×48 and an annotation of (class, xmin, ymin, xmax, ymax) objects."""
    picture(root / "JPEGImages" / f"{name}.jpg")
    (root / "Annotations").mkdir(exist_ok=True)
    boxes = "".join(
        f"<object><name>{n}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for n, a, b, c, d in objects
    )
    text = body or (
        f"<annotation><filename>{filename or name + '.jpg'}</filename><size><width>{size[1]}</width>"
        f"<height>{size[0]}</height><depth>3</depth></size>{boxes}</annotation>"
    )
    (root / "Annotations" / f"{name}.xml").write_text(text)
    return root


def test_voc_reads_bccd(tmp_path):
    write_voc(tmp_path / "BCCD_Dataset" / "BCCD", [("RBC", 1, 2, 30, 40), ("WBC", 10, 10, 64, 48)])
    found = voc(tmp_path, strict=True)
    assert found.class_names == ("wbc", "rbc", "platelets")
    assert found.names == found.sources == ("BloodImage_00001",)
    assert found.sizes == ((48, 64),) and found.masks is None
    assert found.labels[0].tolist() == [1, 0] and found.labels[0].dtype == np.int32
    np.testing.assert_array_equal(found.boxes[0], np.array([[1, 2, 30, 40], [10, 10, 64, 48]], np.float32))
    np.testing.assert_array_equal(found.boxes_of("wbc")[0], [[10, 10, 64, 48]])
    assert found.boxes_of("platelets")[0].shape == (0, 4)
    with pytest.raises(DataError, match="no class 'cat' in this set; its classes are wbc, rbc, platelets"):
        found.boxes_of("cat")
    assert found.select(["BloodImage_00001"]).names == found.names
    with pytest.raises(DataError, match="no file named other among the 1 of this set"):
        found.select(["other"])


def test_voc_names_other_classes_as_found(tmp_path):
    write_voc(tmp_path, [("zebra", 1, 2, 3, 4), ("Ant", 1, 2, 3, 4)])
    found = voc(tmp_path)
    assert found.class_names == ("Ant", "zebra") and found.labels[0].tolist() == [1, 0]


@pytest.mark.parametrize(
    "box, problem, kept",
    [
        ((50, 33, 50, 40), r"has zero width \(50, 33, 50, 40\)", None),
        ((50, 33, 51, 33), r"has zero height \(50, 33, 51, 33\)", None),
        ((50, 33, 40, 40), r"has negative width \(50, 33, 40, 40\)", None),
        ((50, 33, 70, 40), r"reaches outside the 64×48 image \(50, 33, 70, 40\)", (50, 33, 64, 40)),
        ((-5, -6, 9.5, 40), r"reaches outside the 64×48 image \(-5, -6, 9.5, 40\)", (0, 0, 9.5, 40)),
        ((70, 33, 80, 40), r"lies outside the 64×48 image \(70, 33, 80, 40\)", None),
    ],
)
def test_voc_boxes_without_area_or_outside(tmp_path, caplog, box, problem, kept):
    write_voc(tmp_path, [("WBC", 1, 2, 30, 40), ("RBC", *box)])
    with pytest.raises(DataError, match=f"^BloodImage_00001: RBC box 2 {problem}; .*strict=False$"):
        voc(tmp_path, strict=True)
    boxes = voc(tmp_path).boxes[0]
    np.testing.assert_array_equal(boxes, np.array([(1, 2, 30, 40), *([kept] if kept else [])], np.float32))
    assert len(caplog.records) == 1
    assert caplog.text.strip().endswith("; clipped" if kept else "; dropped")


def test_voc_without_boxes(tmp_path, caplog):
    write_voc(tmp_path, [])
    with pytest.raises(DataError, match=r"BloodImage_00001: the annotation holds no boxes; annotate it, or keep it"):
        voc(tmp_path, strict=True)
    found = voc(tmp_path)
    assert found.boxes[0].shape == (0, 4) and found.labels[0].shape == (0,)
    assert "kept as an image without cells" in caplog.text


@pytest.mark.parametrize(
    "body, message",
    [
        ("", r"not valid XML"),
        ("<annotation><object>", r"not valid XML .*download it again"),
        ("<html></html>", r"not a VOC annotation \(its root is <html>"),
        ('<!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>', "declares XML entities"),
        ("<annotation><object><bndbox/></object></annotation>", "box 1 has no <name>"),
        ("<annotation><object><name>WBC</name></object></annotation>", r"box 1 has no four numbers .*xmin=None"),
        (
            "<annotation><object><name>WBC</name><bndbox><xmin>nan</xmin><ymin>1</ymin><xmax>2</xmax><ymax>3</ymax>"
            "</bndbox></object></annotation>",
            r"box 1 has no four numbers .*xmin=nan",
        ),
    ],
)
def test_voc_refuses_what_is_no_annotation(tmp_path, body, message):
    write_voc(tmp_path, [])
    (tmp_path / "Annotations" / "BloodImage_00001.xml").write_text(body)
    with pytest.raises(DataError, match=message) as error:
        voc(tmp_path)
    assert "BloodImage_00001.xml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../x.jpg", "/etc/passwd", "a/../../x.jpg", "..\\x.jpg", "C:\\x.jpg"])
def test_paths_that_escape_are_refused(tmp_path, name):
    write_voc(tmp_path, [("WBC", 1, 2, 3, 4)], filename=name)
    with pytest.raises(DataError, match="leaves the image folder; give a path relative to it"):
        voc(tmp_path)
    content = {"images": [{"id": 1, "file_name": name}], "annotations": [], "categories": []}
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"image 1: the file name .* leaves the image folder"):
        coco(tmp_path / "c.json", tmp_path)


def test_voc_missing_parts(tmp_path):
    with pytest.raises(DataError, match="holds no VOC data set"):
        voc(tmp_path)
    (tmp_path / "Annotations").mkdir()
    with pytest.raises(DataError, match="JPEGImages: no such folder beside Annotations"):
        voc(tmp_path)
    (tmp_path / "JPEGImages").mkdir()
    with pytest.raises(DataError, match=r"Annotations: holds no \.xml file"):
        voc(tmp_path)
    write_voc(tmp_path, [("WBC", 1, 2, 3, 4)])
    (tmp_path / "JPEGImages" / "BloodImage_00001.jpg").unlink()
    with pytest.raises(DataError, match=r"BloodImage_00001\.jpg is missing; add the image or delete"):
        voc(tmp_path)


def test_voc_of_another_size(tmp_path, caplog):
    write_voc(tmp_path, [("WBC", 1, 2, 3, 4)], size=(480, 640))
    with pytest.raises(DataError, match="the annotation says 640×480 pixels, the image has 64×48"):
        voc(tmp_path, strict=True)
    assert voc(tmp_path).sizes == ((48, 64),)
    assert "the image's size is used" in caplog.text
    write_voc(tmp_path, [("WBC", 1, 2, 3, 4)], size=(0, 0))  # what tools write that do not know it
    assert voc(tmp_path, strict=True).sizes == ((48, 64),)


# --- masks ---


def encode(mask):
    """Run lengths down the columns, starting with background."""
    flat = mask.T.reshape(-1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat.astype(int), [1 - int(flat[-1])]])))
    return np.diff(np.concatenate([[0], edges])).tolist()


def compress(counts):
    """The string of a compressed RLE, as rleToString of COCO's maskApi.c writes it."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            bits = value & 0x1F
            value >>= 5
            more = value != -1 if bits & 0x10 else value != 0
            text += chr((bits | 0x20 if more else bits) + 48)
    return text


@given(st.integers(1, 9), st.integers(1, 9), st.randoms(use_true_random=False))
def test_rle_round_trip(height, width, random):
    mask = np.array([[random.random() < 0.5 for _ in range(width)] for _ in range(height)])
    counts = encode(mask)
    np.testing.assert_array_equal(rle_mask(counts, (height, width)), mask)
    assert decode_counts(compress(counts)) == counts


@given(st.lists(st.integers(0, 300_000), min_size=1, max_size=12))
def test_compressed_counts_round_trip(counts):
    assert decode_counts(compress(counts)) == counts


def test_compressed_rle_literal():
    """By hand from the rule of maskApi.c: a 2×2 square at (1, 1) of a 4×4 image has runs 5 2 2 2 5."""
    assert decode_counts("52203") == [5, 2, 2, 2, 5]
    mask = segmentation_mask({"size": [4, 4], "counts": "52203"}, (4, 4))
    np.testing.assert_array_equal(np.argwhere(mask), [[1, 1], [1, 2], [2, 1], [2, 2]])


@given(st.lists(st.tuples(st.floats(-4, 24), st.floats(-4, 20)), min_size=3, max_size=3))
def test_triangle_agrees_with_matplotlib_on_pixel_centres(corners):
    y, x = np.mgrid[0:16, 0:20] + 0.5
    centres = np.stack([x.ravel(), y.ravel()], axis=1)
    outline = Outline([*corners, corners[0]], closed=True)
    inside, outside = (outline.contains_points(centres, radius=r).reshape(16, 20) for r in (-1e-6, 1e-6))
    clear = inside == outside  # not on an edge, where either answer is right
    np.testing.assert_array_equal(polygon_mask([np.array(corners)], (16, 20))[clear], inside[clear])


def test_polygon_square_holes_and_union():
    square = np.array([[1, 1], [4, 1], [4, 3], [1, 3]], float)
    mask = polygon_mask([square], (5, 6))
    assert mask.sum() == 6 and mask[1:3, 1:4].all()
    assert polygon_mask([square, square], (5, 6)).sum() == 6  # a union, not a difference
    assert polygon_mask([square + np.array([100.0, 0.0])], (5, 6)).sum() == 0


@pytest.mark.parametrize(
    "segmentation, problem",
    [
        ({"size": [4, 5], "counts": [20]}, r"RLE of size \[4, 5\], the image has \[4, 4\]"),
        ({"size": [4, 4], "counts": [3, 3]}, "the runs cover 6 pixels, the image has 16"),
        ({"size": [4, 4], "counts": [-1, 17]}, "the runs cover 16 pixels"),
        ({"size": [4, 4], "counts": [16]}, "a mask without a pixel"),
        ({"size": [4, 4], "counts": "0 "}, "the character ' ' is none of compressed RLE"),
        ({"size": [4, 4], "counts": "0P"}, "ends in the middle of a number"),
        ({"size": [4, 4]}, "RLE without counts"),
        ([[1, 2, 3, 4]], "no list of at least three x, y pairs"),
        ([[1, 2, 3, 4, 5, 6, 7]], "no list of at least three x, y pairs"),
        ([[1, 2, 3, 4, 5, float("inf")]], "no list of at least three x, y pairs"),
        ("abc", "neither polygons nor RLE"),
    ],
)
def test_malformed_segmentations(segmentation, problem):
    with pytest.raises(ValueError, match=problem):
        segmentation_mask(segmentation, (4, 4))


# --- COCO ---


def write_coco(root, annotations, **changes):
    """A COCO file of two images of 64×48 and two categories, with the given annotations."""
    picture(root / "images" / "one.png")
    picture(root / "images" / "sub" / "two.png")
    images = [{"id": 7, "file_name": "one.png", "height": 48, "width": 64}, {"id": 3, "file_name": "sub/two.png"}]
    content = {
        "images": images,
        "categories": [{"id": 20, "name": "rbc"}, {"id": 10, "name": "wbc"}],
        "annotations": annotations,
    } | changes
    (root / "c.json").write_text(json.dumps(content))
    return root / "c.json", root / "images"


def box_annotation(**changes):
    return {"id": 5, "image_id": 7, "category_id": 20, "bbox": [10, 8, 20, 12]} | changes


def test_coco_boxes(tmp_path):
    crowd = box_annotation(id=6, iscrowd=1)
    found = coco(*write_coco(tmp_path, [box_annotation(), crowd]), strict=True)
    assert found.class_names == ("wbc", "rbc")
    assert [p.name for p in found.paths] == ["one.png", "two.png"]
    np.testing.assert_array_equal(found.boxes[0], [[10, 8, 30, 20]])
    assert found.labels[0].tolist() == [1]
    assert found.boxes[1].shape == (0, 4)
    assert found.masks is None and found.sizes == ((48, 64), (48, 64))


def test_coco_masks_of_three_kinds_agree(tmp_path):
    mask = np.zeros((48, 64), bool)
    mask[8:20, 10:30] = True
    polygon = [[10, 8, 30, 8, 30, 20, 10, 20]]
    counts = encode(mask)
    kinds = [polygon, {"size": [48, 64], "counts": counts}, {"size": [48, 64], "counts": compress(counts)}]
    annotations = [box_annotation(id=i, segmentation=kind) for i, kind in enumerate(kinds, start=1)]
    found = coco(*write_coco(tmp_path, annotations), strict=True)
    np.testing.assert_array_equal(found.masks[0], np.stack([mask] * 3))
    assert found.masks[1].shape == (0, 48, 64)
    assert found.subset([1]).masks[0].shape == (0, 48, 64)
    assert coco(*write_coco(tmp_path, annotations), masks=False).masks is None


def test_coco_object_without_a_mask_among_others(tmp_path, caplog):
    annotations = [box_annotation(), box_annotation(id=6, segmentation=[[10, 8, 30, 8, 30, 20]])]
    files = write_coco(tmp_path, annotations)
    with pytest.raises(DataError, match=r"one\.png: rbc annotation 5 has no mask while others have"):
        coco(*files, strict=True)
    assert coco(*files).masks[0][0].sum() == 240
    assert "its box is filled" in caplog.text


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"bbox": [10, 8, 0, 12]}, r"one\.png: rbc annotation 5 has zero width \(10, 8, 10, 20\)"),
        ({"bbox": [60, 8, 10, 12]}, "reaches outside the 64×48 image"),
        ({"bbox": [10, 8, 20]}, r"annotation 5 has bbox = \[10, 8, 20\], expected \[x, y, width, height\]"),
        ({"bbox": None}, "annotation 5 has bbox = None"),
        ({"category_id": 4}, "annotation 5 has category 4, which is not listed"),
        ({"image_id": 4}, "annotation 5 is for image 4, which is not listed"),
        ({"image_id": "7"}, "annotations entry 1 has image_id = '7', expected int"),
        ({"segmentation": [[1, 2]]}, r"one\.png: rbc annotation 5 has a polygon that is no list"),
        ({"segmentation": [[40, 30, 50, 30, 50, 40]]}, "annotation 5 has its mask outside its box"),
    ],
)
def test_coco_bad_annotations(tmp_path, change, problem):
    with pytest.raises(DataError, match=problem) as error:
        coco(*write_coco(tmp_path, [box_annotation(**change)]), strict=True)
    assert "\n" not in str(error.value)


def test_coco_drops_and_clips_unless_strict(tmp_path, caplog):
    annotations = [box_annotation(bbox=[10, 8, 0, 12]), box_annotation(id=6, bbox=[60, 8, 10, 12])]
    found = coco(*write_coco(tmp_path, annotations))
    np.testing.assert_array_equal(found.boxes[0], [[60, 8, 64, 20]])
    assert [r.getMessage().rsplit("; ", 1)[1] for r in caplog.records] == ["dropped", "clipped"]


def test_coco_bad_files(tmp_path):
    json_path, images = write_coco(tmp_path, [])
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        coco(tmp_path / "none.json", images)
    with pytest.raises(DataError, match=r"none: no such folder of images"):
        coco(json_path, tmp_path / "none")
    (images / "one.png").unlink()
    with pytest.raises(DataError, match=r"one\.png: image 7 of c\.json is missing"):
        coco(json_path, images)
    for text, problem in (
        ("{", "not valid JSON"),
        ("[]", "not a COCO file"),
        ("{}", "no list 'categories'"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "images entry 1 has file_name = None"),
    ):
        json_path.write_text(text)
        with pytest.raises(DataError, match=rf"c\.json: .*{problem}"):
            coco(json_path, images)
    twice = [{"id": 1, "file_name": "one.png"}, {"id": 1, "file_name": "sub/two.png"}]
    with pytest.raises(DataError, match="two images have the same id"):
        coco(*write_coco(tmp_path, [], images=twice))


def test_coco_of_another_size(tmp_path, caplog):
    files = write_coco(tmp_path, [], images=[{"id": 1, "file_name": "one.png", "height": 4, "width": 4}])
    with pytest.raises(DataError, match="64×48 pixels, the JSON says 4×4"):
        coco(*files, strict=True)
    assert coco(*files).sizes == ((48, 64),)


# --- the real data ---


def test_real_counts_are_table_1(data_root, caplog):
    counts = {split: np.bincount(kaggle(data_root, split).labels).tolist() for split in ("TRAIN", "TEST")}
    assert counts == {"TRAIN": [2497, 2483, 2478, 2499], "TEST": [623, 620, 620, 624]}
    simple = kaggle(data_root, "TEST_SIMPLE")
    assert (len(simple), len(set(simple.sources))) == (71, 69)
    assert np.bincount(originals(data_root, "TRAIN").labels).tolist() == [75, 27, 16, 159]
    assert np.bincount(originals(data_root, "TEST").labels).tolist() == [13, 6, 4, 48]


def test_real_boxes(data_root, caplog):
    with caplog.at_level(logging.WARNING):
        found = voc(data_root)
    assert len(found) == 364 and set(found.sizes) == {(480, 640)}
    assert [sum(map(len, found.boxes_of(c))) for c in found.class_names] == [372, 4153, 361]
    assert [len(b) for b in found.boxes_of("wbc")].count(0) == 6
    messages = [record.getMessage() for record in caplog.records]
    assert messages == [
        "BloodImage_00338: RBC box 13 has zero width (504, 337, 504, 337); dropped",
        "BloodImage_00343: RBC box 4 has zero width (181, 329, 181, 329); dropped",
    ]
    with pytest.raises(DataError, match="BloodImage_00338: RBC box 13 has zero width"):
        voc(data_root, strict=True)
