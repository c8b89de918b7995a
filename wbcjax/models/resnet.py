"""Residual networks (He et al. 2016). The stride of a bottleneck is taken by its 3×3 convolution, as in torchvision, or
by the first 1×1, as in the paper and in Keras."""

import functools
from collections.abc import Iterable
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wbcjax.config import BackboneConfig
from wbcjax.models.backbone import Backbone, Stage
from wbcjax.models.layers import Conv, max_pool_3x3
from wbcjax.models.norms import Norm, make_norm


class BasicBlock(nnx.Module):
    """Two 3×3 convolutions and a shortcut."""

    expansion = 1

    def __init__(
        self, inputs: int, width: int, stride: int, norm: Norm, flavour: str = "torchvision", *, dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        shared = {"dtype": dtype, "rngs": rngs}
        self.conv1 = Conv(inputs, width, stride=stride, padding=((1, 1), (1, 1)), use_bias=False, **shared)
        self.bn1 = make_norm(norm, width, **shared)
        self.conv2 = Conv(width, width, use_bias=False, **shared)
        self.bn2 = make_norm(norm, width, **shared)
        _add_shortcut(self, inputs, width, stride, norm, shared)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        y = nnx.relu(self.bn1(self.conv1(x)))
        return nnx.relu(self.bn2(self.conv2(y)) + _shortcut(self, x))


class Bottleneck(nnx.Module):
    """1×1, 3×3 and 1×1 convolutions, the last one four times as wide, and a shortcut."""

    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int, norm: Norm, flavour: str = "torchvision", *, dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        shared = {"dtype": dtype, "rngs": rngs}
        first, second = (stride, 1) if flavour == "keras" else (1, stride)
        self.conv1 = Conv(inputs, width, 1, stride=first, use_bias=False, **shared)
        self.bn1 = make_norm(norm, width, **shared)
        self.conv2 = Conv(width, width, stride=second, padding=((1, 1), (1, 1)), use_bias=False, **shared)
        self.bn2 = make_norm(norm, width, **shared)
        self.conv3 = Conv(width, 4 * width, 1, use_bias=False, **shared)
        self.bn3 = make_norm(norm, 4 * width, **shared)
        _add_shortcut(self, inputs, 4 * width, stride, norm, shared)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        y = nnx.relu(self.bn1(self.conv1(x)))
        y = nnx.relu(self.bn2(self.conv2(y)))
        return nnx.relu(self.bn3(self.conv3(y)) + _shortcut(self, x))


def _add_shortcut(block: nnx.Module, inputs: int, outputs: int, stride: int, norm: Norm, shared: dict) -> None:
    """A 1×1 convolution where the sizes differ, otherwise none."""
    change = stride != 1 or inputs != outputs
    block.downsample_conv = Conv(inputs, outputs, 1, stride=stride, use_bias=False, **shared) if change else None
    block.downsample_bn = make_norm(norm, outputs, **shared) if change else None


def _shortcut(block: nnx.Module, x: Array) -> Array:
    return x if block.downsample_conv is None else block.downsample_bn(block.downsample_conv(x))


class Stem(nnx.Module):
    """7×7 convolution and 3×3 max pooling, each with stride 2."""

    def __init__(self, norm: Norm, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.conv1 = Conv(3, 64, 7, stride=2, padding=((3, 3), (3, 3)), use_bias=False, dtype=dtype, rngs=rngs)
        self.bn1 = make_norm(norm, 64, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b h2 w2 64"]:
        return max_pool_3x3(nnx.relu(self.bn1(self.conv1(x))))


class ResNet(Backbone):
    """Stem and four layers of residual blocks, whose outputs are the maps."""

    stage_names: ClassVar = ("stem", "layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        config: BackboneConfig,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        rngs: nnx.Rngs,
    ):
        self.frozen_stages = config.frozen_stages
        self.flavour = config.flavour if block is Bottleneck else None
        shared = {"dtype": jnp.dtype(config.dtype), "rngs": rngs}
        self.stem = Stem(self._norm_of(1, config.norm), **shared)
        inputs, self.expansion = 64, block.expansion
        for number, depth in enumerate(depths, 1):
            norm, width = self._norm_of(number + 1, config.norm), 64 * 2 ** (number - 1)
            blocks = []
            for i in range(depth):
                stride = 2 if number > 1 and i == 0 else 1
                blocks.append(block(inputs, width, stride, norm, config.flavour, **shared))
                inputs = width * block.expansion
            setattr(self, f"layer{number}", nnx.List(blocks))

    @property
    def channels(self) -> dict[str, int]:
        return {f"c{level}": 2 ** (level + 4) * self.expansion for level in range(2, 6)}

    def stages(self) -> list[tuple[str, Stage]]:
        layers = [(map_name, functools.partial(run, getattr(self, name)))
                  for map_name, name in zip(self.channels, self.stage_names[1:], strict=True)]
        return [("stem", self.stem), *layers]


def run(blocks: Iterable[nnx.Module], x: Array) -> Array:
    """One block after the other."""
    for block in blocks:
        x = block(x)
    return x
