"""AugMix: each operation against its definition, and the blend as a whole."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax.config import NO_AUGMENT
from wbcjax.data import augmix as ops
from wbcjax.data.augment import augment

IMAGE = jnp.asarray(np.random.default_rng(0).random((16, 20, 3)) * 0.6 + 0.2, jnp.float32)
HALF = jnp.float32(0.5)


def test_autocontrast_reaches_both_ends():
    out = np.asarray(ops.autocontrast(IMAGE, HALF))
    np.testing.assert_allclose(out.min(axis=(0, 1)), 0, atol=1e-6)
    np.testing.assert_allclose(out.max(axis=(0, 1)), 1, atol=1e-6)
    flat = jnp.full((4, 4, 3), 0.3)
    np.testing.assert_array_equal(ops.autocontrast(flat, HALF), flat)


def test_equalize_makes_all_values_as_frequent():
    out = np.sort(np.asarray(ops.equalize(IMAGE, HALF))[..., 0].ravel())
    np.testing.assert_allclose(out, np.arange(1, 321) / 320, atol=1e-6)


def test_posterize_leaves_ten_steps_at_half_strength():
    assert len(np.unique(np.asarray(ops.posterize(jnp.linspace(0, 0.999, 300).reshape(10, 10, 3), HALF)))) == 10


def test_solarize_turns_bright_values_over():
    out = ops.solarize(jnp.array([[[0.5, 0.84, 0.86]]]), HALF)
    np.testing.assert_allclose(out[0, 0], [0.5, 0.84, 0.14], atol=1e-6)


@pytest.mark.parametrize("operation", [ops.rotate, ops.shear_x, ops.shear_y, ops.translate])
def test_geometry_without_strength_is_the_identity(operation):
    np.testing.assert_allclose(operation(IMAGE, jnp.float32(0)), IMAGE, atol=1e-6)
    assert np.abs(np.asarray(operation(IMAGE, jnp.float32(1)) - IMAGE)).max() > 0.05


def test_blend_stays_in_range_and_differs_between_images():
    images = jnp.broadcast_to(IMAGE, (16, *IMAGE.shape))
    out = np.asarray(augment(jax.random.key(1), images, replace(NO_AUGMENT, augmix=3)))
    assert out.min() >= 0 and out.max() <= 1 + 1e-6
    assert len(np.unique(out.mean(axis=(1, 2, 3)).round(6))) == 16
