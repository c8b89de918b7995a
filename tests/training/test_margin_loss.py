"""The margin loss of capsule networks, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax.training.classifier import cross_entropy, margin_loss


def test_values_by_hand():
    lengths = jnp.array([[0.95, 0.05, 0.1], [0.5, 0.6, 0.0]])
    targets = jnp.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    np.testing.assert_allclose(margin_loss(lengths, targets), [0, 0.4**2 + 0.5 * 0.5**2], atol=1e-7)


def test_a_class_that_is_there_in_part_counts_in_part():
    assert float(margin_loss(jnp.array([[0.5]]), jnp.array([[0.25]]))[0]) == pytest.approx(0.25 * 0.16 + 0.375 * 0.16)


def test_the_margin_head_takes_logits():
    logits = jnp.array([[2.0, -1.0], [0.3, 0.0]])
    targets = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(
        cross_entropy(logits, targets, head="margin"), margin_loss(jax.nn.sigmoid(logits), targets), rtol=1e-6
    )
    gradient = jax.grad(lambda x: cross_entropy(x, targets, head="margin").sum())(logits)
    assert gradient[0, 0] < 0 < gradient[0, 1] and np.isfinite(gradient).all()
