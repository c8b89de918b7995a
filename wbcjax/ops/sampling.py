"""Sampling: a fixed number of candidates for a loss, at most a given share of them positive."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from wbcjax.ops.boxes import Number


class Sample(NamedTuple):
    """Slots of the sample: positives first, then negatives, then unused slots (index 0, not valid)."""

    index: Int[Array, "size"]
    """Which candidate sits in the slot."""
    valid: Bool[Array, "size"]
    positive: Bool[Array, "size"]
    """Subset of ``valid``. True in the first slots only, in at most ``max_positives`` of them, so that a head for
    positives alone (the mask head) may work on those."""


def max_positives(size: int, positive_fraction: Number) -> int:
    """Most positives in a sample of ``size``, rounded down as torchvision does."""
    return int(size * positive_fraction)


def balanced_sample(
    key: PRNGKeyArray,
    positive: Bool[Array, "n"],
    negative: Bool[Array, "n"],
    size: int,
    positive_fraction: Number,
) -> Sample:
    """Draw up to ``size`` candidates without replacement: positives up to their share, the rest negatives.

    The rule of torchvision's ``BalancedPositiveNegativeSampler``: missing positives are replaced by negatives, missing
    negatives by nothing. Each subset of the positives, and of the negatives, is equally likely. Every candidate gets
    its own random number, so candidates appended as neither positive nor negative do not change the sample.

    Args:
      positive, negative: disjoint; candidates that are neither (ignored, padding) are never drawn.
      size: number of slots.
      positive_fraction: largest share of positives, in [0, 1].
    """
    n = positive.shape[0]
    priority = jax.random.uniform(key, (n,))  # in [0, 1)
    wanted, chosen = jax.lax.top_k(jnp.where(positive, priority, -1), min(max_positives(size, positive_fraction), n))
    taken = jnp.zeros(n, bool).at[chosen].set(wanted >= 0)
    # One ranking for both: taken positives above 1, negatives below, everything else below 0.
    rank = jnp.where(taken, 1 + priority, jnp.where(negative & ~positive, priority, -1))
    rank = jnp.pad(rank, (0, max(0, size - n)), constant_values=-1)
    value, index = jax.lax.top_k(rank, size)
    valid = value >= 0
    return Sample(jnp.where(valid, index, 0), valid, value >= 1)
