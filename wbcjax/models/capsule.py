"""A capsule network with dynamic routing (Sabour, Frosst and Hinton 2017), as Baydilli and Atila 2020 ("Classification
of white blood cells using capsule networks") trained one.

The last convolution's channels are read as short vectors, the primary capsules. Each of them votes for the pose of
every class, and routing finds the classes on which votes agree. The length of a class's capsule says whether the class
is there. Logits are ln ‖s‖² of the capsules before ``squash``, so the sigmoid of a logit is exactly the capsule's
length, and the margin loss (``model.head`` "margin") is that of Sabour et al.

Sizes are this package's, for images of 64 pixels on a CPU: three convolutions of 5×5 with stride 2 instead of two of
9×9 with 256 channels. The decoder that reconstructs the image is left out: it is a regulariser, here every image is
augmented anew at every step, and for a colour image it would have more weights than all the rest.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wbcjax.config import ModelConfig
from wbcjax.models.classifier import Classifier
from wbcjax.models.layers import Conv

EPSILON = 1e-8
"""Added to squared lengths, whose root and logarithm have no gradient at 0."""


def squash(s: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Vectors of the same directions and lengths ‖s‖² / (1 + ‖s‖²), below 1 (Sabour et al. 2017, equation 1)."""
    square = (s**2).sum(axis=-1, keepdims=True)
    return s * (jnp.sqrt(square + EPSILON) / (1 + square))


def route(votes: Float[Array, "b n c d"], iterations: int) -> Float[Array, "b c d"]:
    """Dynamic routing (Sabour et al. 2017, procedure 1): what each of ``c`` capsules gets from ``n`` below it.

    Every capsule below shares its vote out among those above, at first evenly, then by how far each of its votes agrees
    with what all have made of that capsule.

    Args:
      votes: of each capsule below (n) for each above (c).
      iterations: 1 or more; with 1 every vote is shared out evenly.

    Returns:
      The capsules above before ``squash``.
    """
    total, agreement = votes.sum(axis=1) / votes.shape[2], 0.0
    for _ in range(iterations - 1):
        agreement = agreement + jnp.einsum("bncd,bcd->bnc", votes, squash(total))
        total = jnp.einsum("bnc,bncd->bcd", jax.nn.softmax(agreement, axis=2), votes)
    return total


class ClassCapsules(nnx.Module):
    """One capsule a class, routed from all primary capsules: ln ‖s‖² of each."""

    def __init__(self, inputs: int, dim: int, num_classes: int, *, out_dim: int = 16, iterations: int = 3,
                 rngs: nnx.Rngs):
        shape = (inputs, num_classes, dim, out_dim)
        self.kernel = nnx.Param(nnx.initializers.truncated_normal(0.1)(rngs.params(), shape, jnp.float32))
        self.iterations = iterations

    def __call__(self, features: Float[Array, "b f"]) -> Float[Array, "b c"]:
        kernel = self.kernel[...]
        poses = features.reshape(features.shape[0], kernel.shape[0], kernel.shape[2])
        votes = jnp.einsum("bnp,ncpd->bncd", poses, kernel)
        return jnp.log((route(votes, self.iterations) ** 2).sum(axis=-1) + EPSILON)


class CapsuleNet(Classifier):
    """Two convolutions, primary capsules of 8 dimensions, class capsules of 16; features are all primary capsules."""

    filters = (32, 64)
    types, dim = 8, 8
    """Primary capsules at each place of the last map, and their dimensions."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self._begin(config)
        widths = (3, *self.filters)
        self.convs = nnx.List(
            [Conv(i, o, 5, stride=2, dtype=self.dtype, rngs=rngs) for i, o in zip(widths, self.filters, strict=False)]
        )
        self.primary = Conv(self.filters[-1], self.types * self.dim, 5, stride=2, dtype=self.dtype, rngs=rngs)
        height, width = (-(-side // 2 ** len(widths)) for side in config.image_size)
        self._build_head(config, features=height * width * self.types * self.dim, dropout=0.0, rngs=rngs)

    def reset_classifier(self, num_classes: int, *, rngs: nnx.Rngs) -> None:
        self.classifier = ClassCapsules(self.num_features // self.dim, self.dim, num_classes, rngs=rngs)

    def stages(self, x: Float[Array, "b h w 3"]) -> Iterator[tuple[str, Array]]:
        x = self.prepare(x)
        for number, conv in enumerate(self.convs, 1):
            yield f"block{number}", (x := nnx.relu(conv(x)))
        yield "primary", (x := self.primary(x))
        yield "features", squash(x.reshape(x.shape[0], -1, self.dim)).reshape(x.shape[0], -1)
