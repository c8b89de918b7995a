"""Corruptions: literal cases, OpenCV and Pillow-like formulas as second oracles, and what every kind must keep."""

import colorsys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax.data.corruptions import CORRUPTIONS, LEVELS, corrupt, corrupt_some
from wbcjax.data.groups import in_groups
from wbcjax.data.jpeg import jpeg

KEY = jax.random.key(0)
KINDS = list(CORRUPTIONS)


@pytest.fixture(scope="module")
def image():
    """A smooth picture with an edge, 48×64."""
    y, x = np.mgrid[0:48, 0:64] / 64
    picture = np.stack([0.3 + 0.5 * x, 0.2 + 0.4 * y, 0.8 - 0.5 * x * y], -1)
    picture[10:30, 20:40] *= 0.5
    return jnp.asarray(picture, jnp.float32)


def changed(kind, image, level, key=KEY):
    return np.asarray(jax.jit(CORRUPTIONS[kind])(key, image, jnp.float32(level)))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_changes_the_image_within_range_and_more_at_the_last_level(kind, image):
    batch = jnp.broadcast_to(image, (8, *image.shape))
    keys = jax.random.split(KEY, 8)
    far = []
    for level in (LEVELS[0], LEVELS[-1]):
        out = np.asarray(corrupt(keys, batch, KINDS.index(kind), jnp.full(8, float(level))))
        assert out.shape == batch.shape and out.min() >= 0 and out.max() <= 1
        far.append(np.abs(out - batch).mean())
    assert 0 < far[0] < far[1]


@pytest.mark.parametrize("kind", KINDS)
def test_same_key_same_result_whatever_the_neighbours(kind, image):
    keys = jax.random.split(KEY, 3)
    images = jnp.stack([image, image[::-1], 1 - image])
    together = corrupt(keys, images, KINDS.index(kind), jnp.array([1.0, 3.0, 5.0]))
    alone = corrupt(keys[1:2], images[1:2], KINDS.index(kind), jnp.array([3.0]))
    np.testing.assert_allclose(together[1:2], alone, atol=2e-6)


def test_levels_between_two_are_interpolated(image):
    np.testing.assert_allclose(changed("brightness_up", image, 1.5), image * 1.15, rtol=1e-6)


def test_pixelate_takes_means_of_cells():
    image = jnp.arange(10 * 10, dtype=jnp.float32).reshape(10, 10, 1) * jnp.ones(3)
    out = changed("pixelate", image, 2)  # half as many cells: 2×2 pixels each
    cells = np.asarray(image).reshape(5, 2, 5, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(out, cells.repeat(2, 0).repeat(2, 1), rtol=1e-6)


@pytest.mark.parametrize("quality", [90, 50, 10])
@pytest.mark.parametrize("size", [(48, 64), (41, 39)])
def test_jpeg_is_that_of_libjpeg(image, quality, size):
    pixels = np.round(np.asarray(image)[: size[0], : size[1]] * 255).astype(np.uint8)
    ok, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert ok
    expected = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    ours = np.asarray(jpeg(jnp.asarray(pixels, jnp.float32) / 255, quality)) * 255
    assert np.abs(ours - expected).mean() < 1.0 and np.abs(ours - expected).max() <= 12


@pytest.mark.parametrize("kind", ["defocus_blur", "motion_blur"])
def test_blur_is_a_weighted_mean_with_the_border_repeated(kind, image):
    np.testing.assert_allclose(changed(kind, jnp.full((32, 32, 3), 0.4), 5), 0.4, atol=1e-6)
    np.testing.assert_allclose(changed(kind, image, 3).mean(), image.mean(), atol=5e-3)


def test_defocus_is_a_mean_over_a_disk():
    """Of 224 pixels, where the radius is 3 at the second level, against OpenCV."""
    image = np.random.default_rng(0).random((224, 224, 3)).astype(np.float32)
    y, x = np.mgrid[-8:9, -8:9]
    disk = np.clip(3.5 - np.hypot(x, y), 0, 1)
    expected = cv2.filter2D(image, -1, disk / disk.sum(), borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(changed("defocus_blur", jnp.asarray(image), 2), expected, atol=1e-5)


def test_motion_blurs_along_one_line():
    dot = jnp.zeros((224, 224, 3)).at[112, 112].set(1.0)
    spread = changed("motion_blur", dot, 5)[..., 0]
    y, x = np.nonzero(spread > 1e-3)
    values = np.linalg.eigvalsh(np.cov(np.stack([x, y])))
    assert values[0] < 1 < 10 < values[1]


def test_contrast_keeps_the_mean_grey(image):
    luma = np.array([0.299, 0.587, 0.114])
    out = changed("contrast_down", image, 5)
    np.testing.assert_allclose((out @ luma).mean(), (image @ luma).mean(), atol=1e-5)
    np.testing.assert_allclose(out.std(), 0.5 * np.asarray(image - (image @ luma).mean()).std(), atol=0.05)


def test_saturation_is_raised_as_in_hsv(image):
    out = changed("saturate", image, 3)
    for row, column in ((0, 0), (20, 30), (47, 63)):
        hue, saturation, value = colorsys.rgb_to_hsv(*np.asarray(image)[row, column].tolist())
        expected = colorsys.hsv_to_rgb(hue, min(saturation + 0.15, 1), value)
        np.testing.assert_allclose(out[row, column], expected, atol=1e-5)
    grey = jnp.full((16, 16, 3), 0.5)
    np.testing.assert_array_equal(changed("saturate", grey, 5), grey)


def test_deposits_are_black_and_few():
    white = jnp.ones((224, 224, 3))
    dark = [(changed("stain_deposit", white, 5, jax.random.key(k)) < 0.5).mean() for k in range(6)]
    assert min(dark) > 0 and max(dark) < 3 * np.pi * 30**2 / 224**2


def test_bubbles_only_lighten():
    out = changed("bubble", jnp.full((96, 96, 3), 0.3), 5)
    assert (out >= 0.3 - 1e-6).all() and np.isclose(out.max(), 0.3 + 0.7 * 130 / 255, atol=1e-3)


def test_groups_have_keys_of_their_own_and_keep_their_places():
    images = jnp.arange(12, dtype=jnp.float32)[:, None, None, None] * jnp.ones((4, 4, 3))
    shifts = np.asarray(in_groups(KEY, images, lambda key, group: group + jax.random.uniform(key)) - images)[:, 0, 0, 0]
    assert len(np.unique(shifts[:4].round(4))) == 4  # four groups of three: every fourth image
    np.testing.assert_allclose(shifts[:4], shifts[4:8], atol=1e-5)


def test_a_share_of_the_groups_is_corrupted(image):
    batch = jnp.broadcast_to(image, (16, *image.shape))
    some = jax.jit(corrupt_some, static_argnames="share")
    np.testing.assert_array_equal(some(KEY, batch, 0.0), batch)
    whole = np.concatenate([np.asarray(some(jax.random.key(k), batch, 0.5)) for k in range(6)])
    share = (np.abs(whole - np.asarray(image)).max(axis=(1, 2, 3)) > 1e-4).mean()
    assert 0.25 < share < 0.75


def test_names_are_those_of_medmnist_c():
    assert KINDS == ["pixelate", "jpeg_compression", "defocus_blur", "motion_blur", "brightness_up", "brightness_down",
                     "contrast_up", "contrast_down", "saturate", "stain_deposit", "bubble"]
