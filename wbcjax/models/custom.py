"""The two custom CNNs of the paper (sections 3.2.1 and 3.2.2).

The paper leaves room: it lists six filter counts for the five blocks of the second. The reading taken here is five
blocks with pooling plus one without. The counts themselves, the width of the dense layer, the dropout and the order
within a block (convolution, max pooling, batch normalisation, ReLU) are this package's choice. Pooling comes first
because the maximum may be taken before an increasing function as well as after it, and then a quarter of the values
is left to normalise.

Both end in global max pooling: the answer is the strongest evidence anywhere, so one network serves crops and whole
images, of any size, wherever the cell lies.
"""

from collections.abc import Iterator

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wbcjax.config import ModelConfig
from wbcjax.models.classifier import Classifier
from wbcjax.models.layers import Conv, max_pool_2x2
from wbcjax.models.norms import Norm, make_norm


class CustomCNN1(Classifier):
    """Four blocks of 3×3 convolution, ReLU and 2×2 max pooling; global max pooling; a dense layer of 128 units."""

    filters = (16, 32, 64, 128)
    hidden = 128

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self._begin(config)
        widths = (3, *self.filters)
        self.convs = nnx.List(
            [Conv(i, o, dtype=self.dtype, rngs=rngs) for i, o in zip(widths, self.filters, strict=False)]
        )
        self.dense = nnx.Linear(self.filters[-1], self.hidden, dtype=self.dtype, rngs=rngs)
        self._build_head(config, features=self.hidden, dropout=0.5, rngs=rngs)

    def stages(self, x: Float[Array, "b h w 3"]) -> Iterator[tuple[str, Array]]:
        x = self.prepare(x)
        for number, conv in enumerate(self.convs, 1):
            yield f"block{number}", (x := max_pool_2x2(nnx.relu(conv(x))))
        yield "features", nnx.relu(self.dense(x.max(axis=(1, 2))))


class ConvBlock(nnx.Module):
    """3×3 convolution, 2×2 max pooling if asked for, normalisation (the paper's is by batch), ReLU."""

    def __init__(self, inputs: int, outputs: int, *, pool: bool, norm: Norm, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.conv = Conv(inputs, outputs, use_bias=False, dtype=dtype, rngs=rngs)
        # Groups of 16 channels (Wu and He 2018): 32 groups of so few channels would be single channels.
        self.norm = make_norm(norm, outputs, groups=outputs // 16, dtype=dtype, rngs=rngs)
        self.pool = pool

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        x = self.conv(x)
        return nnx.relu(self.norm(max_pool_2x2(x) if self.pool else x))


class CustomCNN2(Classifier):
    """Five blocks with pooling and one without, global max pooling, a dense layer of 128 units."""

    filters = (16, 32, 64, 128, 256, 256)
    hidden = 128
    min_size = 32

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self._begin(config)
        widths = (3, *self.filters)
        last = len(self.filters) - 1
        self.blocks = nnx.List(
            [
                ConvBlock(widths[k], widths[k + 1], pool=k < last, norm=config.norm, dtype=self.dtype, rngs=rngs)
                for k in range(len(self.filters))
            ]
        )
        self.dense = nnx.Linear(self.filters[-1], self.hidden, dtype=self.dtype, rngs=rngs)
        self._build_head(config, features=self.hidden, dropout=0.5, rngs=rngs)

    def stages(self, x: Float[Array, "b h w 3"]) -> Iterator[tuple[str, Array]]:
        x = self.prepare(x)
        for number, block in enumerate(self.blocks, 1):
            yield f"block{number}", (x := block(x))
        yield "features", nnx.relu(self.dense(x.max(axis=(1, 2))))
