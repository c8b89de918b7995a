"""A detection set as arrays of fixed shapes: images on a canvas, boxes, labels and masks padded to so many slots.

Boxes are in pixels of the canvas. Masks are cut to their boxes and stretched to one size, so they need no canvas.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wbcjax.data.canvas import fit, to_canvas
from wbcjax.data.images import load_images
from wbcjax.data.sets import DetectionSet
from wbcjax.data.synthetic import Smears
from wbcjax.errors import DataError
from wbcjax.files import replacing
from wbcjax.ops.masks import crop_to_box
from wbcjax.typing import DETECTION_CLASS_NAMES, Bool, Float, Image, Images, Int, Size, UInt8
from wbcjax.typing_detection import Instances

MASK_SIZE = 112


@dataclass(frozen=True, eq=False)
class DetectionArrays:
    """Images with their true objects, one entry an image."""

    images: Images
    sizes: Int[np.ndarray, "n 2"]
    """(height, width) that the image takes of its canvas, int32."""
    scales: Float[np.ndarray, "n"]
    """Boxes of the file times this are boxes on the canvas."""
    boxes: Float[np.ndarray, "n m 4"]
    labels: Int[np.ndarray, "n m"]
    valid: Bool[np.ndarray, "n m"]
    masks: Bool[np.ndarray, "n m s s"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def instances(self) -> Instances:
        """The true objects alone."""
        return Instances(self.boxes, self.labels, self.valid, self.masks)

    def subset(self, indices: Sequence[int] | Int[np.ndarray, "k"]) -> "DetectionArrays":
        """The images at ``indices``, in that order, with as many slots."""
        index = np.asarray(indices, int)
        arrays = (self.images, self.sizes, self.scales, *self.instances)
        return DetectionArrays(*(array[index] for array in arrays), tuple(self.names[i] for i in index))


def detection_arrays(
    detection_set: DetectionSet,
    class_names: Sequence[str],
    canvas: Size,
    max_instances: int | None = None,
    cache_dir: Path | None = None,
    progress: bool = False,
    strict: bool = True,
) -> DetectionArrays:
    """Decode a detection set with masks onto a canvas.

    Args:
      class_names: the classes in label order; boxes of other classes are dropped, classes without boxes are fine.
      canvas: (height, width).
      max_instances: slots an image; None takes the largest number of boxes in the set, at least 1.
      cache_dir: keep images and masks there and map them into memory (read-only) the next time; what changes the result
        changes the file's name.
      progress: show a progress bar.
      strict: refuse odd files, see ``read_image``.

    Raises:
      DataError: a damaged file, an empty box or one that is not finite, more boxes than slots, no masks.
    """
    part = detection_set.of_classes(class_names)
    if part.masks is None:
        raise DataError("a detection set without masks; give it some with wbcjax.data.mask_sources.with_masks")
    truth = _pack(part, canvas, max_instances, cache_dir)
    images = load_images(part.paths, canvas, fit=_placed, strict=strict, cache_dir=cache_dir, progress=progress)
    return DetectionArrays(images, *truth, part.names)


def smear_arrays(
    smears: Smears, class_names: Sequence[str], canvas: Size, max_instances: int | None = None
) -> DetectionArrays:
    """Drawn smears (with masks) on a canvas; see ``detection_arrays``."""
    names = tuple(f"smear_{i}" for i in range(len(smears)))
    sizes = (smears.images.shape[1:3],) * len(smears)
    part = DetectionSet(
        tuple(map(Path, names)), smears.boxes, smears.labels, DETECTION_CLASS_NAMES, sizes, smears.masks
    ).of_classes(class_names)
    if part.masks is None:
        raise DataError("smears without masks; draw them with_masks=True")
    truth = _pack(part, canvas, max_instances)
    images = np.array([_placed(image, canvas) for image in smears.images], np.uint8).reshape(-1, *canvas, 3)
    return DetectionArrays(images, *truth, names)


def _placed(image: Image, canvas: Size) -> UInt8[np.ndarray, "canvas_height canvas_width 3"]:
    return to_canvas(image, canvas)[0]


def _pack(part: DetectionSet, canvas: Size, max_instances: int | None, cache_dir: Path | None = None) -> tuple:
    """Sizes, scales, boxes, labels, valid and masks."""
    counts = [len(boxes) for boxes in part.boxes]
    slots = max(counts, default=0) or 1 if max_instances is None else max_instances
    part.require_areas()  # an empty box has no regression target, one that is not finite makes every loss NaN
    for name, count in zip(part.names, counts, strict=True):
        if count > slots:
            raise DataError(
                f"{name}: {count} boxes, more than the {slots} slots of an image; set max_instances to "
                f"{max(counts)} or None"
            )
    fits = [fit(size, canvas) for size in part.sizes]
    sizes = np.array([size for size, _ in fits], np.int32).reshape(-1, 2)
    scales = np.array([scale for _, scale in fits], np.float32)
    boxes = np.zeros((len(part), slots, 4), np.float32)
    labels = np.zeros((len(part), slots), np.int32)
    for i, count in enumerate(counts):
        boxes[i, :count] = part.boxes[i] * scales[i]
        labels[i, :count] = part.labels[i]
    valid = np.arange(slots) < np.array(counts, int)[:, None]
    return sizes, scales, boxes, labels, valid, _masks(part, slots, cache_dir)


def _masks(part: DetectionSet, slots: int, cache_dir: Path | None) -> Bool[np.ndarray, "n m s s"]:
    """The masks inside their boxes, from ``cache_dir`` where they are there."""
    shape = (len(part), slots, MASK_SIZE, MASK_SIZE)

    def fill(out: np.ndarray) -> np.ndarray:
        for i, (masks, boxes) in enumerate(zip(part.masks, part.boxes, strict=True)):
            out[i, : len(boxes)] = crop_to_box(masks, boxes, MASK_SIZE)
        return out

    if cache_dir is None or not len(part):
        return fill(np.zeros(shape, bool))
    digest = hashlib.sha256(repr(shape).encode())
    for masks, boxes in zip(part.masks, part.boxes, strict=True):
        digest.update(repr(masks.shape).encode() + boxes.astype(np.float32).tobytes() + np.packbits(masks).tobytes())
    target = Path(cache_dir).expanduser() / f"masks-{digest.hexdigest()[:20]}.npy"
    if not target.exists():
        with replacing(target) as temporary:
            fill(np.lib.format.open_memmap(temporary, mode="w+", dtype=bool, shape=shape)).flush()
    return np.load(target, mmap_mode="r", allow_pickle=False)
