"""Classifiers in the loop: their loss, and prediction over whole sets of images."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, BFloat16, Float, Int, PRNGKeyArray, UInt8

from wbcjax.config import AugmentConfig, TrainConfig
from wbcjax.data.augment import augment
from wbcjax.data.device import fetch
from wbcjax.ops.shares import per_image
from wbcjax.training.mesh import data_mesh, replicate, shard
from wbcjax.training.state import LossFn, merge, split
from wbcjax.typing import Predict

AUX_WEIGHT = 0.4
"""Share of an auxiliary head's loss (Szegedy et al. 2016)."""
VIEWS = {
    "one": ((0, False),),
    "flips": ((0, False), (2, False), (0, True), (2, True)),
    "dihedral": tuple((turns, flip) for flip in (False, True) for turns in range(4)),
}
"""Test-time views of an image by name: quarter turns, and whether it is mirrored first."""


def cross_entropy(
    logits: Float[Array, "b c"], targets: Float[Array, "b c"], *, head: str = "softmax"
) -> Float[Array, "b"]:
    """Loss of each image against class shares: softmax cross-entropy, the sum of one binary cross-entropy a class (the
    paper's sigmoid head), or the margin loss."""
    if head == "softmax":
        return optax.softmax_cross_entropy(logits, targets)
    if head == "margin":
        return margin_loss(jax.nn.sigmoid(logits), targets)
    return optax.sigmoid_binary_cross_entropy(logits, targets).sum(axis=-1)


def margin_loss(lengths: Float[Array, "b c"], targets: Float[Array, "b c"]) -> Float[Array, "b"]:
    """Margin loss of each image (Sabour et al. 2017, equation 4): the capsule of a class that is there should be at
    least 0.9 long, that of another at most 0.1, which counts half.

    Args:
      lengths: of the class capsules, in [0, 1].
      targets: class shares.
    """
    present, absent = jax.nn.relu(0.9 - lengths) ** 2, jax.nn.relu(lengths - 0.1) ** 2
    return (targets * present + 0.5 * (1 - targets) * absent).sum(axis=-1)


def mixup(
    key: PRNGKeyArray, images: Float[Array, "b h w 3"], targets: Float[Array, "b c"], alpha: float
) -> tuple[Float[Array, "b h w 3"], Float[Array, "b c"]]:
    """Blend each image and its targets with those of its neighbour, in a share drawn from Beta(alpha, alpha).

    The batch is in random order. A partner from anywhere in it would bring all images to every device.
    """
    share = per_image(lambda key: jax.random.beta(key, alpha, alpha))(jax.random.split(key, len(images)))
    share = jnp.maximum(share, 1 - share)
    blend = lambda x: jax.vmap(lambda s, a, b: s * a + (1 - s) * b)(share, x, jnp.roll(x, 1, axis=0))  # noqa: E731
    return blend(images), blend(targets)


def class_weights(labels: Int[np.ndarray, "n"], num_classes: int) -> Float[np.ndarray, "c"]:
    """Inverse class frequencies, scaled so that the mean weight over the images is 1."""
    counts = np.bincount(labels, minlength=num_classes)
    return (len(labels) / (max((counts > 0).sum(), 1) * np.maximum(counts, 1))).astype(np.float32)


def classification_loss(
    augmentation: AugmentConfig,
    train: TrainConfig,
    *,
    num_classes: int,
    head: str = "softmax",
    weights: Float[np.ndarray, "c"] | None = None,
) -> LossFn:
    """The loss for ``fit``: fetch, augment, mix, logits, mean (weighted) cross-entropy; reports accuracy.

    Of resident ``features``, which frozen stages made of augmented images, only the rest of the model is computed.
    """

    def losses_of(logits, targets):
        losses = cross_entropy(logits, optax.smooth_labels(targets, train.label_smoothing), head=head)
        return losses if weights is None else losses * (targets @ jnp.asarray(weights))

    def loss_fn(model, resident, batch, key):
        augment_key, mixup_key, dropout_key = jax.random.split(key, 3)
        rngs, aux = nnx.Rngs(dropout=dropout_key), None
        if "features" in resident:
            labels = resident["labels"][batch["index"]]
            targets = jax.nn.one_hot(labels, num_classes)
            logits = model.logits_of_frozen(resident["features"][batch["index"]], rngs)
        else:
            images, labels = fetch(resident, batch)
            images = augment(augment_key, images, augmentation)
            targets = jax.nn.one_hot(labels, num_classes)
            if train.mixup:
                images, targets = mixup(mixup_key, images, targets, train.mixup)
            logits, aux = model.training_logits(images, rngs)
        loss = losses_of(logits, targets).mean()
        if aux is not None:
            loss += AUX_WEIGHT * losses_of(aux, targets).mean()
        return loss, {"accuracy": (logits.argmax(-1) == labels).mean()}

    return loss_fn


@functools.partial(jax.jit, static_argnames=("graphdef", "mesh", "views"))
def _logits(graphdef, mesh, views, params, stats, inputs):
    model = merge(graphdef, params, stats, training=False)
    if inputs.dtype == jnp.bfloat16:
        logits = model.logits_of_frozen(inputs)
    else:
        images = inputs.astype(jnp.float32) / 255 if inputs.dtype == jnp.uint8 else inputs
        logits = mean_over_views(model, images, views)
    # Whole on every device, so that each process can read it.
    return jax.lax.with_sharding_constraint(logits, NamedSharding(mesh, PartitionSpec()))


def mean_over_views(
    model: Callable[[Float[Array, "b h w 3"]], Float[Array, "b c"]], images: Float[Array, "b h w 3"], views: str
) -> Float[Array, "b c"]:
    """The mean of the logits over the test-time views of that name."""
    return sum(model(view(images, *how)) for how in VIEWS[views]) / len(VIEWS[views])


def view(images: Float[Array, "b h w 3"], turns: int, flip: bool) -> Float[Array, "b _ _ 3"]:
    """Images mirrored left to right where asked for, then turned by so many quarters."""
    return jnp.rot90(images[:, :, ::-1] if flip else images, turns, axes=(1, 2))


def predict_logits(
    graphdef: nnx.GraphDef,
    params: dict,
    stats: dict,
    inputs: UInt8[np.ndarray, "n h w 3"] | BFloat16[np.ndarray, "n ..."],
    *,
    views: str = "one",
    batch_size: int = 128,
) -> Float[np.ndarray, "n c"]:
    """Logits of any number of images, in batches over all devices; the padded end of the last batch is cut off.

    Every process gives all images, computes its share, and returns all logits.

    Args:
      inputs: images, or what the model's frozen stages made of them.
      views: a name of ``VIEWS``: of images, the mean over these is returned.
    """
    mesh = data_mesh()
    batch_size = -(-min(batch_size, max(len(inputs), 1)) // mesh.size) * mesh.size
    share = batch_size // jax.process_count()
    first = share * jax.process_index()
    params, stats = replicate((params, stats), mesh)
    out = []
    for start in range(0, max(len(inputs), 1), batch_size):
        batch = np.asarray(inputs[start : start + batch_size])
        padded = np.concatenate([batch, np.zeros((batch_size - len(batch), *batch.shape[1:]), batch.dtype)])
        logits = _logits(graphdef, mesh, views, params, stats, shard(padded[first : first + share], mesh))
        out.append(np.asarray(logits)[: len(batch)])
    return np.concatenate(out)


def predict_function(model: nnx.Module) -> Predict:
    """A function of images in [0, 1], (b, h, w, 3), to logits in evaluation mode, for use under jit."""
    graphdef, params, stats = split(model)
    return lambda images: merge(graphdef, params, stats, training=False)(images)


def evaluator(
    model: nnx.Module,
    inputs: UInt8[np.ndarray, "n h w 3"] | BFloat16[np.ndarray, "n ..."],
    labels: Int[np.ndarray, "n"],
    *,
    head: str,
    batch_size: int = 128,
) -> Callable[[dict, dict], dict[str, float]]:
    """Loss and accuracy on a validation fold, for ``fit``; each class counts alike, as no class is rare in practice."""
    graphdef, _, _ = split(model)

    def evaluate(params: dict, stats: dict) -> dict[str, float]:
        logits = predict_logits(graphdef, params, stats, inputs, batch_size=batch_size)
        targets = jax.nn.one_hot(labels, logits.shape[-1])
        losses = np.asarray(cross_entropy(jnp.asarray(logits), targets, head=head))
        correct = logits.argmax(-1) == labels
        classes = np.unique(labels)
        per_class = lambda values: float(np.mean([values[labels == c].mean() for c in classes]))  # noqa: E731
        return {"loss": per_class(losses), "accuracy": float(correct.mean()), "balanced_accuracy": per_class(correct)}

    return evaluate
