"""VGG16 (Simonyan and Zisserman 2015, configuration D), with and without batch normalisation."""

import functools
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wbcjax.config import BackboneConfig
from wbcjax.models.backbone import Backbone, Stage
from wbcjax.models.layers import Conv, max_pool_2x2
from wbcjax.models.norms import Norm, make_norm

CHANNELS = (64, 128, 256, 512, 512)
CONVS = (2, 2, 3, 3, 3)


class VGGBlock(nnx.Module):
    """3×3 convolutions with ReLU, each normalised where ``norm`` is given."""

    def __init__(
        self, inputs: int, outputs: int, convs: int, norm: Norm | None, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.convs = nnx.List(
            [Conv(outputs if i else inputs, outputs, dtype=dtype, rngs=rngs) for i in range(convs)]
        )
        self.norms = nnx.List([make_norm(norm, outputs, dtype=dtype, rngs=rngs) for _ in self.convs] if norm else [])

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h w o"]:
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = nnx.relu(self.norms[i](x) if self.norms else x)
        return x


class VGG16(Backbone):
    """The 13 convolutions in five blocks; the maps are those before each pooling, and the one after the last."""

    channels: ClassVar = {f"c{level}": width for level, width in enumerate((*CHANNELS, CHANNELS[-1]))}
    stage_names: ClassVar = ("block1", "block2", "block3", "block4", "block5")
    dropout: ClassVar = 0.5

    def __init__(self, config: BackboneConfig, *, batch_norm: bool = False, rngs: nnx.Rngs):
        self.frozen_stages = config.frozen_stages
        dtype = jnp.dtype(config.dtype)
        widths = (3, *CHANNELS)
        for number in range(1, 6):
            norm = self._norm_of(number, config.norm) if batch_norm else None
            block = VGGBlock(*widths[number - 1 : number + 1], CONVS[number - 1], norm, dtype=dtype, rngs=rngs)
            setattr(self, f"block{number}", block)

    def stages(self) -> list[tuple[str, Stage]]:
        pooled = [functools.partial(pool_and_run, getattr(self, name)) for name in self.stage_names[1:]]
        return list(zip(self.channels, [self.block1, *pooled, max_pool_2x2], strict=True))


def pool_and_run(block: VGGBlock, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
    """Max pooling, then the block."""
    return block(max_pool_2x2(x))
