"""Detectors in the loop: their loss, detections over whole sets of images, and evaluation on a validation fold."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec, use_abstract_mesh
from jaxtyping import Int, UInt8

from wbcjax.config import DetectorConfig
from wbcjax.data.detection_augment import augment_detection
from wbcjax.data.detection_stream import fetch_instances
from wbcjax.data.instances import DetectionArrays
from wbcjax.errors import DataError
from wbcjax.evaluation.iou import iou_statistics, padded_best_iou
from wbcjax.models.mask_rcnn import MaskRCNN
from wbcjax.training.frozen_features import fetch_features
from wbcjax.training.mesh import data_mesh, replicate, shard
from wbcjax.training.state import LossFn, merge, split
from wbcjax.typing_detection import Detections


def detection_loss(config: DetectorConfig) -> LossFn:
    """The loss for ``fit``: fetch, augment, the sum of the model's five losses; reports each of them.

    With ``config.cached_copies`` the stream is a ``FeatureStream``, whose images are augmented already.
    """

    def loss_fn(model, resident, batch, key):
        augment_key, sample_key = jax.random.split(key)
        if config.cached_copies:
            features, sizes, truth = fetch_features(resident, batch)
            losses = model.losses_of(model.pyramid_of_frozen(features), sizes, truth, sample_key)
        else:
            images, sizes, truth = fetch_instances(resident, batch)
            images, sizes, truth = augment_detection(augment_key, images, sizes, truth, config.augment)
            losses = model.losses(images, sizes, truth, sample_key)
        return sum(losses.values()), {f"{name}_loss": value for name, value in losses.items()}

    return loss_fn


@functools.partial(jax.jit, static_argnames=("graphdef", "mesh"))
def _detect(graphdef, mesh, params, stats, images, sizes):
    images = images.astype(jnp.float32) / 255
    with use_abstract_mesh(mesh.abstract_mesh):
        detections = merge(graphdef, params, stats, training=False)(images, sizes)
    # Whole on every device, so that each process can read it.
    return jax.lax.with_sharding_constraint(detections, NamedSharding(mesh, PartitionSpec()))


def predict_detections(
    graphdef: nnx.GraphDef,
    params: dict,
    stats: dict,
    images: UInt8[np.ndarray, "n h w 3"],
    sizes: Int[np.ndarray, "n 2"],
    *,
    batch_size: int = 8,
) -> Detections:
    """Detections, as NumPy arrays, in any number of images on the canvas, in batches over all devices.

    Every process gives all images, computes its share, and returns all detections.

    Args:
      sizes: (height, width) that each image takes of the canvas.
    """
    mesh = data_mesh()
    batch_size = -(-min(batch_size, max(len(images), 1)) // mesh.size) * mesh.size
    share = batch_size // jax.process_count()
    first = share * jax.process_index()
    params, stats = replicate((params, stats), mesh)
    out = []
    for start in range(0, max(len(images), 1), batch_size):
        batch = [np.asarray(array[start : start + batch_size]) for array in (images, sizes)]
        count = len(batch[0])
        batch = [np.pad(a, ((0, batch_size - count), *[(0, 0)] * (a.ndim - 1))) for a in batch]
        found = _detect(graphdef, mesh, params, stats, *shard([a[first : first + share] for a in batch], mesh))
        out.append([np.asarray(field)[:count] for field in found])
    return Detections(*map(np.concatenate, zip(*out, strict=True)))


def evaluator(
    model: MaskRCNN, arrays: DetectionArrays, *, class_name: str = "wbc", batch_size: int = 8
) -> Callable[[dict, dict], dict[str, float]]:
    """How well the best box of each image meets the cells of a validation fold, for ``fit``.

    Reports mean, median and smallest IoU (an image without a detection counts as 0), and as ``loss`` what the mean
    lacks to 1. Boxes of ``class_name`` alone count.

    Raises:
      DataError: if the model has no such class, or no image such a cell.
    """
    names = model.config.class_names
    if class_name not in names:
        raise DataError(f"the model finds {', '.join(names)}; it cannot be judged by its boxes of {class_name!r}")
    label = names.index(class_name)
    true = arrays.valid & (arrays.labels == label)
    if not true.any():
        raise DataError(f"no image of the validation fold has a box of {class_name!r}: nothing to measure")
    graphdef, _, _ = split(model)

    def evaluate(params: dict, stats: dict) -> dict[str, float]:
        found = predict_detections(graphdef, params, stats, arrays.images, arrays.sizes, batch_size=batch_size)
        own = found.valid & (found.labels == label)
        best = own & (np.cumsum(own, axis=1) == 1)  # the first is the one of highest score
        statistics = iou_statistics(padded_best_iou(found.boxes, best, arrays.boxes, true))
        mean, median, smallest = (statistics[name] for name in ("mean", "median", "min"))
        return {"loss": 1 - mean, "mean_iou": mean, "median_iou": median, "min_iou": smallest}

    return evaluate
