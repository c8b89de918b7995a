"""Feature pyramid (Lin et al. 2017, section 3): maps of equal width at every stride, each knowing the coarser ones."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wbcjax.errors import ConfigError
from wbcjax.models.layers import Conv

_KERNELS = nnx.initializers.variance_scaling(1.0, "fan_in", "uniform")


class FPN(nnx.Module):
    """The pyramid of torchvision's detectors: values and order of the operations are the same.

    Each map of the backbone is brought to ``channels`` by a 1×1 convolution (``inner``), the sum of the coarser ones is
    added, and a 3×3 convolution (``layer``) smooths the sum. Levels above the backbone's are every second pixel of the
    one below ("max pooling" of 1×1 windows).
    """

    def __init__(
        self,
        inputs: Mapping[str, int],
        levels: Sequence[int],
        channels: int,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        """Build the convolutions.

        Args:
          inputs: channels of the backbone's maps; the one called ``c3`` has level 3, stride 2 to the power of 3.
          levels: of the pyramid, consecutive, finest first.

        Raises:
          ConfigError: if the backbone has no map of the finest level.
        """
        self.names = tuple(f"c{level}" for level in levels if f"c{level}" in inputs)
        if f"c{levels[0]}" not in self.names:
            raise ConfigError(f"model.levels = {tuple(levels)} starts at a level that the backbone does not have: "
                              f"expected to start at one of {', '.join(sorted(name[1:] for name in inputs))}")
        self.pooled = len(levels) - len(self.names)
        self.inner = nnx.List([Conv(inputs[name], channels, 1, kernel_init=_KERNELS, dtype=dtype, rngs=rngs)
                               for name in self.names])
        self.layer = nnx.List([Conv(channels, channels, kernel_init=_KERNELS, dtype=dtype, rngs=rngs)
                               for _ in self.names])

    def __call__(self, maps: Mapping[str, Float[Array, "b _ _ _"]]) -> list[Float[Array, "b _ _ c"]]:
        """The pyramid, finest level first, of a backbone's maps; sides of one map are twice those of the next."""
        laterals = [inner(maps[name]) for inner, name in zip(self.inner, self.names, strict=True)]
        sums = laterals[-1:]
        for lateral in laterals[-2::-1]:
            sums.insert(0, lateral + upsample(sums[0]))
        pyramid = [layer(total) for layer, total in zip(self.layer, sums, strict=True)]
        for _ in range(self.pooled):
            pyramid.append(pyramid[-1][:, ::2, ::2])
        return pyramid


def upsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Twice the height and width, by repeating pixels."""
    b, h, w, c = x.shape
    return jax.lax.broadcast_in_dim(x, (b, h, 2, w, 2, c), (0, 1, 3, 5)).reshape(b, 2 * h, 2 * w, c)
