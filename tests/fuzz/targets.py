"""The readers of files, with valid files of each kind."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import h5py
import numpy as np

from wbcjax import config as cfg
from wbcjax.cli.parse import read_config as read_config_file
from wbcjax.data.coco import coco
from wbcjax.data.images import image_size, read_image
from wbcjax.data.provenance_table import COLUMNS, Provenance, read_table, write_table
from wbcjax.data.voc import read_annotation, warn
from wbcjax.evaluation.results import read_results
from wbcjax.pretrained.keras_file import read_here
from wbcjax.training.weights import is_ours, read_card, read_config, read_tensors, save_weights


@dataclass(frozen=True)
class Target:
    """One reader."""

    suffix: str
    make: Callable[[Path], list[bytes]]
    """Valid files; what they need beside them is written to the folder."""
    read: Callable[[Path], list[Path]]
    """Read a file; returns the paths that it led to."""
    tokens: tuple[bytes, ...] = ()
    ends: bool = False
    """The package runs ``read`` in a process of its own and makes an error of it when that hangs or crashes."""


PICTURE = np.random.default_rng(0).integers(0, 255, (12, 16, 3), np.uint8)


NEIGHBOUR = "a.png"
"""The image beside an annotation file; errors of one of its boxes name the image."""


def _encoded(suffix: str, pixels: np.ndarray = PICTURE) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def _with_picture(folder: Path) -> None:
    """An image in the folder, and one outside that no file may lead to."""
    (folder / NEIGHBOUR).write_bytes(_encoded(".png"))
    (folder.parent / "outside.png").write_bytes(_encoded(".png"))


def _voc(folder: Path) -> list[bytes]:
    _with_picture(folder)
    box = "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>8.5</ymax></bndbox>"
    body = ("<annotation><filename>a.png</filename><size><width>16</width><height>12</height><depth>3</depth></size>"
            f"<object><name>WBC</name>{box}</object><object><name>RBC</name>{box}</object></annotation>")
    return [body.encode(), f'<?xml version="1.0" encoding="UTF-8"?>\n{body}'.encode(),
            b"<annotation><filename>a.png</filename></annotation>"]


_XML = (b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"<!DOCTYPE a SYSTEM '/etc/passwd'>", b"&b;", b"&amp;", b"&#0;",
        b"<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]>", b"<a>" * 3000, b"</annotation>", b"<object>",
        b"<![CDATA[", b"<!--", b'<?xml version="1.0" encoding="UTF-16"?>', b'<?xml version="1.0" encoding="none"?>',
        b">../outside.png<",
        b"<!DOCTYPE a [<!ENTITY b '" + b"c" * 1000 + b"'><!ENTITY d '" + b"&b;" * 1000 + b"'>]>")


def _coco(folder: Path) -> list[bytes]:
    _with_picture(folder)
    shapes = ([[1, 1, 9, 1, 9, 8.5]], {"size": [12, 16], "counts": [20, 30, 142]},
              {"size": [12, 16], "counts": "d0n0^4"})
    files = []
    for shape in shapes:
        annotation = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 8, 7.5], "iscrowd": 0,
                      "segmentation": shape}
        files.append(json.dumps({"images": [{"id": 1, "file_name": "a.png", "width": 16, "height": 12}],
                                 "categories": [{"id": 1, "name": "WBC"}], "annotations": [annotation]}).encode())
    return files


def _config(folder: Path) -> list[bytes]:
    return [json.dumps(cfg.to_dict(config)).encode() for config in (
        cfg.ClassifierConfig(data=cfg.DataConfig(root=Path("root"))), cfg.ClassifierConfig(input="whole", fold=1))]


def _results(folder: Path) -> list[bytes]:
    header = {"experiment": "a", "config": {"b": 1}, "seeds": [0], "data_fingerprint": "c", "wall_time": 1.5,
              "notes": [], "code_version": "0", "device": {}, "versions": {}, "created": "2024"}
    row = {"model": "custom2", "input": "roi", "split": "TEST", "metric": "accuracy", "value": 0.9,
           "low": 0.8, "high": 1}
    return [json.dumps({**header, "rows": [row, {**row, "seed": 1}]}).encode()]


def _table() -> Provenance:
    return Provenance(("TRAIN/MONOCYTE/_0_1.jpeg", "TEST/MONOCYTE/_0_2.jpeg"), np.array([1, 2], np.int32),
                      np.array([99, 98], np.int32), np.array([2, -1], np.int32), np.array([3, 0], np.int32),
                      np.array([[[1, 0, 2], [0, 1, 3]]] * 2, np.float32))


def _provenance(suffix: str) -> Callable[[Path], list[bytes]]:
    def make(folder: Path) -> list[bytes]:
        write_table(_table(), folder / f"made{suffix}")
        return [(folder / f"made{suffix}").read_bytes()]

    return make


def _safetensors(folder: Path) -> list[bytes]:
    save_weights(folder / "made", {"classifier": {"kernel": np.ones((2, 3), np.float32)}}, {"mean": np.zeros(2)},
                 {"model": {"name": "lenet"}}, card={"source": "a"})
    return [(folder / "made").read_bytes()]


def _read_safetensors(path: Path) -> list[Path]:
    is_ours(path)
    read_config(path)
    read_card(path)
    read_tensors(path)
    return []


def _h5(folder: Path) -> list[bytes]:
    files = []
    for named in (True, False):
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            if named:
                file.create_dataset("conv1/conv1/kernel:0", data=np.ones((3, 3), np.float32))
                file.create_dataset("conv1/conv1/bias:0", data=np.ones(3, np.float32), compression="gzip")
            else:
                group = file.create_group("layers/dense/vars")
                group.attrs["name"] = "dense"
                group.create_dataset("0", data=np.ones((3, 3), np.float32))
                group.create_dataset("1", data=np.ones(3, np.float32))
        files.append(buffer.getvalue())
    return files


def _keras(folder: Path) -> list[bytes]:
    files = []
    for content in _h5(folder):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("model.weights.h5", content)
            file.writestr("config.json", "{}")
        files.append(buffer.getvalue())
    return files


def _picture(suffix: str) -> Target:
    def read(path: Path) -> list[Path]:
        image_size(path)
        read_image(path, strict=False)
        read_image(path)
        return []

    sizes = tuple(struct.pack(order + kind, value) for order in "<>" for kind in "Hi" for value in (0, 1, 32767))
    seeds = [_encoded(suffix), _encoded(suffix, np.zeros((40, 9, 3), np.uint8))]
    return Target(suffix, lambda folder: seeds, read, sizes)


def _read_nothing_else(read: Callable) -> Callable[[Path], list[Path]]:
    def call(path: Path) -> list[Path]:
        read(path)
        return []

    return call


TARGETS = {
    "voc": Target(".xml", _voc, lambda path: [read_annotation(path, path.parent, warn).path], _XML),
    "coco": Target(".json", _coco, lambda path: list(coco(path, path.parent).paths)),
    "config": Target(".json", _config, _read_nothing_else(lambda path: read_config_file(path, cfg.ClassifierConfig))),
    "results": Target(".json", _results, _read_nothing_else(read_results)),
    "csv": Target(".csv", _provenance(".csv"), _read_nothing_else(read_table), tuple(c.encode() for c in COLUMNS)),
    "npz": Target(".npz", _provenance(".npz"), _read_nothing_else(read_table)),
    "safetensors": Target(".safetensors", _safetensors, _read_safetensors,
                          (b'"BF16"', b'"F64"', b'"F8_E4M3"', b'"BOOL"', b'"__metadata__"')),
    "h5": Target(".h5", _h5, _read_nothing_else(read_here), ends=True),
    "keras": Target(".keras", _keras, _read_nothing_else(read_here), ends=True),
    **{suffix[1:]: _picture(suffix) for suffix in (".jpg", ".png", ".bmp", ".webp", ".tif")},
}
