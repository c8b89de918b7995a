"""Normalisation of backbones: by batch statistics, by fixed ones, or by groups of channels."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Norm = Literal["batch", "frozen", "group"]

EPSILON = 1e-5
GROUPS = 32


class FrozenBatchNorm(nnx.Module):
    """Batch normalisation whose scale, bias and statistics are all constants, as detectors use pretrained ones.

    They count as statistics, so they are saved and loaded, and no optimiser sees them.
    """

    def __init__(self, channels: int, *, epsilon: float = EPSILON, dtype: jnp.dtype = jnp.float32):
        self.scale, self.var = (nnx.BatchStat(jnp.ones((channels,), jnp.float32)) for _ in range(2))
        self.bias, self.mean = (nnx.BatchStat(jnp.zeros((channels,), jnp.float32)) for _ in range(2))
        self.epsilon = epsilon
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        scale = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.epsilon)
        shift = self.bias[...] - self.mean[...] * scale
        return x * scale.astype(self.dtype) + shift.astype(self.dtype)


def make_norm(
    kind: Norm,
    channels: int,
    *,
    groups: int = GROUPS,
    epsilon: float = EPSILON,
    dtype: jnp.dtype = jnp.float32,
    rngs: nnx.Rngs,
) -> nnx.Module:
    """The normalisation of a layer; by groups, as many up to ``groups`` as divide the channels.

    Args:
      epsilon: what is added to the variance.
    """
    if kind == "frozen":
        return FrozenBatchNorm(channels, epsilon=epsilon, dtype=dtype)
    if kind == "group":
        return nnx.GroupNorm(channels, math.gcd(groups, channels), epsilon=epsilon, dtype=dtype, rngs=rngs)
    return nnx.BatchNorm(channels, momentum=0.9, epsilon=epsilon, dtype=dtype, rngs=rngs)
