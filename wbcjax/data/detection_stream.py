"""Detection data on the device: images, boxes and masks lie there, and a batch is a vector of indices."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from wbcjax.data.device import ResidentStream
from wbcjax.data.instances import DetectionArrays
from wbcjax.typing_detection import Instances


class DetectionStream(ResidentStream):
    """A resident stream of images with their true objects."""

    def __init__(self, arrays: DetectionArrays, batch_size: int, seed: int):
        """Hold the arrays.

        Raises:
          ConfigError: if a batch does not fit in the data.
        """
        resident = {"images": arrays.images, "sizes": arrays.sizes} | arrays.instances._asdict()
        super().__init__(resident, arrays.names, batch_size, seed)


def fetch_instances(
    resident: dict[str, Array], batch: dict[str, Array]
) -> tuple[Float[Array, "b h w 3"], Int[Array, "b 2"], Instances]:
    """Images in [0, 1], their sizes on the canvas, and the true objects of a batch of indices; under jit."""
    part = {name: array[batch["index"]] for name, array in resident.items()}
    images = part["images"].astype(jnp.float32) / 255
    return images, part["sizes"], Instances(*(part[field] for field in Instances._fields))
