"""The denoiser's network: folding, sizes, what it starts from, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from wbcjax import config as cfg
from wbcjax.errors import ConfigError
from wbcjax.models.denoiser import build_denoiser, folded, unfolded
from wbcjax.training.denoiser import denoising_loss, squared_errors

SMALL = cfg.DenoiserModelConfig(layers=3, channels=8)


def test_folding_takes_neighbours_together_and_is_undone():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    y = folded(x)
    assert y.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(y[1, 1, 2], np.concatenate([x[1, 2, 4], x[1, 2, 5], x[1, 3, 4], x[1, 3, 5]]))
    np.testing.assert_array_equal(unfolded(y), x)


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (1, 1)])
def test_an_untrained_denoiser_changes_nothing_at_any_size(size):
    x = jax.random.uniform(jax.random.key(0), (2, *size, 3))
    np.testing.assert_array_equal(build_denoiser(SMALL)(x), x)


def test_what_is_far_away_does_not_matter():
    model = build_denoiser(SMALL)
    model.last.kernel[...] = jax.random.normal(jax.random.key(1), model.last.kernel.shape) * 0.1
    x = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3))
    changed = np.asarray(jnp.abs(model.noise(x.at[0, 16, 16].add(0.5)) - model.noise(x)).max(axis=(0, 3)) > 0)
    rows = np.flatnonzero(changed.any(axis=1))
    assert (rows.min(), rows.max()) == (10, 23), "three layers see three folded pixels to every side"


def test_training_halves_the_error_of_flat_images():
    clean = np.random.default_rng(0).integers(60, 200, (16, 1, 1, 3)).repeat(12, 1).repeat(12, 2).astype(np.uint8)
    model = build_denoiser(SMALL)
    before, same = squared_errors(model, clean, 0.2, batch_size=6)
    np.testing.assert_array_equal(before, same)
    optimizer, loss_fn = nnx.Optimizer(model, optax.adam(1e-2), wrt=nnx.Param), denoising_loss(0.5)
    resident, batch = {"images": jnp.asarray(clean), "labels": jnp.zeros(16, jnp.int32)}, {"index": jnp.arange(16)}

    @nnx.jit
    def step(model, optimizer, key):
        grads = nnx.grad(lambda model: loss_fn(model, resident, batch, key)[0])(model)
        optimizer.update(model, grads)

    for number in range(200):
        step(model, optimizer, jax.random.key(number))
    noisy, denoised = squared_errors(model, clean, 0.2, batch_size=6)
    np.testing.assert_array_equal(noisy, before)
    assert denoised.shape == (16,) and denoised.mean() < noisy.mean() / 2


def test_errors_are_those_of_the_noise():
    grey = np.full((40, 8, 8, 3), 128, np.uint8)
    noisy, _ = squared_errors(build_denoiser(SMALL), grey, 0.05)
    assert noisy.mean() == pytest.approx(0.05**2, rel=0.05)
    none, _ = squared_errors(build_denoiser(SMALL), grey[:0], 0.05)
    assert none.shape == (0,)


@pytest.mark.parametrize(("make", "field"), [
    (lambda: cfg.DenoiserModelConfig(layers=1), "model.layers"),
    (lambda: cfg.DenoiserConfig(max_alpha=0.0), "max_alpha"),
    (lambda: cfg.DenoiserConfig(fold=5), "fold"),
])
def test_impossible_configs_are_refused(make, field):
    with pytest.raises(ConfigError, match=field):
        make()
