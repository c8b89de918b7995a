"""From the data root to what a classifier sees: whole images, or crops of the region of interest, of one size."""

import functools
import hashlib
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from wbcjax import config as cfg
from wbcjax.console import progress_console
from wbcjax.data.images import load_images
from wbcjax.data.kaggle import kaggle, originals
from wbcjax.data.provenance import wbc_boxes
from wbcjax.data.sets import ClassificationSet
from wbcjax.data.splits import assert_disjoint, grouped_folds
from wbcjax.data.voc import voc
from wbcjax.errors import DataError
from wbcjax.files import replacing
from wbcjax.ops import boxes as box_ops
from wbcjax.pipeline.workdir import detector_weights, file_digest
from wbcjax.roi import color_rois, crops
from wbcjax.training.distributed import all_agree
from wbcjax.typing import CLASS_NAMES, Bool, Box, Float, Images, Int

log = logging.getLogger(__name__)

FILE_SIZE = (240, 320)
"""(height, width) of the classification images, at which regions are found and cropped."""
_NUMBERED = re.compile(r".*/_\d+(?=_\d+\.\w+$)")
"""Split, class and first number of a file's name; Keras numbered the files of each class in a shuffled pass."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """One split, ready for a classifier."""

    images: Images
    labels: Int[np.ndarray, "n"]
    sources: tuple[str, ...]
    names: tuple[str, ...]
    missed: Bool[np.ndarray, "n"]
    """No region was found: the whole image stands in."""
    class_names: tuple[str, ...] = CLASS_NAMES

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
            self.class_names,
        )


def joined(parts: Sequence[Inputs]) -> Inputs:
    """The items of all parts, of one size and the same classes, in order."""
    return Inputs(
        np.concatenate([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        tuple(source for part in parts for source in part.sources),
        tuple(name for part in parts for name in part.names),
        np.concatenate([part.missed for part in parts]),
        parts[0].class_names,
    )


def data_root(data: cfg.DataConfig) -> Path:
    """The data root of a config.

    Raises:
      DataError: if none is set or it is no folder, with the ways to set it.
    """
    if data.root is None:
        raise DataError(
            "no data root: give --data.root FOLDER or set WBCJAX_DATA; `wbcjax data download FOLDER` gets the "
            "archives, `wbcjax data synthetic FOLDER` draws smears to try things on"
        )
    root = data.root.expanduser()
    if not root.is_dir():
        raise DataError(f"{root}: no such folder (data.root); check the path, or `wbcjax data download {root}`")
    return root


def classifier_inputs(config: cfg.ClassifierConfig, split: str, *, progress: bool = False) -> Inputs:
    """Images, labels and originals of ``split`` (TRAIN, TEST, TEST_SIMPLE, or ALL for the first two) as ``config``
    wants them.

    Raises:
      DataError: as the loaders do.
    """
    if split == "ALL":
        return joined([classifier_inputs(config, part, progress=progress) for part in ("TRAIN", "TEST")])
    root = data_root(config.data)
    items = kaggle(root, split, strict=config.data.strict)
    oracle = config.input == "roi" and config.roi_source == "oracle"
    return inputs_of(items, config, true_boxes=wbc_boxes(items, voc(root, strict=False)) if oracle else None,
                     progress=progress)


def inputs_of(
    items: ClassificationSet,
    config: cfg.ClassifierConfig,
    *,
    true_boxes: Sequence[Float[np.ndarray, "_ 4"]] | None = None,
    progress: bool = False,
) -> Inputs:
    """Any classification set as ``config`` wants it.

    Args:
      true_boxes: boxes of each file's cells, in pixels of the file resized to ``FILE_SIZE``; with roi_source "oracle"
        crops are made from the largest.

    Raises:
      DataError: as ``load_images`` does, or where the config crops by true boxes and there are none.
    """
    cache = config.data.cache_dir.expanduser()
    size = tuple(config.model.image_size)
    load = functools.partial(
        load_images, items.paths, strict=config.data.strict, cache_dir=cache, progress=progress
    )
    if config.input == "whole":
        nothing_missed = np.zeros(len(items), bool)
        return Inputs(load(size), items.labels, items.sources, items.names, nothing_missed, items.class_names)
    images = load(FILE_SIZE)
    if config.roi_source == "color":
        boxes = color_regions(items, images, config)
    elif config.roi_source == "mask_rcnn":
        boxes = detected_regions(items, images, config, progress=progress)
    elif true_boxes is not None:
        boxes = [max(found, key=box_ops.area) if len(found) else None for found in true_boxes]
    else:
        raise DataError("roi_source = 'oracle' crops by true boxes, and this data has none; use roi_source = 'color' "
                        "or 'mask_rcnn'")
    missed = np.array([box is None for box in boxes], bool)
    cropped = crops(images, boxes, size, config.crop)
    return Inputs(cropped, items.labels, items.sources, items.names, missed, items.class_names)


def color_regions(items: ClassificationSet, images: Images, config: cfg.ClassifierConfig) -> list[Box | None]:
    """One box an image by its colour, None where none is found; kept in the cache folder."""
    return _kept_regions(items, config, cfg.fingerprint(config.roi), lambda: color_rois(images, config.roi))


def detected_regions(
    items: ClassificationSet, images: Images, config: cfg.ClassifierConfig, *, progress: bool = False
) -> list[Box | None]:
    """The box of highest score an image, None where the Mask R-CNN finds no white cell; kept in the cache folder."""
    weights = detector_weights(config)
    find = lambda: best_boxes(weights, images, progress=progress)  # noqa: E731
    return _kept_regions(items, config, file_digest(weights)[:12], find)


def best_boxes(weights: Path, images: Images, *, progress: bool = False, chunk: int = 256) -> list[Box | None]:
    """Box of the best white cell of each image, by the detector of ``weights``."""
    from wbcjax.pipeline.detector import Detector  # which is built on this module

    detector = Detector.load(weights)
    boxes: list[Box | None] = []
    starts = range(0, len(images), chunk)
    for start in track(starts, "Finding cells", disable=not progress, console=progress_console()):
        boxes += [detector.best_box(found) for found in detector(list(images[start : start + chunk]))]
    return boxes


def _kept_regions(
    items: ClassificationSet, config: cfg.ClassifierConfig, method: str, find: Callable[[], Sequence[Box | None]]
) -> list[Box | None]:
    """What ``find`` says of the items' regions, from the cache folder where it is there."""
    target = config.data.cache_dir.expanduser() / f"regions-{files_digest(items.paths)}-{method}.npy"
    if not all_agree(target.exists()):  # a detector computes on all processes together
        table = np.array([np.full(4, np.nan) if box is None else box for box in find()], np.float32).reshape(-1, 4)
        with replacing(target) as temporary, temporary.open("wb") as file:
            np.save(file, table)
    return [None if np.isnan(box).any() else box for box in np.load(target)]


def files_digest(paths: Sequence[Path]) -> str:
    """Twelve hex digits that change when a file is added, removed, renamed or written again."""
    digest = hashlib.sha256()
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.resolve()}\0{stat.st_mtime_ns}\0{stat.st_size}\n".encode())
    return digest.hexdigest()[:12]


def train_and_validation(config: cfg.ClassifierConfig, inputs: Inputs) -> tuple[Inputs, Inputs | None]:
    """TRAIN cut by ``config.fold``: folds are grouped by original, and proved to be. All of it where there is no fold.

    The validation part is always files, the training part the ``train_share`` of them or what ``train_on`` says. Folds
    by anything else (``fold_by``) leak; a warning says how many originals the two parts share.

    Raises:
      DataError: if the two parts share an original though they are cut by original, or a file's name has no number
        to cut by.
    """
    train, held_out = inputs, None
    if config.fold is not None:
        folds = grouped_folds(inputs.labels, fold_groups(config, inputs), config.folds, seed=0)
        train = inputs.subset(np.flatnonzero(folds != config.fold))
        held_out = inputs.subset(np.flatnonzero(folds == config.fold))
        if config.fold_by == "original":
            assert_disjoint(train.sources, held_out.sources, what=f"fold {config.fold} and the rest of TRAIN")
        else:
            shared = set(train.sources) & set(held_out.sources)
            log.warning("fold_by = %r leaks: of the %d originals that are validated on, %d are trained on too; the "
                        "accuracy says nothing of new cells", config.fold_by, len(set(held_out.sources)), len(shared))
    train = train if config.train_share == 1 else thinned(train, config.train_share)
    return (balanced_originals(config, train) if config.train_on == "originals" else train), held_out


def fold_groups(config: cfg.ClassifierConfig, inputs: Inputs) -> tuple[str, ...]:
    """What each file's fold is decided by, as ``config.fold_by`` says: its original, its number, or itself.

    Raises:
      DataError: for ``file_number``, a file whose name has none.
    """
    if config.fold_by == "original":
        return inputs.sources
    if config.fold_by == "file":
        return inputs.names
    numbers = [_NUMBERED.match(name) for name in inputs.names]
    if None in numbers:
        raise DataError(f"{inputs.names[numbers.index(None)]}: fold_by = 'file_number' wants names such as "
                        "_12_3456.jpeg; use 'original' or 'file'")
    return tuple(number[0] for number in numbers)


def thinned(inputs: Inputs, share: float) -> Inputs:
    """This share of each original's files, at least one, evenly spaced in their order."""
    kept: list[int] = []
    for members in _by_source(inputs).values():
        count = max(1, round(share * len(members)))
        kept += [members[i * len(members) // count] for i in range(count)]
    return inputs.subset(np.sort(np.array(kept)))


def _by_source(inputs: Inputs) -> dict[str, list[int]]:
    members: dict[str, list[int]] = {}
    for i, source in enumerate(inputs.sources):
        members.setdefault(source, []).append(i)
    return members


def balanced_originals(config: cfg.ClassifierConfig, files: Inputs) -> Inputs:
    """The originals behind ``files``, repeated in turn so that there are as many items as files, the same number of
    each class.

    Raises:
      DataError: if the original of no file of a class is known, as with images of your own.
    """
    split = None if config.train_split == "ALL" else config.train_split
    smears = inputs_of(originals(data_root(config.data), split), config)
    wanted = set(files.sources)
    members = np.array([source in wanted for source in smears.sources])
    classes = np.unique(files.labels)
    for c in classes.tolist():
        if not (members & (smears.labels == c)).any():
            raise DataError(f"train_on = 'originals', but no original of class {files.class_names[c]!r} is known; use "
                            "train_on = 'files'")
    each = len(files) // len(classes)
    chosen = [np.resize(np.flatnonzero(members & (smears.labels == c)), each) for c in classes]
    return smears.subset(np.concatenate(chosen))
