"""Batches read from disk by grain, for data that does not fit in memory.

Data that fits is faster through ``wbcjax.data.device``, which has the same interface towards the training loop.
The order of the images is a function of (seed, epoch) alone, and a position is the number of batches taken: a run
resumes to the same batches, on another number of processes too.
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from wbcjax.data.images import read_image, resize
from wbcjax.data.sets import name_of
from wbcjax.errors import ConfigError, DataError
from wbcjax.typing import Image, Int, Size


@runtime_checkable
class Source(Protocol):
    """Random access to images: files (``Path``), TFDS examples (dicts with ``image``), or uint8 RGB arrays."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


class GrainStream:
    """A grain iterator with what the training loop asks of it.

    Batches are dicts of NumPy arrays: ``image`` uint8 (b, h, w, 3), ``label`` int32 (b,), ``index`` int32 (b,) into
    the source and, from ``grain_eval_batches``, ``valid`` bool (b,). b is this process's share of the batch.
    """

    def __init__(self, dataset: Any, names: Sequence[str], batch_size: int, steps_per_epoch: int):
        """See ``grain_batches`` and ``grain_eval_batches``.

        Args:
          dataset: ``grain.MapDataset`` whose elements are batches.
          names: what to call each image of the source.
          batch_size: of the global batch.
          steps_per_epoch: batches in one pass over the source.
        """
        import grain

        # An element is a whole batch, so grain's default of 500 elements in advance would fill the memory.
        threads = min(16, os.cpu_count() or 1)
        self._iterator = iter(dataset.to_iter_dataset(grain.ReadOptions(threads, 2 * threads)))
        self._names = names
        self.resident: dict = {}
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """This process's share of the next batch.

        Raises:
          DataError: an image of the batch is damaged; the message names the file.
          StopIteration: after the last epoch.
        """
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return self._iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue after the batch at which ``state`` was taken."""
        self._iterator.set_state(state)

    def names(self, batch: dict[str, np.ndarray]) -> list[str]:
        """File names of a batch, without those that only fill it up."""
        valid = batch.get("valid", np.ones(len(batch["index"]), bool))
        return [self._names[i] for i in batch["index"][valid]]


def grain_batches(
    source: Source,
    labels: Int[np.ndarray, "n"],
    *,
    size: Size | None = None,
    batch_size: int,
    seed: int,
    epochs: int | None = None,
    shuffle: bool = True,
    strict: bool = True,
    process_index: int | None = None,
    process_count: int | None = None,
) -> GrainStream:
    """Batches for training: shuffled anew each epoch, without the images that do not fill a last batch.

    Args:
      source: the images, decoded when their batch comes up.
      labels: class of each image.
      size: (height, width) to resize to; None when all images have one size.
      batch_size: of the global batch; each process decodes its consecutive share.
      seed: of the order.
      epochs: passes over the source; None goes on without end.
      shuffle: False keeps the order of the source.
      strict: as in ``read_image``.
      process_index: this process; None asks JAX.
      process_count: how many share a batch; None asks JAX.

    Raises:
      ConfigError: a batch that the processes cannot share evenly, or larger than the source.
      DataError: not one label an image.
    """
    import grain

    share = _share(source, labels, batch_size, process_index, process_count)
    steps = len(source) // batch_size
    if not steps:
        raise ConfigError(f"train.batch_size = {batch_size} is impossible: expected at most {len(source)}, the images")
    order = grain.MapDataset.range(len(source)).seed(seed)
    if shuffle:
        order = order.shuffle()
    order = order.slice(slice(0, steps * batch_size)).repeat(epochs)  # repeat gives each epoch its own shuffle
    dataset = order.batch(batch_size).map(lambda rows: _read_batch(source, labels, rows[share], size, strict))
    return GrainStream(dataset, _names(source), batch_size, steps)


def grain_eval_batches(
    source: Source,
    labels: Int[np.ndarray, "n"],
    *,
    size: Size | None = None,
    batch_size: int,
    strict: bool = True,
    process_index: int | None = None,
    process_count: int | None = None,
) -> GrainStream:
    """Batches for evaluation: every image once, in order, all batches of one size.

    The last batch is filled up with black images of class 0 and index 0, which ``valid`` marks False: metrics must be
    masked by it. Every process gets as many batches as the others, some perhaps without a valid image.

    Args, Raises: as ``grain_batches``, except that a batch may be larger than the source.
    """
    import grain

    share = _share(source, labels, batch_size, process_index, process_count)
    steps = -(-len(source) // batch_size)

    def read(step: int) -> dict[str, np.ndarray]:
        rows = np.arange(step * batch_size, (step + 1) * batch_size)[share]
        valid = rows < len(source)
        # The first image is read for a share without any: it gives the size that the fill must have.
        batch = _read_batch(source, labels, rows[valid] if valid.any() else np.zeros(1, int), size, strict)
        filled = {name: np.zeros((len(rows), *part.shape[1:]), part.dtype) for name, part in batch.items()}
        for name, part in batch.items():
            filled[name][: valid.sum()] = part[: valid.sum()]
        return filled | {"valid": valid}

    return GrainStream(grain.MapDataset.range(steps).map(read), _names(source), batch_size, steps)


def _share(source: Source, labels: np.ndarray, batch_size: int, index: int | None, count: int | None) -> slice:
    """Which rows of a global batch this process reads."""
    if len(source) != len(labels):
        raise DataError(f"{len(source)} images have {len(labels)} labels; give one label an image")
    index = jax.process_index() if index is None else index
    count = jax.process_count() if count is None else count
    if batch_size < 1 or batch_size % count:
        raise ConfigError(f"train.batch_size = {batch_size} is impossible: expected a multiple of {count} processes")
    share = batch_size // count
    return slice(index * share, (index + 1) * share)


def _names(source: Source) -> Sequence[str]:
    if len(source) and isinstance(source[0], Path):
        return [name_of(path) for path in source]
    return [f"image {i}" for i in range(len(source))]


def _read_batch(
    source: Source, labels: np.ndarray, rows: Int[np.ndarray, "b"], size: Size | None, strict: bool
) -> dict[str, np.ndarray]:
    images = [_read(source[row], strict) for row in rows.tolist()]
    if size is not None:
        images = [resize(image, size) for image in images]
    elif len(shapes := {image.shape[:2] for image in images}) > 1:
        raise DataError(f"images of different sizes in one batch ({sorted(shapes)}); give a size to resize to")
    return {"image": np.stack(images), "label": labels[rows].astype(np.int32), "index": rows.astype(np.int32)}


def _read(item: Any, strict: bool) -> Image:
    if isinstance(item, Path):
        return read_image(item, strict=strict)
    return item["image"] if isinstance(item, dict) else item
