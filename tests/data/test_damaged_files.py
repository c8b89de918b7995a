"""Files that once ended in another exception, took more memory than they are worth, or led to other files."""

import json
import struct
import zipfile
import zlib

import h5py
import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.cli.parse import read_config
from wbcjax.data.coco import coco
from wbcjax.data.images import image_size, read_image
from wbcjax.data.provenance_table import COLUMNS, read_table
from wbcjax.data.voc import read_annotation, stop, warn
from wbcjax.errors import CheckpointError, ConfigError, DataError
from wbcjax.evaluation.results import read_results
from wbcjax.pretrained.keras_file import read_keras

HUGE = "1" + "0" * 400
"""A whole number that no float holds."""


def png(width, height):
    """One grey pixel in a PNG whose header states another size."""
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixel = zlib.compress(b"\0\0")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def bmp(width, height):
    """The headers of a BMP."""
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def dataset(folder, *, box="[1, 1, 2, 2]", name="a.png", shape=None):
    """A COCO file of one image of 4×4 pixels, with one box."""
    (folder / "a.png").write_bytes(png(4, 4))
    segmentation = f', "segmentation": {shape}' if shape else ""
    path = folder / "coco.json"
    path.write_text(f'{{"images": [{{"id": 1, "file_name": "{name}"}}], "categories": [{{"id": 1, "name": "WBC"}}], '
                    f'"annotations": [{{"id": 1, "image_id": 1, "category_id": 1, "bbox": {box}{segmentation}}}]}}')
    return path


def test_json_nested_too_deeply_is_no_recursion_error(tmp_path):
    path = tmp_path / "deep.json"
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match=r"deep\.json: not valid JSON \(nested too deeply\); download it again"):
        coco(path, tmp_path)
    with pytest.raises(DataError, match=r"deep\.json: not a results file \(nested too deeply\)"):
        read_results(path)
    with pytest.raises(ConfigError, match=r"deep\.json: not JSON \(nested too deeply\)"):
        read_config(path, cfg.ClassifierConfig)


def test_json_with_a_number_of_too_many_digits_is_refused(tmp_path):
    path = tmp_path / "digits.json"
    path.write_text("9" * 5000)
    with pytest.raises(DataError, match=r"digits\.json: not valid JSON \(Exceeds the limit"):
        coco(path, tmp_path)


def test_whole_numbers_that_no_float_holds_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"a\.png: WBC annotation 1 has bbox = \[1, 1, 2, 1000"):
        coco(dataset(tmp_path, box=f"[1, 1, 2, {HUGE}]"), tmp_path)
    with pytest.raises(DataError, match="a polygon that is no list of at least three"):
        coco(dataset(tmp_path, shape=f"[[0, 0, 1, 1, 2, {HUGE}]]"), tmp_path)
    (tmp_path / "config.json").write_text(f'{{"optim": {{"learning_rate": {HUGE}}}}}')
    with pytest.raises(ConfigError, match=r"config\.json: optim\.learning_rate = 1000.* is impossible"):
        read_config(tmp_path / "config.json", cfg.ClassifierConfig)
    header = ("experiment", "config", "seeds", "data_fingerprint", "wall_time", "notes", "code_version", "device",
              "versions", "created")
    row = {"model": "lenet", "input": "roi", "split": "TEST", "metric": "loss", "value": int(HUGE)}
    (tmp_path / "results.json").write_text(json.dumps(dict.fromkeys(header, 0) | {"rows": [row]}))
    with pytest.raises(DataError, match=r"results\.json: row 0 has value = 1000.*expected a finite number"):
        read_results(tmp_path / "results.json")


def test_run_lengths_whose_sum_overflows_take_no_memory(tmp_path):
    """Their sum is 16 modulo 2**64, as many as the image has pixels."""
    runs = [2**62, 2**62, 2**62, 2**62 + 16]
    with pytest.raises(DataError, match="the runs cover 1000000000000 pixels or more, the image has 16"):
        coco(dataset(tmp_path, shape=f'{{"size": [4, 4], "counts": {runs}}}'), tmp_path)
    with pytest.raises(DataError, match=r"RLE of size 5, the image has \[4, 4\]"):
        coco(dataset(tmp_path, shape='{"size": 5, "counts": [16]}'), tmp_path)


@pytest.mark.parametrize("name", ["../a.png", "/etc/passwd", "..\\\\a.png", "C:\\\\a.png", "b/../../a.png"])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="leaves the image folder; give a path relative to it"):
        coco(dataset(tmp_path, name=name), tmp_path / "images")
    path = tmp_path / "a.xml"
    path.write_text(f"<annotation><filename>{json.loads(chr(34) + name + chr(34))}</filename></annotation>")
    with pytest.raises(DataError, match=r"a\.xml: the file name .* leaves the image folder"):
        read_annotation(path, tmp_path / "images", stop)


def test_a_name_that_no_file_system_takes_is_a_missing_image(tmp_path):
    with pytest.raises(DataError, match=r"aaa\.png: image 1 of coco\.json is missing"):
        coco(dataset(tmp_path, name="a" * 300 + ".png"), tmp_path)
    (tmp_path / "b.xml").write_text(f"<annotation><filename>{'a' * 300}</filename></annotation>")
    with pytest.raises(DataError, match=r"b\.xml: its image .* is missing"):
        read_annotation(tmp_path / "b.xml", tmp_path, stop)


@pytest.mark.parametrize("document", [
    '<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>',
    '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation><filename>&b;</filename></annotation>',
    '<!DOCTYPE a [<!ENTITY b "cccc"><!ENTITY d "&b;&b;&b;&b;">]><annotation>&d;</annotation>'])
def test_xml_entities_are_refused(tmp_path, document):
    (tmp_path / "a.xml").write_text(document)
    with pytest.raises(DataError, match=r"a\.xml: declares XML entities"):
        read_annotation(tmp_path / "a.xml", tmp_path, warn)


def test_a_stated_width_of_thousands_of_digits_is_none(tmp_path):
    (tmp_path / "a.png").write_bytes(png(4, 4))
    (tmp_path / "a.xml").write_text(f"<annotation><size><width>{'9' * 5000}</width><height>4</height></size>"
                                    "</annotation>")
    assert read_annotation(tmp_path / "a.xml", tmp_path, warn).size == (4, 4)


@pytest.mark.parametrize(("name", "content"), [
    ("bomb.png", png(60_000, 60_000)), ("bomb.bmp", bmp(60_000, -60_000)),
    ("bomb.jpg", b"\xff\xd8\xff\xc0\0\x11\x08" + struct.pack(">HH", 60_000, 60_000) + b"\3" + b"\0" * 9
     + b"\xff\xda\0\2\xff\xd9")])
def test_headers_that_state_too_many_pixels_are_refused_before_decoding(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"bomb.*: its header states 60000×60000 pixels, more than the 134,217,728"):
            read(path)


def test_an_image_without_a_pixel_is_damaged(tmp_path):
    path = tmp_path / "none.png"
    path.write_bytes(png(0, 4))
    for read in (read_image, image_size):
        with pytest.raises(DataError, match=r"none\.png: damaged, its header states 0×4 pixels"):
            read(path)


@pytest.mark.parametrize(("column", "value"), [("source", "2147483648"), ("tx", "nan"), ("a", "1e999")])
def test_provenance_with_a_number_out_of_range_is_damaged(tmp_path, column, value):
    row = dict.fromkeys(COLUMNS, "1") | {column: value}
    path = tmp_path / "table.csv"
    path.write_text(",".join(COLUMNS) + "\n" + ",".join(row.values()) + "\n")
    with pytest.raises(DataError, match=r"table\.csv: a row is damaged"):
        read_table(path)


def test_a_compact_table_that_is_missing_no_zip_or_uneven_is_refused(tmp_path):
    path = tmp_path / "table.npz"
    with pytest.raises(DataError, match=r"table\.npz: no such table"):
        read_table(path)
    path.write_bytes(b"PK")
    with pytest.raises(DataError, match=r"table\.npz: damaged"):
        read_table(path)
    columns = dict.fromkeys(("source", "inliers", "second_source", "second_inliers"), np.zeros(2, np.int16))
    np.savez(path, names=np.array(["a"]), affine=np.zeros((1, 6), np.int32), **columns)
    with pytest.raises(DataError, match=r"table\.npz: damaged \(columns of different lengths\)"):
        read_table(path)


def test_hdf5_reads_no_other_file_and_no_more_than_it_holds(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["layer/kernel"] = np.ones(3, np.float32)
        other["layers/layer/vars/0"] = np.ones(3, np.float32)
    (tmp_path / "other.bin").write_bytes(np.ones(3, np.float32).tobytes())

    def made(fill):
        path = tmp_path / "case.h5"
        with h5py.File(path, "w") as file:
            fill(file)
        return path

    linked = made(lambda file: file.update({"model_weights": h5py.ExternalLink("other.h5", "/"),
                                            "layers": h5py.ExternalLink("other.h5", "/layers")}))
    assert read_keras(linked) == {}
    outside = made(lambda file: file.create_dataset("layer/kernel", (3,), "f4",
                                                    external=[(str(tmp_path / "other.bin"), 0, 12)]))
    with pytest.raises(CheckpointError, match=r"case\.h5: layer/kernel lies in another file"):
        read_keras(outside)
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "layer/kernel", (3,), "f4")
    with pytest.raises(CheckpointError, match=r"case\.h5: layer/kernel lies in another file"):
        read_keras(made(lambda file: file.create_virtual_dataset("layer/kernel", layout)))
    with pytest.raises(CheckpointError, match=r"case\.h5: layer/kernel makes it expand to more than 100 times its"):
        read_keras(made(lambda file: file.create_dataset("layer/kernel", (10**6, 10**4), "f4", chunks=(100, 100))))


def test_an_archive_of_keras_that_expands_too_much_is_refused(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.weights.h5", bytes(10**6))
    with pytest.raises(CheckpointError, match=r"model\.keras: expands to more than 100 times its size"):
        read_keras(path)
