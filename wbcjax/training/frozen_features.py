"""Features of a detector's frozen stages, computed once: most of the work where a large pretrained trunk is kept."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from rich.progress import track

from wbcjax.config import DetectorConfig
from wbcjax.console import progress_console
from wbcjax.data.detection_augment import augment_detection
from wbcjax.data.detection_stream import DetectionStream, fetch_instances
from wbcjax.data.device import ResidentStream
from wbcjax.data.instances import DetectionArrays
from wbcjax.errors import ConfigError
from wbcjax.models.mask_rcnn import MaskRCNN
from wbcjax.training.state import merge, split
from wbcjax.typing_detection import Instances


class FeatureStream(ResidentStream):
    """Augmented copies of images as what the frozen stages made of them, with their true objects."""

    def __init__(self, model: MaskRCNN, arrays: DetectionArrays, config: DetectorConfig, *, chunk: int = 4):
        """Augment and compute: ``config.cached_copies`` passes of the frozen stages over the images.

        Features are kept as bfloat16.

        Args:
          chunk: images computed at a time.

        Raises:
          ConfigError: if a batch does not fit in the data, or the pyramid needs maps of earlier stages.
        """
        names = [name for name, _ in model.backbone.stages()]
        last = names[config.model.frozen_stages - 1]
        if names.index(f"c{config.model.levels[0]}") < names.index(last):
            raise ConfigError(
                f"cached_copies = {config.cached_copies} keeps {last} of the backbone alone, but model.levels = "
                f"{config.model.levels} need c{config.model.levels[0]}: freeze fewer stages, or start at a later level"
            )
        resident = cached(model, arrays, config, chunk)
        super().__init__(resident, arrays.names * config.cached_copies, config.train.batch_size, config.train.seed)


def cached(
    model: MaskRCNN, arrays: DetectionArrays, config: DetectorConfig, chunk: int
) -> dict[str, np.ndarray]:
    """Features, sizes and true objects of every copy: all images once, then all images again."""
    graphdef, params, stats = split(model)

    @jax.jit
    def compute(params, stats, resident, batch, key):
        images, sizes, truth = fetch_instances(resident, batch)
        images, sizes, truth = augment_detection(key, images, sizes, truth, config.augment)
        features = merge(graphdef, params, stats, training=False).frozen_features(images, sizes)
        return {"features": features.astype(jnp.bfloat16), "sizes": sizes, **truth._asdict()}

    resident = jax.device_put(DetectionStream(arrays, 1, 0).resident)
    key, count, parts = jax.random.key(config.train.seed), len(arrays), []
    starts = range(0, config.cached_copies * count, chunk)
    for start in track(starts, "Frozen features", console=progress_console()):
        index = np.arange(start, start + chunk, dtype=np.int32) % count  # the last chunk goes round
        parts.append(jax.tree.map(np.asarray, compute(params, stats, resident, {"index": index},
                                                      jax.random.fold_in(key, start))))
    return {name: np.concatenate([part[name] for part in parts])[: config.cached_copies * count] for name in parts[0]}


def fetch_features(
    resident: dict[str, Array], batch: dict[str, Array]
) -> tuple[Float[Array, "b _ _ _"], Int[Array, "b 2"], Instances]:
    """Features, float32, sizes and true objects of a batch of indices; under jit."""
    part = {name: array[batch["index"]] for name, array in resident.items()}
    return part["features"].astype(jnp.float32), part["sizes"], Instances(*(part[f] for f in Instances._fields))
