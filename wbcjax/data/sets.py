"""What every source of data gives: files with classes, or files with boxes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wbcjax.errors import DataError
from wbcjax.ops.boxes import clip, large_enough
from wbcjax.typing import Bool, Float, Int


def name_of(path: Path) -> str:
    """The last three parts of a path: ``TRAIN/MONOCYTE/_0_5020.jpeg``."""
    return "/".join(Path(path).parts[-3:])


def _take(values: tuple, indices) -> tuple:
    return tuple(values[i] for i in indices)


@dataclass(frozen=True, eq=False)
class ClassificationSet:
    """Image files with one class each."""

    paths: tuple[Path, ...]
    labels: Int[np.ndarray, "n"]
    """int32 index into ``class_names``."""
    sources: tuple[str, ...]
    """Name of the smear image each file was made from ("BloodImage_00110"); the file's own stem when
    unknown."""
    class_names: tuple[str, ...]

    def __post_init__(self):
        if not len(self.paths) == len(self.labels) == len(self.sources):
            raise DataError(
                f"a classification set of {len(self.paths)} files has {len(self.labels)} labels and "
                f"{len(self.sources)} sources; give one of each a file"
            )

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def names(self) -> tuple[str, ...]:
        """The last three parts of each path: the key of a file in tables, logs and error messages."""
        return tuple(name_of(p) for p in self.paths)

    def subset(self, indices: Sequence[int] | Int[np.ndarray, "m"]) -> "ClassificationSet":
        """The files at ``indices``, in that order."""
        return ClassificationSet(
            _take(self.paths, indices),
            self.labels[np.asarray(indices, int)],
            _take(self.sources, indices),
            self.class_names,
        )


@dataclass(frozen=True, eq=False)
class DetectionSet:
    """Image files with any number of boxes each."""

    paths: tuple[Path, ...]
    boxes: tuple[Float[np.ndarray, "_ 4"], ...]
    """float32, xyxy in pixels of the file, see ``wbcjax.typing``."""
    labels: tuple[Int[np.ndarray, "_"], ...]
    """int32 index into ``class_names`` for each box."""
    class_names: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each file."""
    masks: tuple[Bool[np.ndarray, "_ _ _"], ...] | None = None
    """(boxes, height, width) of each file, where the source has masks."""

    def __post_init__(self):
        n = len(self.paths)
        counts = [
            len(self.boxes),
            len(self.labels),
            len(self.sizes),
            n if self.masks is None else len(self.masks),
        ]
        if counts != [n] * 4:
            raise DataError(
                f"a detection set of {n} files has {counts[0]} box arrays, {counts[1]} label arrays, "
                f"{counts[2]} sizes and {counts[3]} mask arrays; give one of each a file"
            )

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def names(self) -> tuple[str, ...]:
        """The stem of each file: ``BloodImage_00110``."""
        return tuple(p.stem for p in self.paths)

    @property
    def sources(self) -> tuple[str, ...]:
        """The original of each file, which here is the file itself."""
        return self.names

    def require_areas(self) -> None:
        """Make sure that every box is finite and has an area in its image.

        Raises:
          DataError: the first that has not; names image and box.
        """
        for name, boxes, size in zip(self.names, self.boxes, self.sizes, strict=True):
            usable = np.isfinite(boxes).all(axis=1) & large_enough(clip(boxes, size), 0)
            if not usable.all():
                number = int(np.argmin(usable))
                corners = ", ".join(f"{corner:g}" for corner in boxes[number])
                raise DataError(
                    f"{name}: box {number + 1} ({corners}) has no area in the {size[1]}×{size[0]} image; "
                    f"correct or remove it"
                )

    def subset(self, indices: Sequence[int] | Int[np.ndarray, "m"]) -> "DetectionSet":
        """The files at ``indices``, in that order."""
        return DetectionSet(
            _take(self.paths, indices),
            _take(self.boxes, indices),
            _take(self.labels, indices),
            self.class_names,
            _take(self.sizes, indices),
            None if self.masks is None else _take(self.masks, indices),
        )

    def select(self, names: Iterable[str]) -> "DetectionSet":
        """The files of the given ``names``, in that order.

        Raises:
          DataError: a name is not in the set.
        """
        index = {name: i for i, name in enumerate(self.names)}
        names = list(names)
        missing = [name for name in names if name not in index]
        if missing:
            raise DataError(
                f"no file named {', '.join(missing[:5])} among the {len(self)} of this set; "
                f"check the names, or the data root"
            )
        return self.subset([index[name] for name in names])

    def of_classes(self, class_names: Sequence[str]) -> "DetectionSet":
        """The boxes of ``class_names`` alone, labelled in that order; images without any stay.

        Raises:
          DataError: the set has none of these classes.
        """
        if not set(class_names) & set(self.class_names):
            raise DataError(
                f"none of the classes {', '.join(class_names)} is in this set; its classes are "
                f"{', '.join(self.class_names)}"
            )
        index = np.array([class_names.index(n) if n in class_names else -1 for n in self.class_names], np.int32)
        kept = [index[labels] >= 0 for labels in self.labels]
        return DetectionSet(
            self.paths,
            tuple(boxes[keep] for boxes, keep in zip(self.boxes, kept, strict=True)),
            tuple(index[labels[keep]] for labels, keep in zip(self.labels, kept, strict=True)),
            tuple(class_names),
            self.sizes,
            None if self.masks is None else tuple(m[keep] for m, keep in zip(self.masks, kept, strict=True)),
        )

    def boxes_of(self, class_name: str) -> tuple[Float[np.ndarray, "_ 4"], ...]:
        """The boxes of one class in each file.

        Raises:
          DataError: the set has no such class.
        """
        if class_name not in self.class_names:
            raise DataError(f"no class {class_name!r} in this set; its classes are {', '.join(self.class_names)}")
        label = self.class_names.index(class_name)
        return tuple(b[k == label] for b, k in zip(self.boxes, self.labels, strict=True))
