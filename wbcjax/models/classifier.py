"""What every image classifier offers: features, named intermediates, a head that can be replaced."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wbcjax.config import ModelConfig

MEAN = 0.5
STD = 0.25
"""Inputs in [0, 1] are brought to about zero mean and unit variance inside the model."""


class Classifier(nnx.Module):
    """Base of the image classifiers.

    A subclass builds its layers, then calls ``_build_head``, and implements ``stages``, which yields each named
    intermediate in order; the last one is the feature vector.

    Training or evaluation mode is set with ``nnx.view`` or ``model.train()`` / ``model.eval()``. Random numbers for
    dropout are an argument, so a step stays a pure function of its key.
    """

    min_size = 16
    """Smallest height and width at which every intermediate has a pixel."""

    def _build_head(self, config: ModelConfig, features: int, dropout: float, rngs: nnx.Rngs) -> None:
        self.num_features = features
        self.dropout = nnx.Dropout(dropout if config.dropout is None else config.dropout)
        self.reset_classifier(config.num_classes, rngs=rngs)

    def stages(self, x: Float[Array, "b h w 3"]) -> Iterator[tuple[str, Array]]:
        """Yield (name, array) of every intermediate, from the input to the (b, features) vector."""
        raise NotImplementedError(f"{type(self).__name__} defines no stages")

    def intermediates(self, x: Float[Array, "b h w 3"]) -> dict[str, Array]:
        """Every named intermediate, and the logits, of images in [0, 1]."""
        values = dict(self.stages(x))
        return {**values, "logits": self.classify(values["features"])}

    def forward_features(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b f"]:
        """The feature vector before dropout and the last layer, of images in [0, 1]."""
        return dict(self.stages(x))["features"]

    def classify(self, features: Float[Array, "b f"], rngs: nnx.Rngs | None = None) -> Float[Array, "b c"]:
        """Logits, in float32, of a feature vector."""
        return self.classifier(self.dropout(features, rngs=rngs).astype(jnp.float32))

    def __call__(self, x: Float[Array, "b h w 3"], rngs: nnx.Rngs | None = None) -> Float[Array, "b c"]:
        """Logits, in float32, of RGB images in [0, 1]. ``rngs`` drives dropout in training mode."""
        return self.classify(self.forward_features(x), rngs)

    def reset_classifier(self, num_classes: int, *, rngs: nnx.Rngs) -> None:
        """Replace the last layer by a fresh one for ``num_classes`` classes."""
        self.classifier = nnx.Linear(self.num_features, num_classes, rngs=rngs)


def normalise(x: Float[Array, "b h w 3"], dtype: jnp.dtype) -> Float[Array, "b h w 3"]:
    """Centre and scale images in [0, 1]."""
    return ((x - MEAN) / STD).astype(dtype)


def parameter_count(model: nnx.Module) -> int:
    """Number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
