"""Masks: cropping, targets, pasting; literal cases, plain loops, there and back, degenerate boxes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax.ops.masks import crop_to_box, mask_targets, paste, paste_on_device

EMPTY = [[0.0, 0, 0, 0], [4.0, 4, 4, 8], [6.0, 6, 3, 3]]


def disc(size, centre, radius):
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2


def test_crop_literal():
    mask = np.zeros((1, 8, 8), bool)
    mask[0, 2:4, 2:6] = True  # the upper half of the box
    crop = crop_to_box(mask, np.array([[2.0, 2, 6, 6]], np.float32), 8)[0]
    np.testing.assert_array_equal(crop, np.repeat([[True], [False]], 4, axis=0) & np.ones((8, 8), bool))


def test_crop_of_its_own_size_is_a_slice():
    masks = np.random.default_rng(0).random((1, 40, 50)) < 0.5
    crop = crop_to_box(masks, np.array([[7.0, 3, 23, 19]], np.float32), 16)[0]
    np.testing.assert_array_equal(crop, masks[0, 3:19, 7:23])


def test_crop_of_one_pixel_is_full():
    mask = np.zeros((2, 8, 8), bool)
    mask[0, 3, 5] = mask[1, 0, 7] = True
    assert crop_to_box(mask, np.array([[5.0, 3, 6, 4], [7, 0, 8, 1]], np.float32), 12).all()


def test_crop_beyond_the_image_is_unset():
    crop = crop_to_box(np.ones((1, 8, 8), bool), np.array([[-8.0, 0, 8, 8]], np.float32), 16)[0]
    assert crop[:, 8:].all() and not crop[:, :7].any()


def test_crop_of_empty_or_outside_boxes():
    boxes = np.array([*EMPTY, [20, 20, 30, 30]], np.float32)
    assert not crop_to_box(np.ones((4, 8, 8), bool), boxes, 4).any()
    assert crop_to_box(np.ones((0, 8, 8), bool), np.zeros((0, 4), np.float32)).shape == (0, 112, 112)


def coverage(mask, box, size):
    """Share of each bin of ``box`` that is set, by 20 × 20 points a bin (the definition of a target)."""
    points = (np.arange(size * 20) + 0.5) / (size * 20)
    y = np.floor(box[1] + points * (box[3] - box[1])).astype(int)
    x = np.floor(box[0] + points * (box[2] - box[0])).astype(int)
    inside = ((y >= 0) & (y < mask.shape[0]))[:, None] & ((x >= 0) & (x < mask.shape[1]))
    values = mask[np.clip(y, 0, mask.shape[0] - 1)[:, None], np.clip(x, 0, mask.shape[1] - 1)] & inside
    return values.reshape(size, 20, size, 20).mean((1, 3))


@pytest.mark.parametrize(
    "proposal", [(40.0, 30, 140, 110), (36.5, 41.25, 131, 120), (60.0, 50, 120, 90), (0.0, 0, 200, 160)], ids=str
)
def test_targets_are_the_coverage_of_each_bin(proposal):
    mask, box = disc((160, 200), (90, 70), 40), np.array([50.0, 30, 130, 110], np.float32)
    crops = crop_to_box(mask[None], box[None], 112)
    targets = mask_targets(jnp.asarray(crops), jnp.asarray(box[None]), jnp.array([proposal]), 14)[0]
    assert targets.shape == (14, 14) and (targets >= 0).all() and (targets <= 1 + 1e-6).all()
    expected = coverage(mask, proposal, 14)
    # An edge is blurred by a pixel of the mask and one of the crop.
    assert np.abs(targets - expected).max() < 0.25 and np.abs(targets - expected).mean() < 0.012


def test_target_of_the_box_itself_is_the_shrunken_crop():
    crops = np.random.default_rng(1).random((1, 16, 16)) < 0.5
    box = jnp.array([[3.0, 5, 30, 50]])
    targets = mask_targets(jnp.asarray(crops), box, box, 4)[0]
    np.testing.assert_allclose(targets, crops[0].reshape(4, 4, 4, 4).mean((1, 3)), atol=1e-5)


def test_target_beside_the_box_is_zero():
    crops, box = jnp.ones((1, 16, 16)), jnp.array([[0.0, 0, 16, 16]])
    targets = mask_targets(crops, box, jnp.array([[0.0, 0, 32, 16]]), 8)[0]
    # Samples within half a pixel of the mask's edge see some of the zeros beyond it.
    np.testing.assert_allclose(targets, np.broadcast_to(np.arange(8) < 4, (8, 8)), atol=0.07)
    assert not mask_targets(crops, box, jnp.array([[17.0, 0, 30, 16]]), 8).any()


@pytest.mark.parametrize("empty", EMPTY, ids=str)
def test_empty_boxes_give_zero_targets_and_finite_gradients(empty):
    crops, full, empty = jnp.ones((1, 8, 8)), jnp.array([[0.0, 0, 8, 8]]), jnp.array([empty])
    for pair in ((full, empty), (empty, full), (empty, empty)):
        assert not mask_targets(crops, *pair, 4).any()
        gradients = jax.grad(lambda *a: mask_targets(*a, 4).sum(), argnums=(0, 1, 2))(crops, *pair)
        for gradient in gradients:
            np.testing.assert_array_equal(gradient, 0)


def paste_oracle(probabilities, box, size):
    """torchvision's rule in plain loops: the mask with a ring of zeros, resized to the box in whole pixels."""
    grid = len(probabilities)
    padded = np.pad(probabilities, 1)
    half = (box[2:] - box[:2]) * np.float32(0.5) * np.float32((grid + 2) / grid)
    centre = (box[2:] + box[:2]) * np.float32(0.5)
    (left, top), (right, bottom) = (centre - half).astype(int), (centre + half).astype(int)
    image = np.zeros(size)
    for y in range(max(top, 0), min(bottom + 1, size[0])):
        for x in range(max(left, 0), min(right + 1, size[1])):
            v = min(max((y - top + 0.5) * (grid + 2) / (bottom + 1 - top) - 0.5, 0), grid + 1)
            u = min(max((x - left + 0.5) * (grid + 2) / (right + 1 - left) - 0.5, 0), grid + 1)
            i, j = int(v), int(u)
            k, m = min(i + 1, grid + 1), min(j + 1, grid + 1)
            upper = padded[i, j] * (j + 1 - u) + padded[i, m] * (u - j)
            lower = padded[k, j] * (j + 1 - u) + padded[k, m] * (u - j)
            image[y, x] = upper * (i + 1 - v) + lower * (v - i)
    return image


PASTE_BOXES = np.array([
    [5.2, 4.1, 30.7, 20.3], [-6.5, -3.2, 12, 9.4], [25.1, 18.7, 50, 40], [9.3, 9.1, 9.8, 9.9],
], np.float32)  # fmt: skip


def test_paste_equals_plain_loop():
    probabilities = np.random.default_rng(2).random((len(PASTE_BOXES), 7, 7), np.float32)
    expected = [paste_oracle(p, box, (32, 40)) for p, box in zip(probabilities, PASTE_BOXES, strict=True)]
    values = paste(probabilities, PASTE_BOXES, (32, 40), threshold=None)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, expected, atol=1e-5)
    masks = paste(probabilities, PASTE_BOXES, (32, 40))
    assert masks.dtype == bool
    np.testing.assert_array_equal(masks, values > 0.5)


@pytest.mark.parametrize("whole_pixels", [True, False])
def test_paste_on_device_equals_host(whole_pixels):
    probabilities = np.random.default_rng(3).random((len(PASTE_BOXES) + 3, 7, 7), np.float32)
    boxes = np.concatenate([PASTE_BOXES, np.array(EMPTY, np.float32)])
    on_device = jax.jit(functools.partial(paste_on_device, size=(32, 40), whole_pixels=whole_pixels))
    expected = paste(probabilities, boxes, (32, 40), None, whole_pixels)
    np.testing.assert_allclose(on_device(jnp.asarray(probabilities), jnp.asarray(boxes)), expected, atol=1e-5)
    assert not expected[len(PASTE_BOXES) :].any()


def test_paste_full_mask_fills_the_box():
    boxes = np.array([[4.0, 2, 20, 14]], np.float32)
    masks = paste(np.ones((1, 28, 28), np.float32), boxes, (20, 30), whole_pixels=False)[0]
    expected = np.zeros((20, 30), bool)
    expected[2:14, 4:20] = True
    np.testing.assert_array_equal(masks, expected)


def test_crop_and_paste_give_the_mask_back():
    mask, box = disc((160, 200), (90.5, 71), 40), np.array([[50.0, 31, 131, 111]], np.float32)
    target = mask_targets(jnp.asarray(crop_to_box(mask[None], box)), jnp.asarray(box), jnp.asarray(box))
    for whole_pixels, least in ((True, 0.96), (False, 0.98)):
        pasted = paste(np.asarray(target), box, mask.shape, whole_pixels=whole_pixels)[0]
        assert (pasted & mask).sum() / (pasted | mask).sum() > least


def test_paste_nothing():
    assert paste(np.zeros((0, 28, 28), np.float32), np.zeros((0, 4), np.float32), (8, 9)).shape == (0, 8, 9)


def test_paste_has_a_gradient_for_the_probabilities_alone():
    probabilities, boxes = jnp.full((2, 7, 7), 0.5), jnp.array([[2.0, 2, 9, 9], [0, 0, 0, 0]])
    gradients = jax.grad(lambda p, b: paste_on_device(p, b, (12, 12)).sum(), argnums=(0, 1))(probabilities, boxes)
    assert (gradients[0][0] > 0).all() and not gradients[0][1].any()
    np.testing.assert_array_equal(gradients[1], 0)
