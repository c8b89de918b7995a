"""Augmentation: exact cases, OpenCV as a second oracle, statistics, and independence of neighbours."""

from dataclasses import replace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbcjax.config import NO_AUGMENT, AugmentConfig
from wbcjax.data.augment import augment, random_affine
from wbcjax.data.augment import jitter_color as eager_jitter_color
from wbcjax.data.augment import jitter_stain as eager_jitter_stain
from wbcjax.data.warp import warp_affine as eager_warp_affine

FLIP = replace(NO_AUGMENT, flip=True)
KEY = jax.random.key(0)
warp_affine = jax.jit(eager_warp_affine, static_argnames="fill")
jitter_color = jax.jit(eager_jitter_color, static_argnames="config")
jitter_stain = jax.jit(eager_jitter_stain, static_argnames="sigma")


def only(**fields):
    return replace(NO_AUGMENT, **fields)


def noise_image(h=9, w=13, seed=0):
    return np.random.default_rng(seed).random((h, w, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def batch():
    return jnp.asarray(np.random.default_rng(1).random((6, 12, 16, 3)), jnp.float32)


def test_nothing_on_is_the_identity(batch):
    np.testing.assert_array_equal(augment(KEY, batch, NO_AUGMENT), batch)


def test_flips_are_exact_and_all_four_occur(batch):
    images = jnp.broadcast_to(batch[0], (40, *batch.shape[1:]))
    variants = [batch[0], batch[0, ::-1], batch[0, :, ::-1], batch[0, ::-1, ::-1]]
    found = [[bool((out == v).all()) for v in variants].index(True) for out in np.asarray(augment(KEY, images, FLIP))]
    assert set(found) == {0, 1, 2, 3}


def test_quarter_turns_of_a_square_are_exact():
    image = noise_image(8, 8)
    turn = np.array([[0.0, -1.0, 8.0], [1.0, 0.0, 0.0]], np.float32)  # output (x, y) takes input (8 - y, x)
    np.testing.assert_array_equal(warp_affine(jnp.asarray(image), jnp.asarray(turn)), np.rot90(image))


@settings(max_examples=30, deadline=None)
@given(
    angle=st.floats(-180, 180), zoom=st.floats(0.5, 2), shear=st.floats(-0.5, 0.5),
    shift=st.tuples(st.floats(-20, 20), st.floats(-20, 20)), fill=st.sampled_from([0.0, 0.7]),
)
def test_warping_is_that_of_opencv(angle, zoom, shear, shift, fill):
    """Interior, border and outside. OpenCV has pixel centres at whole numbers, and rounds positions to 1/32 pixel."""
    image = cv2.GaussianBlur(noise_image(24, 32), (0, 0), 3)
    image = (image - image.min()) / (image.max() - image.min())
    c, s = np.cos(np.deg2rad(angle)) / zoom, np.sin(np.deg2rad(angle)) / zoom
    matrix = np.array([[c, c * shear - s, 0], [s, s * shear + c, 0]])
    matrix[:, 2] = [16, 12] - matrix[:, :2] @ [16, 12] + shift
    centred = matrix.copy()
    centred[:, 2] += matrix[:, :2] @ [0.5, 0.5] - 0.5
    expected = cv2.warpAffine(image, centred, (32, 24), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                              borderMode=cv2.BORDER_CONSTANT, borderValue=(fill,) * 3)
    found = np.asarray(warp_affine(jnp.asarray(image), jnp.asarray(matrix, jnp.float32), fill=fill))
    np.testing.assert_allclose(found, expected, atol=1 / 32 + 1e-3)
    assert np.abs(found - expected).mean() < 4e-3


def test_far_outside_is_exactly_the_fill():
    matrix = jnp.array([[1.0, 0.0, 100.0], [0.0, 1.0, 0.0]])
    assert (warp_affine(jnp.ones((4, 5, 3)), matrix, fill=0.25) == 0.25).all()


def test_affine_maps_stay_within_their_limits():
    config = only(rotation=30.0, shift=0.1, scale=0.2)
    maps = jax.jit(jax.vmap(lambda k: random_affine(k, (40, 60), config)))(jax.random.split(KEY, 500))
    linear, centre = np.asarray(maps[:, :, :2]), np.array([30.0, 20.0])
    zoom = 1 / np.sqrt(np.linalg.det(linear))
    angle = np.rad2deg(np.arctan2(linear[:, 1, 0], linear[:, 0, 0]))
    shift = np.asarray(maps) @ [*centre, 1] - centre
    for values, limit in ((zoom - 1, 0.2), (angle, 30), (shift[:, 0], 6), (shift[:, 1], 4)):
        assert np.abs(values).max() <= limit * 1.001
        assert values.min() < -0.9 * limit < 0.9 * limit < values.max()


def test_shear_is_a_tangent():
    config = only(shear=0.3)
    maps = jax.jit(jax.vmap(lambda k: random_affine(k, (8, 8), config)))(jax.random.split(KEY, 200))
    linear = np.asarray(maps)[:, :, :2]
    np.testing.assert_allclose(linear[:, [0, 1, 1], [0, 0, 1]], np.tile([1, 0, 1], (200, 1)), atol=1e-6)
    assert 0.27 < np.abs(linear[:, 0, 1]).max() <= 0.3


def test_zero_strengths_of_colour_and_stain_are_the_identity():
    image = jnp.asarray(noise_image())
    np.testing.assert_allclose(jitter_color(KEY, image, NO_AUGMENT), image, atol=2e-6)
    bright = jnp.maximum(image, 1 / 255)
    np.testing.assert_allclose(jitter_stain(KEY, bright, sigma=0.0), bright, atol=1e-5)


@pytest.mark.parametrize("field", ["saturation", "hue"])
def test_saturation_and_hue_keep_luma_and_grey(field):
    config = only(**{field: 0.4})
    image = jnp.asarray(noise_image())
    out = jitter_color(KEY, image, config)
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(out @ luma, image @ luma, atol=2e-3)  # the published YIQ coefficients have three digits
    assert np.abs(out - image).max() > 0.02
    grey = jnp.full((2, 2, 3), 0.4)
    np.testing.assert_allclose(jitter_color(KEY, grey, config), grey, atol=2e-3)


def test_brightness_is_a_factor_and_contrast_keeps_the_mean():
    image = jnp.asarray(noise_image())
    factors = jitter_color(KEY, image, only(brightness=0.3)) / image
    assert factors.std() < 1e-5
    assert 0.7 <= factors.mean() <= 1.3
    contrast = jitter_color(KEY, image, only(contrast=0.3))
    luma = np.array([0.299, 0.587, 0.114], np.float32)
    assert float((contrast @ luma).mean()) == pytest.approx(float((image @ luma).mean()), abs=1e-5)


def test_stain_jitter_leaves_white_and_black_glass_plausible():
    white = jnp.ones((2, 2, 3))
    np.testing.assert_allclose(jitter_stain(KEY, white, sigma=0.3), white, atol=1e-6)
    out = jitter_stain(KEY, jnp.zeros((2, 2, 3)), sigma=0.05)
    assert float(out.max()) < 0.05


def test_noise_has_the_drawn_deviation():
    images = jnp.full((64, 32, 32, 3), 0.5)
    deviations = np.asarray(augment(KEY, images, only(noise=0.1)) - 0.5).std(axis=(1, 2, 3))
    assert deviations.max() <= 0.105
    assert deviations.mean() == pytest.approx(0.05, abs=0.012)  # uniform in [0, 0.1]


@pytest.fixture(scope="module")
def everything():
    return AugmentConfig(noise=0.1)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_any_draw_is_finite_in_range_deterministic_and_deaf_to_neighbours(everything, batch, seed):
    key = jax.random.key(seed)
    out = np.asarray(augment(key, batch, everything))
    assert np.isfinite(out).all()
    assert 0 <= out.min() <= out.max() <= 1
    np.testing.assert_array_equal(out, augment(key, batch, everything))
    np.testing.assert_array_equal(out[0], augment(key, batch.at[1:].set(0.3), everything)[0])


def test_images_of_a_batch_get_different_draws(everything, batch):
    same = jnp.broadcast_to(batch[0], batch.shape)
    out = np.asarray(augment(KEY, same, everything))
    assert all(not np.array_equal(out[0], other) for other in out[1:])
    assert not np.array_equal(out, augment(jax.random.key(1), same, everything))


def test_a_config_is_compiled_once(batch):
    config = only(brightness=0.123)
    before = augment._cache_size()
    for seed in range(3):
        augment(jax.random.key(seed), batch, config)
    augment(KEY, batch, only(brightness=0.123))  # equal, not the same object
    assert augment._cache_size() == before + 1
