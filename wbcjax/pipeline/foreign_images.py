"""Crops of BCCD's smears that show none of the four classes, or a cell as no training image shows it.

All come from smears of 640×480 pixels of which no copy was trained on, and are made as the classifier's own crops are:
the smear at ``FILE_SIZE``, the window around a box, the model's size. So nothing tells them from crops of TEST's smears
but what they show; files of TEST are copies whose second resampling and black borders would.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wbcjax import config as cfg
from wbcjax.data.images import read_image
from wbcjax.data.kaggle import originals, read_labels
from wbcjax.data.provenance import original_files
from wbcjax.data.sets import DetectionSet
from wbcjax.errors import DataError
from wbcjax.ops.boxes import area
from wbcjax.pipeline.detector_runs import bccd
from wbcjax.pipeline.inputs import Inputs, data_root
from wbcjax.pipeline.predictor import classifier_input, find_region
from wbcjax.roi.crop import window
from wbcjax.typing import Box, Boxes, Image, Images

STAIN = np.array([1.6, 1.0, 0.6])
"""Factors on the optical density of red, green and blue: a stain that is bluer than any of the training jitter."""
CANDIDATES = 200
"""Windows drawn in each smear."""
PLAIN = 8.0
"""Largest deviation of a grey value, of 255, in a crop of nothing but background."""
BACKGROUND_SIDE, CELL_SIDE = 64, 200
"""Sides of the boxes of background and of fields of red cells, pixels of 640×480; white cells are about 200 wide."""


@dataclass(frozen=True, eq=False)
class Foreign:
    """Crops of one kind."""

    images: Images
    sources: tuple[str, ...]
    """The smear of each."""


def foreign_sets(config: cfg.ClassifierConfig, test: Inputs) -> dict[str, Foreign]:
    """Every kind by its name, those without an image left out.

    Args:
      config: how the classifier's crops are made.
      test: crops of TEST's smears, which the other stain is simulated on.

    Raises:
      DataError: if the data root lacks BCCD.
    """
    root = data_root(config.data)
    trained = set(originals(root, "TRAIN").sources)
    smears = bccd(config.data)["corrected"]
    smears = smears.select([name for name in smears.names if name not in trained])
    rng = np.random.default_rng(0)
    found: dict[str, list[tuple[np.ndarray, str]]] = {name: [] for name in (
        "background", "a red cell", "a field of red cells", "two white cells")}
    for image, name, white, red, every in _smears(smears, config):
        add = lambda kind, box, image=image, name=name: found[kind].append(  # noqa: E731
            (classifier_input(image, box, config), name))
        if not len(white):
            continue
        if len(white) == 2:
            add("two white cells", np.r_[white[:, :2].min(axis=0), white[:, 2:].max(axis=0)])
        free = [box for box in rng.permutation(red) if _is_free(box, white, image, config)]
        for box in free[:1]:
            add("a red cell", box)
        for box in _free_windows(rng, CELL_SIDE, white, image, config)[:1]:
            add("a field of red cells", box)
        empty = _free_windows(rng, BACKGROUND_SIDE, every, image, config)
        plainest = min(empty, key=lambda box: _deviation(image, box, config), default=None)
        if plainest is not None and _deviation(image, plainest, config) <= PLAIN:
            add("background", plainest)
    files = original_files(root)
    found["a basophil"] = []
    for name, label in sorted(read_labels(root).items()):
        if label == "BASOPHIL" and name in files and name not in trained:
            image = read_image(files[name], strict=config.data.strict)
            found["a basophil"].append((classifier_input(image, find_region(image, config), config), name))
    sets = {kind: Foreign(np.stack([crop for crop, _ in items]), tuple(name for _, name in items))
            for kind, items in found.items() if items}
    return sets | {"another stain, simulated": Foreign(restained(np.asarray(test.images)), test.sources)}


def restained(images: Images, gains: np.ndarray = STAIN) -> Images:
    """Images with the optical density of their channels times ``gains``. White stays white, and the fill black."""
    density = -np.log(np.maximum(images, 1) / 255)
    return np.where(images > 0, (255 * np.exp(-gains * density)).round(), 0).astype(np.uint8)


def _smears(
    smears: DetectionSet, config: cfg.ClassifierConfig
) -> Iterator[tuple[Image, str, Boxes, Boxes, Boxes]]:
    """Image, name, and boxes of the white cells, the red cells and everything, of those with an area."""
    columns = (smears.paths, smears.names, smears.boxes_of("wbc"), smears.boxes_of("rbc"), smears.boxes)
    for path, name, *boxes in zip(*columns, strict=True):
        yield read_image(path, strict=config.data.strict), name, *(part[area(part) > 0] for part in boxes)


def _free_windows(
    rng: np.random.Generator, side: int, boxes: Boxes, image: Image, config: cfg.ClassifierConfig
) -> list[Box]:
    """Boxes of this side whose window lies in the image and touches none of ``boxes``."""
    height, width = image.shape[:2]
    if min(height, width) <= side:
        return []
    corners = rng.uniform(0, [width - side, height - side], (CANDIDATES, 2))
    drawn = np.concatenate([corners, corners + side], axis=1).astype(np.float32)
    return [box for box in drawn if _is_free(box, boxes, image, config)]


def _is_free(box: Box, boxes: Boxes, image: Image, config: cfg.ClassifierConfig) -> bool:
    """Whether the window around ``box`` lies in the image and touches none of ``boxes``."""
    left, top, right, bottom = window(box, config.crop)
    if left < 0 or top < 0 or right > image.shape[1] or bottom > image.shape[0]:
        return False
    apart = (boxes[:, 0] >= right) | (boxes[:, 2] <= left) | (boxes[:, 1] >= bottom) | (boxes[:, 3] <= top)
    return bool(apart.all())


def _deviation(image: Image, box: Box, config: cfg.ClassifierConfig) -> float:
    """Largest standard deviation of a channel in the window around ``box``."""
    left, top, right, bottom = window(box, config.crop).round().astype(int)
    return float(image[top:bottom, left:right].std(axis=(0, 1)).max())


def check_crops(config: cfg.ClassifierConfig) -> None:
    """Refuse a config that makes no crops as new smears need them.

    Raises:
      DataError: for whole images, or crops by boxes that only annotated files have.
    """
    if config.input == "whole" or config.roi_source != "color":
        raise DataError(f"input = {config.input!r}, roi_source = {config.roi_source!r}: crops of foreign images are "
                        "compared with those of the colour ROI; use input 'roi' and roi_source 'color'")
