"""Balanced sampling: counts, order of the slots, uniformity, padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wbcjax.ops.sampling import balanced_sample, max_positives

draw = jax.jit(balanced_sample, static_argnums=(3, 4))
KEY = jax.random.key(0)


@settings(deadline=None, max_examples=60)
@given(hnp.arrays(np.int8, 12, elements=st.integers(-1, 1)), st.sampled_from([4, 8, 16]), st.sampled_from([0.25, 0.5]))
def test_counts_and_kinds(kind, size, fraction):
    positive, negative = kind == 1, kind == 0
    sample = draw(KEY, positive, negative, size, fraction)
    n_positive = min(positive.sum(), int(size * fraction))
    n_negative = min(negative.sum(), size - n_positive)  # torchvision's counts
    index, valid = np.asarray(sample.index), np.asarray(sample.valid)
    np.testing.assert_array_equal(valid, np.arange(size) < n_positive + n_negative)
    np.testing.assert_array_equal(sample.positive, np.arange(size) < n_positive)  # positives come first
    np.testing.assert_array_equal(kind[index[valid]], np.asarray(sample.positive)[valid])
    assert len(set(index[valid])) == valid.sum()
    np.testing.assert_array_equal(index[~valid], 0)


def test_positives_are_limited_and_replaced_by_negatives():
    sample = draw(KEY, jnp.arange(20) < 10, jnp.arange(20) >= 10, 8, 0.25)
    np.testing.assert_array_equal(sample.positive, [True] * 2 + [False] * 6)
    assert sample.valid.all()
    sample = draw(KEY, jnp.arange(20) < 1, jnp.arange(20) >= 10, 8, 0.25)
    assert sample.positive.sum() == 1 and sample.valid.all() and sample.index[0] == 0


def test_nothing_to_draw():
    for n in (0, 5):
        sample = draw(KEY, jnp.zeros(n, bool), jnp.zeros(n, bool), 4, 0.5)
        assert not sample.valid.any() and not sample.positive.any()


def test_candidate_that_is_both_is_drawn_once():
    sample = draw(KEY, jnp.ones(3, bool), jnp.ones(3, bool), 6, 0.5)
    assert sample.valid.sum() == 3 and sample.positive.sum() == 3


def test_every_candidate_is_equally_likely():
    positive, negative = jnp.arange(12) < 4, jnp.arange(12) >= 4
    keys = jax.random.split(KEY, 4000)
    sample = jax.jit(jax.vmap(functools.partial(balanced_sample, size=4, positive_fraction=0.5), (0, None, None)))(
        keys, positive, negative
    )
    counts = np.bincount(np.asarray(sample.index).ravel(), minlength=12) / len(keys)
    np.testing.assert_allclose(counts[:4], 2 / 4, atol=0.04)  # five standard deviations
    np.testing.assert_allclose(counts[4:], 2 / 8, atol=0.04)


def test_padding_changes_nothing():
    positive, negative = np.arange(9) % 3 == 0, np.arange(9) % 3 == 1
    plain = draw(KEY, positive, negative, 4, 0.5)
    padded = draw(KEY, np.pad(positive, (0, 5)), np.pad(negative, (0, 5)), 4, 0.5)
    jax.tree.map(np.testing.assert_array_equal, plain, padded)


def test_key_decides():
    positive, negative = jnp.arange(50) < 20, jnp.arange(50) >= 20
    first, again, other = (draw(key, positive, negative, 8, 0.5) for key in (KEY, KEY, jax.random.key(1)))
    np.testing.assert_array_equal(first.index, again.index)
    assert (first.index != other.index).any()


def test_max_positives():
    assert max_positives(512, 0.25) == 128 and max_positives(10, 0.25) == 2 and max_positives(3, 0.0) == 0
