"""TFDS builders of both data sets, in array_record files, without TensorFlow.

Importing this module registers them. After ``prepare`` (on the command line ``wbcjax data prepare``)
``tfds.builder("wbc_classification", data_dir=data_dir).as_data_source("train")`` and the same with
``"bccd_detection"`` give random access to decoded examples; for those two lines alone the import is not
needed.
"""

import abc
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds

from wbcjax.data.cell_masks import cell_mask_path, read_cell_mask
from wbcjax.data.images import read_image
from wbcjax.data.kaggle import SPLITS, kaggle
from wbcjax.data.sets import ClassificationSet, DetectionSet, name_of
from wbcjax.data.splits import detector_split
from wbcjax.data.voc import voc
from wbcjax.errors import DataError
from wbcjax.typing import CLASS_NAMES, DETECTION_CLASS_NAMES


class _Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """What both builders share: the file format, and the data root as TFDS's manual_dir."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Run `wbcjax data download ROOT`, then `wbcjax data prepare ROOT`."

    def __init__(self, *, file_format: Any = "array_record", **kwargs: Any):
        # The default of TFDS, tfrecord, cannot be read without TensorFlow.
        super().__init__(file_format=file_format, **kwargs)

    @staticmethod
    @abc.abstractmethod
    def read(root: Path) -> dict:
        """The set of each split."""

    @staticmethod
    def files(root: Path, data: ClassificationSet | DetectionSet) -> list[Path]:
        """Every file that goes into a split."""
        return list(data.paths)

    def fingerprint(self, root: Path) -> str:
        """Twelve hex digits over the names and sizes of the files of every split."""
        digest = hashlib.sha256()
        for split, data in self.read(root).items():
            for path in self.files(root, data):
                digest.update(f"{split}\0{name_of(path)}\0{path.stat().st_size}\n".encode())
        return digest.hexdigest()[:12]

    def _split_generators(self, dl_manager: Any) -> dict:
        root = Path(dl_manager.manual_dir)
        self.info.metadata["fingerprint"] = self.fingerprint(root)
        return {split: self._generate_examples(root, data) for split, data in self.read(root).items()}


class WbcClassification(_Builder):
    """The augmented images of dataset2-master with class and original; splits train, test and
    test_simple."""

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="12,515 copies of 348 blood smear images, each with its class and its original.",
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(None, None, 3), doc="RGB, the JPEG as published"),
                "label": tfds.features.ClassLabel(names=list(CLASS_NAMES)),
                "source": tfds.features.Text(doc="name of the original, BloodImage_00110; group by it"),
                "name": tfds.features.Text(doc="TRAIN/MONOCYTE/_0_5020.jpeg"),
            }),
            supervised_keys=("image", "label"),
            homepage="https://github.com/dhruvp/wbc-classification",
            disable_shuffling=True,  # array_record is read at random: the order of the files is kept
            metadata=tfds.core.MetadataDict(),
        )

    @staticmethod
    def read(root: Path) -> dict:
        return {split.lower(): kaggle(root, split) for split in SPLITS}

    def _generate_examples(self, root: Path, data: ClassificationSet) -> Iterator[tuple[int, dict]]:
        rows = zip(data.paths, data.labels.tolist(), data.sources, data.names, strict=True)
        for index, (path, label, source, name) in enumerate(rows):
            yield index, {"image": _checked_bytes(path), "label": label, "source": source, "name": name}


class BccdDetection(_Builder):
    """The BCCD images with boxes and cell masks; splits train and test are ``detector_split``.

    The published lists are not used: they share originals with the classification test set.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="364 blood smear images with the boxes of white cells, red cells and platelets.",
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(None, None, 3), doc="RGB, the JPEG as published"),
                "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32, doc="xyxy, pixels"),
                "labels": tfds.features.Sequence(
                    tfds.features.ClassLabel(names=list(DETECTION_CLASS_NAMES)), doc="class of each box"),
                "cell_mask": tfds.features.Sequence(
                    tfds.features.Image(shape=(None, None, 1), encoding_format="png"),
                    doc="one image: 0 background, 1 cytoplasm, 2 nucleus; none where none is published"),
                "name": tfds.features.Text(doc="BloodImage_00110"),
            }),
            homepage="https://github.com/Shenggan/BCCD_Dataset",
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    @staticmethod
    def read(root: Path) -> dict:
        data = voc(root)
        train, test = detector_split(data)
        return {"train": data.select(train), "test": data.select(test)}

    @staticmethod
    def files(root: Path, data: DetectionSet) -> list[Path]:
        masks = [cell_mask_path(root, name) for name in data.names]
        return [*data.paths, *(mask for mask in masks if mask is not None)]

    def _generate_examples(self, root: Path, data: DetectionSet) -> Iterator[tuple[int, dict]]:
        rows = zip(data.paths, data.boxes, data.labels, data.names, strict=True)
        for index, (path, boxes, labels, name) in enumerate(rows):
            mask = cell_mask_path(root, name)
            yield index, {"image": _checked_bytes(path), "boxes": boxes, "labels": labels.tolist(),
                          "cell_mask": [] if mask is None else [_png(read_cell_mask(mask))], "name": name}


def prepare(root: Path, data_dir: Path, progress: bool = True) -> tuple[Path, ...]:
    """Write both data sets of a data root as TFDS array_record files.

    What was prepared from the same files before is reused; an interrupted run leaves nothing that would be
    taken for a finished one.

    Args:
      root: the data root, with BCCD_Dataset and blood-cells.
      data_dir: where TFDS keeps its data sets; given again to ``tfds.builder``.
      progress: show the progress bars of TFDS.

    Returns:
      The folder of each data set.

    Raises:
      DataError: a missing folder, a damaged image, or a data set there that was prepared from other files.
    """
    (tfds.enable_progress_bar if progress else tfds.disable_progress_bar)()
    folders = []
    for builder_class in (WbcClassification, BccdDetection):
        builder = builder_class(data_dir=data_dir)
        fingerprint = builder.fingerprint(root)
        if builder.is_prepared():
            if builder.info.metadata.get("fingerprint") != fingerprint:
                raise DataError(f"{builder.data_dir} was prepared from other files than {root} holds; "
                                "remove it, or choose another folder")
        else:
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
        folders.append(Path(builder.data_dir))
    return tuple(folders)


def _checked_bytes(path: Path) -> bytes:
    """The file as it is, once it is known to decode: copying keeps the published pixels."""
    read_image(path)
    return path.read_bytes()


def _png(image: np.ndarray) -> bytes:
    # TFDS encodes arrays with TensorFlow, but takes encoded bytes as they are.
    return cv2.imencode(".png", image)[1].tobytes()
