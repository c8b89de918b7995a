"""The TFDS builders on a tiny layout: what goes in comes out, and no TensorFlow is touched."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from wbcjax.data.cell_masks import CYTOPLASM, NUCLEUS, read_cell_mask
from wbcjax.data.images import read_image
from wbcjax.errors import DataError
from wbcjax.typing import CLASS_NAMES

tfds = pytest.importorskip("tensorflow_datasets")
from wbcjax.data.tfds_builders import prepare  # noqa: E402

NAMES = tuple(f"BloodImage_000{n}" for n in ("00", "01", "02", "08", "10", "11", "12", "14", "15"))
BOXES = {"BloodImage_00000": [("WBC", 3, 4, 20, 25), ("RBC", 1, 1, 9, 8)], "BloodImage_00001": []}
VOC = ("<annotation><filename>{name}.jpg</filename><size><width>32</width><height>30</height></size>{objects}"
       "</annotation>")
OBJECT = ("<object><name>{}</name><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox>"
          "</object>")


def write_image(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (30, 32, 3), np.uint8))


@pytest.fixture
def root(tmp_path) -> Path:
    root = tmp_path / "root"
    images = root / "blood-cells/dataset2-master/dataset2-master/images"
    for split, count in (("TRAIN", 3), ("TEST", 2), ("TEST_SIMPLE", 1)):
        for label, class_name in enumerate(CLASS_NAMES):
            for number in range(count):
                write_image(images / split / class_name.upper() / f"_{label}_9999{number}.jpeg", 10 * label + number)
    write_image(images / "TRAIN/MONOCYTE/_0_1173.jpeg", 99)  # the provenance table knows this one
    bccd = root / "BCCD_Dataset/BCCD"
    (bccd / "Annotations").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        write_image(bccd / "JPEGImages" / f"{name}.jpg", seed)
        objects = "".join(OBJECT.format(*box) for box in BOXES.get(name, [("Platelets", 1, 2, 3, 4)]))
        (bccd / "Annotations" / f"{name}.xml").write_text(VOC.format(name=name, objects=objects))
    mask = np.zeros((30, 32), np.uint8)
    mask[5:20, 5:20], mask[8:12, 8:12] = 155, 255
    (root / "BCCD_masks").mkdir()
    cv2.imwrite(str(root / "BCCD_masks/BloodImage_Mask_00000.png"), mask)
    return root


def test_classification_round_trip(root, tmp_path):
    prepare(root, tmp_path / "tfds", progress=False)
    builder = tfds.builder("wbc_classification", data_dir=tmp_path / "tfds")
    sources = builder.as_data_source()
    assert {split: len(source) for split, source in sources.items()} == {"train": 13, "test": 8, "test_simple": 4}
    assert builder.info.features["label"].names == list(CLASS_NAMES)
    assert len(builder.as_data_source("train[:50%]")) in (6, 7)
    for example in sources["train"]:
        split, class_name, file = example["name"].decode().split("/")
        path = root / "blood-cells/dataset2-master/dataset2-master/images" / split / class_name / file
        np.testing.assert_array_equal(example["image"], read_image(path))
        assert CLASS_NAMES[example["label"]].upper() == class_name
        assert example["source"].decode() == (
            "BloodImage_00255" if file == "_0_1173.jpeg" else file.removesuffix(".jpeg"))


def test_detection_round_trip(root, tmp_path):
    prepare(root, tmp_path / "tfds", progress=False)
    sources = tfds.builder("bccd_detection", data_dir=tmp_path / "tfds").as_data_source()
    examples = {e["name"].decode(): e for source in sources.values() for e in source}
    assert sorted(examples) == sorted(NAMES)
    for name, example in examples.items():
        np.testing.assert_array_equal(example["image"],
                                      read_image(root / "BCCD_Dataset/BCCD/JPEGImages" / f"{name}.jpg"))
    first = examples["BloodImage_00000"]
    np.testing.assert_array_equal(first["boxes"], np.array([[3, 4, 20, 25], [1, 1, 9, 8]], np.float32))
    assert list(first["labels"]) == [0, 1]
    (mask,) = first["cell_mask"]
    np.testing.assert_array_equal(mask[..., 0], read_cell_mask(root / "BCCD_masks/BloodImage_Mask_00000.png"))
    assert (mask[10, 10, 0], mask[6, 6, 0], mask[0, 0, 0]) == (NUCLEUS, CYTOPLASM, 0)
    empty = examples["BloodImage_00001"]
    assert empty["boxes"].shape == (0, 4) and list(empty["labels"]) == [] and list(empty["cell_mask"]) == []


def test_no_tensorflow_and_no_import_of_the_builders_needed(root, tmp_path):
    prepare(root, tmp_path / "tfds", progress=False)
    code = ("import sys, tensorflow_datasets as tfds\n"
            f"source = tfds.builder('bccd_detection', data_dir={str(tmp_path / 'tfds')!r}).as_data_source('test')\n"
            "assert source[0]['image'].shape == (30, 32, 3)\n"
            "assert 'tensorflow' not in sys.modules")
    subprocess.run([sys.executable, "-c", code], check=True)


def test_prepared_files_are_reused_and_other_files_refused(root, tmp_path):
    folders = prepare(root, tmp_path / "tfds", progress=False)
    before = {path: path.stat().st_mtime_ns for folder in folders for path in folder.iterdir()}
    assert prepare(root, tmp_path / "tfds", progress=False) == folders
    assert before == {path: path.stat().st_mtime_ns for folder in folders for path in folder.iterdir()}
    (root / "BCCD_masks/BloodImage_Mask_00000.png").unlink()
    with pytest.raises(DataError, match=r"bccd_detection.*prepared from other files.*remove it"):
        prepare(root, tmp_path / "tfds", progress=False)


def test_damaged_image_is_named_and_nothing_prepared(root, tmp_path):
    path = root / "blood-cells/dataset2-master/dataset2-master/images/TEST/MONOCYTE/_2_99991.jpeg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"MONOCYTE/_2_99991\.jpeg: truncated"):
        prepare(root, tmp_path / "tfds", progress=False)
    assert not list((tmp_path / "tfds").rglob("*.array_record*"))
    write_image(path, 5)
    assert len(prepare(root, tmp_path / "tfds", progress=False)) == 2


def test_missing_root(tmp_path):
    with pytest.raises(DataError, match="holds no"):
        prepare(tmp_path / "nowhere", tmp_path / "tfds", progress=False)


def test_soft_edges_of_a_mask_go_to_the_nearest_value(tmp_path):
    values = np.array([[0, 70, 90, 155, 200, 210, 255]], np.uint8)
    cv2.imwrite(str(tmp_path / "mask.png"), cv2.merge([values] * 3))
    np.testing.assert_array_equal(read_cell_mask(tmp_path / "mask.png"), [[0, 0, 1, 1, 1, 2, 2]])
    (tmp_path / "mask.png").write_bytes(b"x")
    with pytest.raises(DataError, match="cannot be decoded"):
        read_cell_mask(tmp_path / "mask.png")
