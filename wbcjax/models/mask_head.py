"""Second stage, masks (He et al. 2017, section 3): a mask for each class inside each box."""

import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from wbcjax.config import MaskHeadConfig
from wbcjax.models.layers import HE_NORMAL, Conv


class Deconv(nnx.Module):
    """Transposed convolution of 2×2 with stride 2: each pixel becomes four, by one matrix product.

    ``kernel[i, j]`` makes the one in row i and column j of the four, so there is nothing to turn around in PyTorch's
    weights: ``weight.transpose(2, 3, 0, 1)``.
    """

    def __init__(self, inputs: int, outputs: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        # Each output has one pixel as its input: the fan of a 1×1 kernel.
        kernel = HE_NORMAL(rngs.params(), (4, inputs, outputs), jnp.float32) * 2
        self.kernel = nnx.Param(kernel.reshape(2, 2, inputs, outputs))
        self.bias = nnx.Param(jnp.zeros((outputs,), jnp.float32))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "n h w i"]) -> Float[Array, "n h w_times_4 o"]:
        """The four of each pixel side by side in reading order; ``interleave`` makes an image of them."""
        n, h, w, i = x.shape
        kernel = self.kernel[...].astype(self.dtype).transpose(2, 0, 1, 3).reshape(i, -1)
        y = (x.astype(self.dtype).reshape(-1, i) @ kernel).reshape(n, h, 4 * w, -1)
        return y + self.bias[...].astype(self.dtype)


def interleave(x: Float[Array, "n h w_times_4 c"]) -> Float[Array, "n h2 w2 c"]:
    """The image of twice the height and width from the four pixels of each location."""
    n, h, w, c = x.shape
    return x.reshape(n, h, w // 4, 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, w // 2, c)


class MaskHead(nnx.Module):
    """3×3 convolutions, a transposed one that doubles the size, and a logit for each class and pixel."""

    def __init__(self, config: MaskHeadConfig, channels: int, classes: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        widths = (channels, *[config.channels] * config.convs)
        self.convs = nnx.List([Conv(widths[i], widths[i + 1], dtype=dtype, rngs=rngs) for i in range(config.convs)])
        self.deconv = Deconv(widths[-1], config.channels, dtype=dtype, rngs=rngs)
        self.logits = nnx.Linear(config.channels, classes + 1, kernel_init=nnx.initializers.normal(0.01), rngs=rngs)

    def __call__(self, features: Float[Array, "n p p c"]) -> Float[Array, "n p2 p2 classes"]:
        """Logits, float32, at twice the size; channel 0 (the background) is never used, channel k + 1 is class k."""
        for conv in self.convs:
            features = nnx.relu(conv(features))
        hidden = nnx.relu(self.deconv(features)).astype(jnp.float32)
        # One matrix product of two axes: XLA's CPU backend is slow at more. Then few logits are moved to their place,
        # not many features.
        logits = self.logits(hidden.reshape(-1, hidden.shape[-1]))
        return interleave(logits.reshape(*hidden.shape[:-1], -1))


def mask_of_class(
    logits: Float[Array, "*b p p classes"], labels: Int[Array, "*b"]
) -> Float[Array, "*b p p"]:
    """The channel of each box's label (0 is the background)."""
    # A sum: the gradient of a gather would be scattered number by number.
    own = labels[..., None, None, None] == jnp.arange(logits.shape[-1])
    return jnp.where(own, logits, 0).sum(axis=-1)


def mask_loss(
    logits: Float[Array, "b k p p"], targets: Float[Array, "b k p p"], positive: Bool[Array, "b k"]
) -> Float[Array, ""]:
    """Binary cross-entropy of the masks of the positive proposals, averaged over pixels; 0 without any."""
    used = positive[..., None, None]
    losses = optax.sigmoid_binary_cross_entropy(logits, jnp.where(used, targets, 0))
    pixels = jnp.maximum(positive.sum(), 1) * logits.shape[-1] * logits.shape[-2]
    return jnp.where(used, losses, 0).sum() / pixels
