"""Classifiers in the loop: their loss, and prediction over whole sets of images."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from wbcjax.config import AugmentConfig, TrainConfig
from wbcjax.data.augment import augment
from wbcjax.data.device import fetch
from wbcjax.training.mesh import data_mesh, replicate, shard
from wbcjax.training.state import LossFn, merge, split

Predict = Callable[[Float[Array, "b h w 3"]], Float[Array, "b c"]]


def cross_entropy(
    logits: Float[Array, "b c"], labels: Int[Array, "b"], *, head: str = "softmax", smoothing: float = 0.0
) -> Float[Array, "b"]:
    """Loss of each image: softmax cross-entropy, or the sum of one binary cross-entropy a class (the paper's head)."""
    targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), smoothing)
    if head == "softmax":
        return optax.softmax_cross_entropy(logits, targets)
    return optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1)


def class_weights(labels: Int[np.ndarray, "n"], num_classes: int) -> Float[np.ndarray, "c"]:
    """Inverse class frequencies, scaled so that the mean weight over the images is 1."""
    counts = np.bincount(labels, minlength=num_classes)
    return (len(labels) / (max((counts > 0).sum(), 1) * np.maximum(counts, 1))).astype(np.float32)


def classification_loss(
    augmentation: AugmentConfig, train: TrainConfig, *, head: str, weights: Float[np.ndarray, "c"] | None = None
) -> LossFn:
    """The loss for ``fit``: fetch, augment, logits, mean (weighted) cross-entropy; reports accuracy."""

    def loss_fn(model, resident, batch, key):
        images, labels = fetch(resident, batch)
        augmentation_key, dropout_key = jax.random.split(key)
        logits = model(augment(augmentation_key, images, augmentation), rngs=nnx.Rngs(dropout=dropout_key))
        losses = cross_entropy(logits, labels, head=head, smoothing=train.label_smoothing)
        if weights is not None:
            losses = losses * jnp.asarray(weights)[labels]
        return losses.mean(), {"accuracy": (logits.argmax(-1) == labels).mean()}

    return loss_fn


@functools.partial(jax.jit, static_argnums=0)
def _logits(graphdef, params, stats, images):
    images = images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
    return merge(graphdef, params, stats, training=False)(images)


def predict_logits(
    graphdef: nnx.GraphDef, params: dict, stats: dict, images: UInt8[np.ndarray, "n h w 3"], *, batch_size: int = 128
) -> Float[np.ndarray, "n c"]:
    """Logits of any number of images, in batches over all devices; the padded end of the last batch is cut off."""
    mesh = data_mesh()
    batch_size = -(-min(batch_size, max(len(images), 1)) // mesh.size) * mesh.size
    params, stats = replicate((params, stats), mesh)
    out = []
    for start in range(0, len(images), batch_size):
        batch = np.asarray(images[start : start + batch_size])
        padded = np.pad(batch, ((0, batch_size - len(batch)), *[(0, 0)] * 3))
        out.append(np.asarray(_logits(graphdef, params, stats, shard(padded, mesh)))[: len(batch)])
    return np.concatenate(out) if out else np.zeros((0, 0), np.float32)


def predict_function(model: nnx.Module) -> Predict:
    """A function of images in [0, 1], (b, h, w, 3), to logits in evaluation mode, for use under jit."""
    graphdef, params, stats = split(model)
    return lambda images: merge(graphdef, params, stats, training=False)(images)


def evaluator(
    model: nnx.Module, images: UInt8[np.ndarray, "n h w 3"], labels: Int[np.ndarray, "n"], *, head: str,
    batch_size: int = 128,
) -> Callable[[dict, dict], dict[str, float]]:
    """Loss and accuracy on a validation fold, for ``fit``; each class counts alike, as no class is rare in practice."""
    graphdef, _, _ = split(model)

    def evaluate(params: dict, stats: dict) -> dict[str, float]:
        logits = predict_logits(graphdef, params, stats, images, batch_size=batch_size)
        losses = np.asarray(cross_entropy(jnp.asarray(logits), jnp.asarray(labels), head=head))
        correct = logits.argmax(-1) == labels
        classes = np.unique(labels)
        per_class = lambda values: float(np.mean([values[labels == c].mean() for c in classes]))  # noqa: E731
        return {"loss": per_class(losses), "accuracy": float(correct.mean()), "balanced_accuracy": per_class(correct)}

    return evaluate
