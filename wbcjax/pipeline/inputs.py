"""From the data root to what a classifier sees: whole images, or crops of the region of interest, of one size."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wbcjax import config as cfg
from wbcjax.data.images import load_images
from wbcjax.data.kaggle import kaggle
from wbcjax.data.provenance import wbc_boxes
from wbcjax.data.sets import ClassificationSet
from wbcjax.data.splits import assert_disjoint, grouped_folds
from wbcjax.data.voc import voc
from wbcjax.errors import DataError
from wbcjax.roi import color_rois, crops
from wbcjax.typing import Bool, Box, Images, Int

FILE_SIZE = (240, 320)
"""(height, width) of the classification images, at which regions are found and cropped."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """One split, ready for a classifier."""

    images: Images
    labels: Int[np.ndarray, "n"]
    sources: tuple[str, ...]
    names: tuple[str, ...]
    missed: Bool[np.ndarray, "n"]
    """No region was found: the whole image stands in."""

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Int[np.ndarray, "m"]) -> "Inputs":
        """The items at ``indices``."""
        return Inputs(
            self.images[indices],
            self.labels[indices],
            tuple(self.sources[i] for i in indices),
            tuple(self.names[i] for i in indices),
            self.missed[indices],
        )


def data_root(data: cfg.DataConfig) -> Path:
    """The data root of a config.

    Raises:
      DataError: if none is set or it is no folder, with the ways to set it.
    """
    if data.root is None:
        raise DataError(
            "no data root: give --data.root FOLDER or set WBCJAX_DATA; `wbcjax data download FOLDER` gets the archives, "
            "`wbcjax data synthetic FOLDER` draws smears to try things on"
        )
    root = data.root.expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (data.root); check the path, or `wbcjax data download {root}`")
    return root


def classifier_inputs(config: cfg.ClassifierConfig, split: str, *, progress: bool = False) -> Inputs:
    """Images, labels and originals of ``split`` (TRAIN, TEST, TEST_SIMPLE) as ``config`` wants them.

    Raises:
      DataError: as the loaders do.
    """
    root = data_root(config.data)
    items = kaggle(root, split, strict=config.data.strict)
    cache = config.data.cache_dir.expanduser()
    size = tuple(config.model.image_size)
    load = lambda size: load_images(  # noqa: E731
        items.paths, size, strict=config.data.strict, cache_dir=cache, progress=progress
    )
    if config.input == "whole":
        return Inputs(load(size), items.labels, items.sources, items.names, np.zeros(len(items), bool))
    images = load(FILE_SIZE)
    boxes = regions(config, root, items, images)
    missed = np.array([box is None for box in boxes], bool)
    cropped = crops(images, boxes, size, config.crop)
    return Inputs(cropped, items.labels, items.sources, items.names, missed)


def regions(
    config: cfg.ClassifierConfig, root: Path, items: ClassificationSet, images: Images
) -> list[Box | None]:
    """One box an image, None where none is found: by colour (kept in the cache folder), or the true one."""
    if config.roi_source == "oracle":
        true = wbc_boxes(items, voc(root, strict=False))
        return [max(boxes, key=lambda b: (b[2] - b[0]) * (b[3] - b[1])) if len(boxes) else None for boxes in true]
    key = hashlib.sha256("\n".join(str(p) for p in items.paths).encode()).hexdigest()[:12]
    target = config.data.cache_dir.expanduser() / f"regions-{key}-{cfg.fingerprint(config.roi)}.npy"
    if not target.exists():
        found = color_rois(images, config.roi)
        table = np.array([np.full(4, np.nan) if box is None else box for box in found], np.float32).reshape(-1, 4)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_suffix(f".{os.getpid()}.npy")
        np.save(temporary, table)
        os.replace(temporary, target)
    return [None if np.isnan(box).any() else box for box in np.load(target)]


def train_and_validation(config: cfg.ClassifierConfig, inputs: Inputs) -> tuple[Inputs, Inputs | None]:
    """TRAIN cut by ``config.fold``: folds are grouped by original, and proved to be. All of it where there is no fold.

    Raises:
      DataError: if the two parts share an original.
    """
    if config.fold is None:
        return inputs, None
    folds = grouped_folds(inputs.labels, inputs.sources, config.folds, seed=0)
    train = inputs.subset(np.flatnonzero(folds != config.fold))
    held_out = inputs.subset(np.flatnonzero(folds == config.fold))
    assert_disjoint(train.sources, held_out.sources, what=f"fold {config.fold} and the rest of TRAIN")
    return train, held_out
