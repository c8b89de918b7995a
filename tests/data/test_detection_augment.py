"""Detection augmentation: image, boxes and masks move together; exact flips; what leaves the canvas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax.config import DetectionAugmentConfig
from wbcjax.data.detection_augment import augment_detection, move_boxes, move_image, move_instances
from wbcjax.data.warp import warp_affine
from wbcjax.ops.masks import paste
from wbcjax.typing_detection import Instances

KEY = jax.random.key(0)
CANVAS = (48, 64)
NOTHING = dict.fromkeys(DetectionAugmentConfig.__dataclass_fields__, 0.0) | {"flip": False, "noise_share": 1.0}
STILL = NOTHING | {"min_visible": 0.3}
GEOMETRY = DetectionAugmentConfig(**STILL | {"flip": True, "scale": 0.25, "shift": 0.15})
FLIP = DetectionAugmentConfig(**STILL | {"flip": True})


def only(**fields):
    return DetectionAugmentConfig(**NOTHING | fields)


def scene(copies, size=CANVAS, boxes=((20, 12, 36, 22),), slots=2):
    """White rectangles on dark grey, their lower left quarter black: a mask with three quarters."""
    image = np.zeros((*CANVAS, 3), np.float32)
    image[: size[0], : size[1]] = 0.3
    padded = np.zeros((slots, 4), np.float32)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        padded[i] = x0, y0, x1, y1
        image[y0:y1, x0:x1] = 1
        image[(y0 + y1) // 2 : y1, x0 : (x0 + x1) // 2] = 0.3
    mask = np.ones((slots, 8, 8), bool)
    mask[:, 4:, :4] = False
    truth = Instances(padded, np.zeros(slots, np.int32), np.arange(slots) < len(boxes), mask)
    truth = Instances(*(jnp.asarray(np.stack([a] * copies)) for a in truth))
    return jnp.asarray(np.stack([image] * copies)), jnp.asarray([size] * copies, jnp.int32), truth


def noise(copies, size=CANVAS):
    images, sizes, truth = scene(copies, size, boxes=((4, 3, 12, 9),))
    values = np.random.default_rng(0).uniform(0.1, 0.9, images.shape[1:]).astype(np.float32)
    return jnp.asarray(values * (np.asarray(images) > 0)), sizes, truth


def test_nothing_on_is_the_identity():
    given = noise(2)
    for a, b in zip(jax.tree.leaves(augment_detection(KEY, *given, only())), jax.tree.leaves(given), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("size", [CANVAS, (30, 64), (17, 23)])
def test_flips_are_exact_in_the_content_and_all_four_occur(size):
    images, sizes, truth = noise(32, size)
    image, mask, (h, w) = np.asarray(images[0]), np.asarray(truth.masks[0, 0]), size
    x0, y0, x1, y1 = np.asarray(truth.boxes[0, 0])
    content = image[:h, :w]
    variants = [
        (content, [x0, y0, x1, y1], mask),
        (content[:, ::-1], [w - x1, y0, w - x0, y1], mask[:, ::-1]),
        (content[::-1], [x0, h - y1, x1, h - y0], mask[::-1]),
        (content[::-1, ::-1], [w - x1, h - y1, w - x0, h - y0], mask[::-1, ::-1]),
    ]
    out, out_sizes, moved = augment_detection(KEY, images, sizes, truth, FLIP)
    np.testing.assert_array_equal(out_sizes, sizes)
    np.testing.assert_array_equal(moved.valid, truth.valid)
    assert not out[:, h:].any() and not out[:, :, w:].any()
    seen = set()
    for i in range(32):
        which = [bool((out[i, :h, :w] == v[0]).all()) for v in variants].index(True)
        seen.add(which)
        np.testing.assert_array_equal(moved.boxes[i, 0], variants[which][1])
        np.testing.assert_array_equal(moved.masks[i, 0], variants[which][2])
    assert seen == {0, 1, 2, 3}


def test_flipping_twice_is_the_identity():
    images, _, truth = noise(1)
    scale, offset = jnp.array([-1.0, -1.0]), jnp.array([64.0, 48.0])
    twice = move_image(move_image(images[0], scale, offset), scale, offset)
    np.testing.assert_array_equal(twice, images[0])
    one = jax.tree.map(lambda a: a[0], truth)
    for a, b in zip(move_instances(move_instances(one, scale, offset), scale, offset), one, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.7, -0.7), (-1.3, 1.3), (2.5, 0.4)])
def test_moving_is_warping_by_the_inverse_map(scale):
    image = noise(1)[0][0]
    scale, offset = jnp.array(scale), jnp.array([31.7, -3.2])
    inverse = jnp.concatenate([jnp.diag(1 / scale), (-offset / scale)[:, None]], axis=1)
    np.testing.assert_allclose(move_image(image, scale, offset), warp_affine(image, inverse), atol=2e-5)


def test_boxes_and_masks_move_with_the_image():
    """The threshold of the warped image is the moved mask pasted into the moved box."""
    images, sizes, truth = scene(24)
    out, _, moved = augment_detection(KEY, images, sizes, truth, GEOMETRY)
    places = set()
    for i in range(24):
        pasted = paste(
            np.asarray(moved.masks[i, :1], np.float32), np.asarray(moved.boxes[i, :1]), CANVAS, whole_pixels=False
        )[0]
        bright = np.asarray(out[i, ..., 0]) > 0.65
        assert (pasted ^ bright).sum() <= 0.06 * bright.sum() and bright.sum() > 40
        places.add(tuple(np.round(np.asarray(moved.boxes[i, 0])).tolist()))
    assert len(places) > 20


def test_zoom_and_shift_stay_in_their_range():
    images, sizes, truth = scene(200, boxes=((0, 0, 64, 48),))
    _, _, moved = augment_detection(KEY, images, sizes, truth, GEOMETRY)
    box = np.asarray(moved.boxes[:, 0])
    zoom = (box[:, 2:] - box[:, :2]) / [64, 48]
    np.testing.assert_allclose(zoom[:, 0], zoom[:, 1], rtol=1e-5)  # proportions are kept
    shift = ((box[:, 2:] + box[:, :2]) / 2 - [32, 24]) / [64, 48]
    assert 0.75 <= zoom.min() < 0.8 and 1.2 < zoom.max() <= 1.25
    assert (np.abs(shift) <= 0.15 + 1e-6).all() and (np.abs(shift).max(axis=0) > 0.13).all()


def test_with_zoom_the_canvas_counts_as_image_and_its_outside_is_black():
    config = DetectionAugmentConfig(**STILL | {"scale": 0.25, "shift": 0.15, "brightness": 0.5, "contrast": 0.5,
                                               "stain": 0.1, "noise": 0.1})
    images, sizes, truth = scene(8, size=(30, 40))
    out, out_sizes, _ = augment_detection(KEY, images, sizes, truth, config)
    assert (np.asarray(out_sizes) == CANVAS).all()
    content = move_content(truth, KEY, sizes, config)
    for i in range(8):
        y, x = np.nonzero(np.asarray(out[i]).any(axis=-1))
        x0, y0, x1, y1 = content[i]
        assert max(x0, 0) - 0.5 <= x.min() and x.max() + 1 <= min(x1, 64) + 0.5
        assert max(y0, 0) - 0.5 <= y.min() and y.max() + 1 <= min(y1, 48) + 0.5
        assert x.max() - x.min() > 20 and y.max() - y.min() > 15


def move_content(truth, key, sizes, config):
    """Where the same draw moves a box around the whole content."""
    whole = jnp.concatenate([jnp.zeros_like(sizes), sizes[:, ::-1]], axis=1).astype(jnp.float32)
    boxes = jnp.broadcast_to(whole[:, None], truth.boxes.shape)
    images = jnp.zeros((len(sizes), *CANVAS, 3))
    return np.asarray(augment_detection(key, images, sizes, truth._replace(boxes=boxes), config)[2].boxes[:, 0])


def test_padding_stays_zero_when_colours_change():
    images, sizes, truth = noise(4, size=(30, 40))
    config = only(brightness=0.4, contrast=0.4, saturation=0.3, hue=0.1, stain=0.2, noise=0.1)
    out, out_sizes, moved = augment_detection(KEY, images, sizes, truth, config)
    out = np.asarray(out)
    assert not out[:, 30:].any() and not out[:, :, 40:].any()
    assert (np.abs(out - images)[:, :30, :40].mean(axis=(1, 2, 3)) > 0.005).all()
    assert out.min() >= 0 and out.max() <= 1
    np.testing.assert_array_equal(out_sizes, sizes)
    np.testing.assert_array_equal(moved.boxes, truth.boxes)


@pytest.mark.parametrize("min_visible", [0.0, 0.3, 0.7, 1.0])
def test_what_has_left_the_canvas_is_no_target(min_visible):
    boxes = ((0, 0, 6, 6), (58, 42, 64, 48), (28, 20, 36, 28))
    images, sizes, truth = scene(64, boxes=boxes, slots=4)
    out = augment_detection(KEY, images, sizes, truth, only(shift=0.3, min_visible=min_visible))[2]
    box = np.asarray(out.boxes)
    width = np.clip(box[..., 2], 0, 64) - np.clip(box[..., 0], 0, 64)
    height = np.clip(box[..., 3], 0, 48) - np.clip(box[..., 1], 0, 48)
    visible = width * height / 36 * np.array([1, 1, 36 / 64, 1])
    clear = np.abs(visible - min_visible) > 1e-4
    expected = (visible >= min_visible) & (visible > 0) & np.asarray(truth.valid)
    np.testing.assert_array_equal(np.asarray(out.valid)[clear], expected[clear])
    assert 0 < np.asarray(out.valid)[:, :2].mean() < 1 and not out.valid[:, 3].any()
    assert out.valid[:, 2].all()
    assert (box[:, :3, 2] - box[:, :3, 0] > 5.99).all()  # not cut: the masks refer to the whole


def test_an_image_does_not_depend_on_its_neighbours_and_keys_decide():
    config = DetectionAugmentConfig(noise=0.05)
    images, sizes, truth = noise(3)
    out = augment_detection(KEY, images, sizes, truth, config)
    same = augment_detection(KEY, images.at[1:].set(0), sizes, truth, config)
    np.testing.assert_array_equal(out[0][0], same[0][0])
    assert (np.abs(out[0][0] - out[0][1]).max() > 0.05) and (out[2].boxes[0] != out[2].boxes[1]).any()
    other = augment_detection(jax.random.key(1), images, sizes, truth, config)
    assert (other[2].boxes != out[2].boxes).any()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(out))


def test_boxes_keep_their_order_of_corners():
    boxes = jnp.array([[1.0, 2.0, 5.0, 9.0]])
    np.testing.assert_allclose(
        move_boxes(boxes, jnp.array([-2.0, 0.5]), jnp.array([20.0, 1.0])), [[10, 2, 18, 5.5]], rtol=1e-6
    )


def test_a_config_is_compiled_once():
    config = only(flip=True, shift=0.123)
    before = augment_detection._cache_size()
    for seed in range(3):
        augment_detection(jax.random.key(seed), *scene(2), config)
    assert augment_detection._cache_size() == before + 1
