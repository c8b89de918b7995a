"""A small network that takes noise off an image, blind to how much there is.

It predicts the noise and subtracts it, as DnCNN does (Zhang et al. 2017, "Beyond a Gaussian Denoiser"), and works on
2×2 pixels folded into channels, as FFDNet does (Zhang et al. 2018): a quarter of the work, and each layer sees twice as
far. With so few layers batch normalisation, which DnCNN has, is not needed.
"""

import itertools

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wbcjax.config import DenoiserModelConfig
from wbcjax.models.layers import Conv


class Denoiser(nnx.Module):
    """3×3 convolutions with ReLUs between them, from folded pixels to folded noise; of images of any size."""

    def __init__(self, config: DenoiserModelConfig, *, rngs: nnx.Rngs):
        widths = (12, *[config.channels] * (config.layers - 1))
        self.convs = nnx.List([Conv(i, o, rngs=rngs) for i, o in itertools.pairwise(widths)])
        # No noise is predicted at first: training starts from the image as it is.
        self.last = Conv(widths[-1], 12, kernel_init=nnx.initializers.zeros, rngs=rngs)

    def noise(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """What the network takes for noise in images in [0, 1]."""
        height, width = x.shape[1:3]
        y = folded(jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge") - 0.5)
        for conv in self.convs:
            y = nnx.relu(conv(y))
        return unfolded(self.last(y))[:, :height, :width]

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        """The images, in [0, 1], without what is taken for noise, clipped to [0, 1]."""
        return jnp.clip(x - self.noise(x), 0, 1)


def folded(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c4"]:
    """Each 2×2 pixels, in reading order, as the channels of one; height and width are even."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // 2, w // 2, 4 * c)


def unfolded(x: Float[Array, "b h2 w2 c4"]) -> Float[Array, "b h w c"]:
    """Undoes ``folded``."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, c // 4)


def build_denoiser(config: DenoiserModelConfig, seed: int = 0) -> Denoiser:
    """The network of ``config`` with parameters drawn from ``seed``."""
    return nnx.jit(lambda: Denoiser(config, rngs=nnx.Rngs(seed)))()
