"""A small network of double convolution layers, after Tiwari et al. 2018, "Detection of subtype blood cells using deep
learning" (Cognitive Systems Research 52).

What makes it is that two convolutions stand before each pooling. The numbers of layers, filters and units are this
package's reading, as is the dense layer on the whole map, where the custom CNNs pool globally.
"""

from collections.abc import Iterator

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wbcjax.config import ModelConfig
from wbcjax.models.classifier import Classifier
from wbcjax.models.layers import Conv, max_pool_2x2


class DoubleConv(nnx.Module):
    """Two 3×3 convolutions with ReLU, then 2×2 max pooling."""

    def __init__(self, inputs: int, outputs: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.first = Conv(inputs, outputs, dtype=dtype, rngs=rngs)
        self.second = Conv(outputs, outputs, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        return max_pool_2x2(nnx.relu(self.second(nnx.relu(self.first(x)))))


class DoubleConvNet(Classifier):
    """Double convolutions of 16, 32 and 64 filters, and a dense layer of 128 units on the flattened map."""

    filters = (16, 32, 64)
    hidden = 128

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self._begin(config)
        widths = (3, *self.filters)
        self.blocks = nnx.List(
            [DoubleConv(i, o, dtype=self.dtype, rngs=rngs) for i, o in zip(widths, self.filters, strict=False)]
        )
        height, width = (side // 2 ** len(self.filters) for side in config.image_size)
        self.dense = nnx.Linear(height * width * self.filters[-1], self.hidden, dtype=self.dtype, rngs=rngs)
        self._build_head(config, features=self.hidden, dropout=0.5, rngs=rngs)

    def stages(self, x: Float[Array, "b h w 3"]) -> Iterator[tuple[str, Array]]:
        x = self.prepare(x)
        for number, block in enumerate(self.blocks, 1):
            yield f"block{number}", (x := block(x))
        yield "features", nnx.relu(self.dense(x.reshape(x.shape[0], -1)))
