"""Random changes that differ between groups of a batch, so that only the branch of each group's own is computed.

Under ``vmap`` a choice between functions computes them all; in a loop over groups it computes one.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

GROUPS = 8


def in_groups(
    key: Key[Array, ""],
    images: Float[Array, "b h w 3"],
    change: Callable[[Key[Array, ""], Float[Array, "g h w 3"]], Float[Array, "g h w 3"]],
) -> Float[Array, "b h w 3"]:
    """``change(key, group)`` of each group in turn, with a key of its own.

    A group is every eighth image (fewer groups where eight do not divide the batch): its images lie on all devices.
    """
    groups = math.gcd(len(images), GROUPS)
    grouped = jnp.swapaxes(images.reshape(len(images) // groups, groups, *images.shape[1:]), 0, 1)
    changed = jax.lax.map(lambda work: change(*work), (jax.random.split(key, groups), grouped))
    return jnp.swapaxes(changed, 0, 1).reshape(images.shape)
