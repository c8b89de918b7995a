"""What every image classifier offers: features, named intermediates, a head that can be replaced."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wbcjax.config import ModelConfig
from wbcjax.errors import ConfigError
from wbcjax.models.preprocessing import preprocess


class Classifier(nnx.Module):
    """Base of the image classifiers.

    A subclass calls ``_begin``, builds its layers, calls ``_build_head``, and implements ``stages``, which yields each
    named intermediate in order; the last one is the feature vector.

    Training or evaluation mode is set with ``nnx.view`` or ``model.train()`` / ``model.eval()``. Random numbers for
    dropout are an argument, so a step stays a pure function of its key.
    """

    min_size = 16
    """Smallest height and width at which every intermediate has a pixel."""

    stage_names: tuple[str, ...] = ()
    """Where the paths of each stage's parameters start, for freezing and for rates by stage; none where all learn
    alike."""

    def _begin(self, config: ModelConfig) -> None:
        """Note how images are prepared.

        Raises:
          ConfigError: if the images are too small, or more stages are to be frozen than there are.
        """
        if min(config.image_size) < self.min_size:
            raise ConfigError(f"model.image_size = {config.image_size} is too small for {config.name}: expected at "
                              f"least {self.min_size} pixels a side")
        if config.frozen_stages > len(self.stage_names):
            raise ConfigError(f"model.frozen_stages = {config.frozen_stages} is impossible: {config.name} has "
                              f"{len(self.stage_names)} stages to freeze")
        self.dtype = jnp.dtype(config.dtype)
        self.preprocessing = config.preprocessing
        self.frozen_stages = config.frozen_stages

    def prepare(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """What the first layer sees of images in [0, 1]."""
        return preprocess(x, self.preprocessing).astype(self.dtype)

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

    def training_logits(
        self, x: Float[Array, "b h w 3"], rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "b c"], Float[Array, "b c"] | None]:
        """Logits, and those of an auxiliary head where there is one, which training adds to the loss."""
        return self(x, rngs), None

    def reset_classifier(self, num_classes: int, *, rngs: nnx.Rngs) -> None:
        """Replace the last layer by a fresh one for ``num_classes`` classes."""
        self.classifier = nnx.Linear(self.num_features, num_classes, rngs=rngs)


def parameter_count(model: nnx.Module) -> int:
    """Number of trainable parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
