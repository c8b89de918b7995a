"""Device-resident data: the decoded images lie on the device, and a batch is a vector of indices.

For data sets of up to a few GB this is the fastest path: no host work per batch but a slice of a permutation; gather,
cast and augmentation run inside the jitted step. Data that does not fit goes through ``wbcjax.data.grain_pipeline``.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from wbcjax.errors import ConfigError, DataError


class ResidentStream:
    """Endless shuffled batches of a resident data set; batch order is a function of (seed, position) alone."""

    def __init__(self, resident: dict[str, np.ndarray], names: Sequence[str], batch_size: int, seed: int):
        """Hold arrays with one entry an image, and what to call the images.

        Raises:
          ConfigError: if a batch does not fit in the data.
        """
        if not 1 <= batch_size <= len(names):
            raise ConfigError(f"train.batch_size = {batch_size} is impossible: expected 1..{len(names)}, the images")
        self.resident = resident
        self.batch_size = batch_size
        self.steps_per_epoch = len(names) // batch_size
        self._names = names
        self._seed = seed
        self._position = 0
        self._epoch, self._order = -1, np.empty(0, np.int32)

    def __next__(self) -> dict[str, Int[np.ndarray, "b"]]:
        """This process's share of the next global batch, as indices into the resident arrays."""
        epoch, step = divmod(self._position, self.steps_per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._epoch, self._order = epoch, rng.permutation(len(self._names)).astype(np.int32)
        self._position += 1
        batch = self._order[step * self.batch_size : (step + 1) * self.batch_size]
        share = self.batch_size // jax.process_count()
        return {"index": batch[jax.process_index() * share :][:share]}

    def get_state(self) -> dict[str, Any]:
        """The position, as JSON."""
        return {"position": self._position}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue after the batch at which ``state`` was taken."""
        self._position = state["position"]

    def names(self, batch: dict[str, Int[np.ndarray, "b"]]) -> list[str]:
        """File names of a batch."""
        return [self._names[i] for i in batch["index"]]


class DeviceStream(ResidentStream):
    """A resident stream of images with one class each."""

    def __init__(
        self,
        images: UInt8[np.ndarray, "n h w 3"],
        labels: Int[np.ndarray, "n"],
        names: Sequence[str],
        *,
        batch_size: int,
        seed: int,
    ):
        """Hold decoded images, their classes, and what to call them.

        Raises:
          ConfigError: if a batch does not fit in the data.
          DataError: if the lengths differ.
        """
        if not len(images) == len(labels) == len(names):
            raise DataError(f"{len(images)} images, {len(labels)} labels and {len(names)} names; give as many of each")
        super().__init__({"images": images, "labels": labels}, names, batch_size, seed)


def fetch(resident: dict[str, Array], batch: dict[str, Array]) -> tuple[Float[Array, "b h w 3"], Int[Array, "b"]]:
    """Images in [0, 1] and labels of a batch, under jit: gathered from resident data, or those the batch carries."""
    if "index" in batch and "images" in resident:
        images, labels = resident["images"][batch["index"]], resident["labels"][batch["index"]]
    else:
        images, labels = batch["image"], batch["label"]
    return images.astype(jnp.float32) / 255, labels
