"""LeNet-5 (LeCun et al. 1998) with ReLU and max pooling, as today's frameworks teach it, on colour images."""

from collections.abc import Iterator

from flax import nnx
from jaxtyping import Array, Float

from wbcjax.config import ModelConfig
from wbcjax.models.classifier import Classifier
from wbcjax.models.layers import Conv, max_pool_2x2


class LeNet(Classifier):
    """Two 5×5 convolutions with pooling, then dense layers of 120 and 84 units."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self._begin(config)
        dtype = self.dtype
        height, width = (((s - 4) // 2 - 4) // 2 for s in config.image_size)
        self.conv1 = Conv(3, 6, 5, padding="VALID", dtype=dtype, rngs=rngs)
        self.conv2 = Conv(6, 16, 5, padding="VALID", dtype=dtype, rngs=rngs)
        self.dense1 = nnx.Linear(height * width * 16, 120, dtype=dtype, rngs=rngs)
        self.dense2 = nnx.Linear(120, 84, dtype=dtype, rngs=rngs)
        self._build_head(config, features=84, dropout=0.0, rngs=rngs)

    def stages(self, x: Float[Array, "b h w 3"]) -> Iterator[tuple[str, Array]]:
        x = self.prepare(x)
        yield "block1", (x := max_pool_2x2(nnx.relu(self.conv1(x))))
        yield "block2", (x := max_pool_2x2(nnx.relu(self.conv2(x))))
        yield "dense1", (x := nnx.relu(self.dense1(x.reshape(x.shape[0], -1))))
        yield "features", nnx.relu(self.dense2(x))
