"""Inception v3 (Szegedy et al. 2016): a stem of plain convolutions, then blocks of parallel branches.

The names are torchvision's. There and in Keras no convolution of stride 2 is padded, so that a map of stride s is a
little smaller than the image over s. Classifiers do the same; for a detector, whose boxes are mapped by strides alone,
everything is padded, with the same weights.
"""

import functools
from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from wbcjax.config import BackboneConfig, DetectorModelConfig
from wbcjax.models.backbone import Backbone, Stage
from wbcjax.models.layers import Conv, max_pool_3x3
from wbcjax.models.norms import Norm, make_norm

EPSILON = 1e-3
"""Of every normalisation here, as published."""

Kernel = int | tuple[int, int]
Branches = dict[str, tuple[str, int, Kernel]]
"""The convolutions of a block: name -> (where its input comes from, channels, kernel). The input is the block's own,
``x``, or that after pooling, ``pooled``, or the output of another convolution."""

STEM: dict[str, tuple[int, Kernel]] = {
    "conv_1a": (32, 3), "conv_2a": (32, 3), "conv_2b": (64, 3), "conv_3b": (80, 1), "conv_4a": (192, 3),
}
AFTER_POOLING = ("conv_3b", "mixed_5b")
"""Stages that begin with max pooling."""


def block_5(pooled: int) -> Branches:
    """Of the maps of stride 8, in which a 5×5 convolution stands beside two of 3×3."""
    return {
        "branch1x1": ("x", 64, 1),
        "branch5x5_1": ("x", 48, 1),
        "branch5x5_2": ("branch5x5_1", 64, 5),
        "branch3x3dbl_1": ("x", 64, 1),
        "branch3x3dbl_2": ("branch3x3dbl_1", 96, 3),
        "branch3x3dbl_3": ("branch3x3dbl_2", 96, 3),
        "branch_pool": ("pooled", pooled, 1),
    }


def block_6(width: int) -> Branches:
    """Of the maps of stride 16, in which 7×7 convolutions are cut into 1×7 and 7×1."""
    return {
        "branch1x1": ("x", 192, 1),
        "branch7x7_1": ("x", width, 1),
        "branch7x7_2": ("branch7x7_1", width, (1, 7)),
        "branch7x7_3": ("branch7x7_2", 192, (7, 1)),
        "branch7x7dbl_1": ("x", width, 1),
        "branch7x7dbl_2": ("branch7x7dbl_1", width, (7, 1)),
        "branch7x7dbl_3": ("branch7x7dbl_2", width, (1, 7)),
        "branch7x7dbl_4": ("branch7x7dbl_3", width, (7, 1)),
        "branch7x7dbl_5": ("branch7x7dbl_4", 192, (1, 7)),
        "branch_pool": ("pooled", 192, 1),
    }


REDUCTION_6: Branches = {
    "branch3x3": ("x", 384, 3),
    "branch3x3dbl_1": ("x", 64, 1),
    "branch3x3dbl_2": ("branch3x3dbl_1", 96, 3),
    "branch3x3dbl_3": ("branch3x3dbl_2", 96, 3),
}
REDUCTION_7: Branches = {
    "branch3x3_1": ("x", 192, 1),
    "branch3x3_2": ("branch3x3_1", 320, 3),
    "branch7x7x3_1": ("x", 192, 1),
    "branch7x7x3_2": ("branch7x7x3_1", 192, (1, 7)),
    "branch7x7x3_3": ("branch7x7x3_2", 192, (7, 1)),
    "branch7x7x3_4": ("branch7x7x3_3", 192, 3),
}
BLOCK_7: Branches = {
    "branch1x1": ("x", 320, 1),
    "branch3x3_1": ("x", 384, 1),
    "branch3x3_2a": ("branch3x3_1", 384, (1, 3)),
    "branch3x3_2b": ("branch3x3_1", 384, (3, 1)),
    "branch3x3dbl_1": ("x", 448, 1),
    "branch3x3dbl_2": ("branch3x3dbl_1", 384, 3),
    "branch3x3dbl_3a": ("branch3x3dbl_2", 384, (1, 3)),
    "branch3x3dbl_3b": ("branch3x3dbl_2", 384, (3, 1)),
    "branch_pool": ("pooled", 192, 1),
}
BLOCKS: dict[str, Branches] = {
    "mixed_5b": block_5(32), "mixed_5c": block_5(64), "mixed_5d": block_5(64), "mixed_6a": REDUCTION_6,
    "mixed_6b": block_6(128), "mixed_6c": block_6(160), "mixed_6d": block_6(160), "mixed_6e": block_6(192),
    "mixed_7a": REDUCTION_7, "mixed_7b": BLOCK_7, "mixed_7c": BLOCK_7,
}


class BasicConv(nnx.Module):
    """Convolution without a bias, normalisation, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Kernel, norm: Norm, *, stride: int = 1, same: bool = True,
        dtype: jnp.dtype, rngs: nnx.Rngs,
    ):
        # With a stride, "SAME" would pad by the size of the image, and images of even and odd sizes differently.
        padding = "VALID" if not same else ((1, 1), (1, 1)) if stride == 2 else "SAME"
        shared = {"dtype": dtype, "rngs": rngs}
        self.conv = Conv(inputs, outputs, kernel, stride=stride, padding=padding, use_bias=False, **shared)
        self.bn = make_norm(norm, outputs, epsilon=EPSILON, **shared)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        return nnx.relu(self.bn(self.conv(x)))


class Mixed(nnx.Module):
    """Branches side by side; what no convolution of the block takes on is its output.

    A block without a ``pooled`` branch halves the map: its last convolutions and its max pooling have stride 2.
    """

    def __init__(
        self, inputs: int, branches: Branches, norm: Norm, *, same: bool, flavour: str, dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        sources = {name: source for name, (source, _, _) in branches.items()}
        self.wiring = tuple(sources.items())
        self.halves = "pooled" not in sources.values()
        self.same, self.count_padding = same, flavour != "keras"
        self.ends = tuple(name for name in branches if name not in sources.values())
        channels = {"x": inputs, "pooled": inputs, **{name: outputs for name, (_, outputs, _) in branches.items()}}
        for name, (source, outputs, kernel) in branches.items():
            last = self.halves and name in self.ends
            conv = BasicConv(channels[source], outputs, kernel, norm, stride=2 if last else 1, same=same or not last,
                             dtype=dtype, rngs=rngs)
            setattr(self, name, conv)
        if self.halves:
            self.ends += ("pooled",)
        self.outputs = sum(channels[name] for name in self.ends)

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
        pooled = max_pool_3x3(x, int(self.same)) if self.halves else self._mean(x)
        values = {"x": x, "pooled": pooled}
        for name, source in self.wiring:
            values[name] = getattr(self, name)(values[source])
        return jnp.concatenate([values[name] for name in self.ends], axis=3)

    def _mean(self, x: Array) -> Array:
        """Over 3×3 pixels; whether zeros beyond the edge count is where torchvision and Keras differ."""
        return nnx.avg_pool(x, (3, 3), strides=(1, 1), padding="SAME", count_include_pad=self.count_padding)


class InceptionV3(Backbone):
    """Five convolutions and eleven blocks; each is a stage."""

    channels: ClassVar = {"c1": 64, "c2": 192, "c3": 288, "c4": 768, "c5": 2048}
    stage_names: ClassVar = (*STEM, *BLOCKS)
    maps: ClassVar = {"conv_2b": "c1", "conv_4a": "c2", "mixed_5d": "c3", "mixed_6e": "c4", "mixed_7c": "c5"}
    min_size: ClassVar = 75
    dropout: ClassVar = 0.5

    def __init__(self, config: BackboneConfig, *, rngs: nnx.Rngs):
        self.frozen_stages, self.flavour = config.frozen_stages, config.flavour
        self.same = isinstance(config, DetectorModelConfig)
        shared = {"dtype": jnp.dtype(config.dtype), "rngs": rngs}
        inputs = 3
        for number, name in enumerate(self.stage_names, 1):
            norm = self._norm_of(number, config.norm)
            if name in STEM:
                outputs, kernel = STEM[name]
                stage = BasicConv(inputs, outputs, kernel, norm, stride=2 if number == 1 else 1,
                                  same=self.same or name == "conv_2b", **shared)
            else:
                stage = Mixed(inputs, BLOCKS[name], norm, same=self.same, flavour=config.flavour, **shared)
                outputs = stage.outputs
            setattr(self, name, stage)
            inputs = outputs

    def stages(self) -> list[tuple[str, Stage]]:
        return [(self.maps.get(name, name), self._stage(name)) for name in self.stage_names]

    def _stage(self, name: str) -> Stage:
        stage = getattr(self, name)
        return functools.partial(pool_and_run, stage, int(self.same)) if name in AFTER_POOLING else stage


def pool_and_run(stage: Stage, padding: int, x: Float[Array, "b h w i"]) -> Float[Array, "b h2 w2 o"]:
    """Max pooling, then the stage."""
    return stage(max_pool_3x3(x, padding))


class AuxHead(nnx.Module):
    """The classifier on the last map of stride 16 whose loss trains the stages below it directly.

    It was made for 17×17 pixels and more. On a smaller map the windows of its pooling end at the edge, and zeros fill
    what the 5×5 convolution lacks.
    """

    def __init__(self, num_classes: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.conv0 = BasicConv(InceptionV3.channels["c4"], 128, 1, "batch", dtype=dtype, rngs=rngs)
        self.conv1 = BasicConv(128, 768, 5, "batch", same=False, dtype=dtype, rngs=rngs)
        self.logits = nnx.Linear(768, num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w 768"]) -> Float[Array, "b classes"]:
        """Logits, in float32."""
        window = tuple(min(5, n) for n in x.shape[1:3])
        x = self.conv0(nnx.avg_pool(x, window, strides=(3, 3)))
        lacking = [max(0, 5 - n) for n in x.shape[1:3]]
        x = self.conv1(jnp.pad(x, ((0, 0), *((n // 2, n - n // 2) for n in lacking), (0, 0))))
        return self.logits(x.mean(axis=(1, 2)).astype(jnp.float32))
