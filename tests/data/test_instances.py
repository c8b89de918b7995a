"""Detection arrays: slots, scales, masks in their boxes, errors that name image and box, and the cache."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from wbcjax.data.instances import MASK_SIZE, detection_arrays, smear_arrays
from wbcjax.data.sets import DetectionSet
from wbcjax.data.synthetic import draw
from wbcjax.errors import DataError

CANVAS = (24, 32)


def detection_set(tmp_path, boxes, size=(48, 64), labels=None, class_names=("wbc", "rbc")):
    """One grey level an image; masks fill the left half of their boxes."""
    paths = []
    for i in range(len(boxes)):
        paths.append(tmp_path / f"smear_{i}.png")
        cv2.imwrite(str(paths[-1]), np.full((*size, 3), 10 * (i + 1), np.uint8))
    boxes = tuple(np.array(b, np.float32).reshape(-1, 4) for b in boxes)
    masks = tuple(np.zeros((len(b), *size), bool) for b in boxes)
    for image, group in zip(masks, boxes, strict=True):
        for mask, (x0, y0, x1, y1) in zip(image, group, strict=True):
            if np.isfinite([x0, x1]).all():
                mask[int(y0) : int(y1), int(x0) : int((x0 + x1) / 2)] = True
    labels = labels or [[0] * len(b) for b in boxes]
    labels = tuple(np.array(k, np.int32) for k in labels)
    return DetectionSet(tuple(paths), boxes, labels, class_names, (size,) * len(boxes), masks)


def test_boxes_are_scaled_and_padded(tmp_path):
    data = detection_set(tmp_path, [[(0, 0, 64, 48), (10, 20, 30, 40)], [], [(5, 5, 6, 6)]])
    arrays = detection_arrays(data, ("wbc",), CANVAS)
    assert arrays.boxes.shape == (3, 2, 4) and arrays.boxes.dtype == np.float32
    assert arrays.masks.shape == (3, 2, MASK_SIZE, MASK_SIZE) and arrays.masks.dtype == bool
    np.testing.assert_array_equal(arrays.valid, [[True, True], [False, False], [True, False]])
    np.testing.assert_array_equal(arrays.boxes[0], [[0, 0, 32, 24], [5, 10, 15, 20]])
    np.testing.assert_array_equal(arrays.boxes[2, 0], [2.5, 2.5, 3, 3])
    np.testing.assert_array_equal(arrays.sizes, [CANVAS] * 3)
    np.testing.assert_array_equal(arrays.scales, [0.5] * 3)
    np.testing.assert_array_equal(arrays.images[:, 5, 5, 0], [10, 20, 30])
    assert arrays.names == ("smear_0", "smear_1", "smear_2") and len(arrays) == 3
    half = np.zeros((MASK_SIZE, MASK_SIZE), bool)
    half[:, : MASK_SIZE // 2] = True
    np.testing.assert_array_equal(arrays.masks[0, 0], half)
    np.testing.assert_array_equal(arrays.masks[0, 1], half)
    assert not arrays.masks[1].any()


def test_small_images_are_scaled_up_in_the_corner(tmp_path):
    arrays = detection_arrays(detection_set(tmp_path, [[(4, 4, 8, 12)]], size=(16, 16)), ("wbc",), CANVAS)
    np.testing.assert_array_equal(arrays.sizes, [[24, 24]])
    np.testing.assert_array_equal(arrays.boxes[0, 0], [6, 6, 12, 18])
    assert (arrays.images[0, :, :24] == 10).all() and not arrays.images[0, :, 24:].any()


def test_classes_are_chosen_and_ordered(tmp_path):
    data = detection_set(tmp_path, [[(0, 0, 9, 9), (0, 0, 8, 8)], [(0, 0, 7, 7)]], labels=[[1, 0], [1]])
    white = detection_arrays(data, ("wbc",), CANVAS)
    assert white.valid.tolist() == [[True], [False]]
    np.testing.assert_array_equal(white.boxes[0, 0], [0, 0, 4, 4])
    other = detection_arrays(data, ("platelets", "rbc", "wbc"), CANVAS)
    assert other.labels.tolist() == [[1, 2], [1, 0]] and other.labels.dtype == np.int32
    with pytest.raises(DataError, match=r"none of the classes WBC is in this set; its classes are wbc, rbc"):
        detection_arrays(data, ("WBC",), CANVAS)


@pytest.mark.parametrize("count", [0, 300])
def test_no_boxes_and_many(tmp_path, count):
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 40, (count, 2))
    boxes = np.concatenate([corners, corners + rng.integers(1, 8, (count, 2))], axis=1)
    arrays = detection_arrays(detection_set(tmp_path, [boxes, []]), ("wbc",), CANVAS)
    assert arrays.valid.sum(axis=1).tolist() == [count, 0]
    assert arrays.boxes.shape[1] == max(count, 1)
    np.testing.assert_array_equal(arrays.boxes[0, :count], boxes / 2)


def test_more_boxes_than_slots(tmp_path):
    data = detection_set(tmp_path, [[(0, 0, 9, 9)], [(0, 0, 8, 8)] * 3])
    assert detection_arrays(data, ("wbc",), CANVAS, max_instances=5).boxes.shape == (2, 5, 4)
    with pytest.raises(DataError, match="smear_1: 3 boxes, more than the 2 slots of an image; set max_instances to 3"):
        detection_arrays(data, ("wbc",), CANVAS, max_instances=2)


@pytest.mark.parametrize("bad", [(3, 3, 3, 9), (3, 9, 8, 4), (np.nan, 0, 3, 3), (0, 0, np.inf, 3), (70, 0, 90, 9)])
def test_a_bad_box_is_named(tmp_path, bad):
    data = detection_set(tmp_path, [[(0, 0, 9, 9)], [(0, 0, 9, 9), bad]])
    with pytest.raises(DataError, match=r"smear_1: box 2 \(.*\) has no area in the 64×48 image; correct or remove it"):
        detection_arrays(data, ("wbc",), CANVAS)


def test_a_set_without_masks(tmp_path):
    data = replace(detection_set(tmp_path, [[(0, 0, 9, 9)]]), masks=None)
    with pytest.raises(DataError, match="with_masks"):
        detection_arrays(data, ("wbc",), CANVAS)


def test_odd_files_are_refused_or_converted(tmp_path):
    data = detection_set(tmp_path, [[(0, 0, 9, 9)]])
    cv2.imwrite(str(data.paths[0]), np.full((48, 64), 77, np.uint8))
    with pytest.raises(DataError, match="a grey image"):
        detection_arrays(data, ("wbc",), CANVAS)
    assert (detection_arrays(data, ("wbc",), CANVAS, strict=False).images == 77).all()


def test_an_empty_set(tmp_path):
    arrays = detection_arrays(detection_set(tmp_path, []), ("wbc",), CANVAS, cache_dir=tmp_path / "cache")
    assert arrays.images.shape == (0, *CANVAS, 3) and arrays.masks.shape == (0, 1, MASK_SIZE, MASK_SIZE)


def test_the_cache_is_used_and_knows_what_matters(tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    data = detection_set(tmp_path, [[(0, 0, 20, 20)], [(4, 4, 9, 9)]])
    plain = detection_arrays(data, ("wbc",), CANVAS)
    first = detection_arrays(data, ("wbc",), CANVAS, cache_dir=cache)
    with monkeypatch.context() as m:
        m.setattr("wbcjax.data.images.read_image", None)
        m.setattr("wbcjax.data.instances.crop_to_box", None)
        again = detection_arrays(data, ("wbc",), CANVAS, cache_dir=cache)
    for field in ("images", "boxes", "labels", "valid", "masks", "sizes", "scales"):
        np.testing.assert_array_equal(getattr(first, field), getattr(plain, field))
        np.testing.assert_array_equal(getattr(again, field), getattr(plain, field))
    assert isinstance(again.images, np.memmap) and isinstance(again.masks, np.memmap)

    # Another canvas, mask, box or number of slots is another file.
    assert detection_arrays(data, ("wbc",), (12, 16), cache_dir=cache).images.shape == (2, 12, 16, 3)
    whole = replace(data, masks=tuple(np.ones_like(m) for m in data.masks))
    assert detection_arrays(whole, ("wbc",), CANVAS, cache_dir=cache).masks[0].all()
    moved = replace(data, boxes=(data.boxes[0] + np.float32([20, 0, 20, 0]), data.boxes[1]))
    assert not detection_arrays(moved, ("wbc",), CANVAS, cache_dir=cache).masks[0].any()
    assert detection_arrays(data, ("wbc",), CANVAS, 4, cache).masks.shape[1] == 4
    # A stretched image of the same size is not the same.
    from wbcjax.data.images import load_images

    square = detection_set(tmp_path / "..", [[(0, 0, 9, 9)]], size=(16, 16))
    assert load_images(square.paths, CANVAS, cache_dir=cache).all()
    assert not detection_arrays(square, ("wbc",), CANVAS, cache_dir=cache).images[:, :, 24:].any()


def test_subset_keeps_the_slots(tmp_path):
    data = detection_set(tmp_path, [[(0, 0, 20, 20)] * 3, [(4, 4, 9, 9)]])
    part = detection_arrays(data, ("wbc",), CANVAS).subset([1])
    assert part.names == ("smear_1",) and part.boxes.shape == (1, 3, 4) and part.valid.sum() == 1
    np.testing.assert_array_equal(part.images[:, 0, 0, 0], [20])


def test_drawn_smears():
    smears = draw(2, (48, 64), cells_per_image=(1, 2))
    arrays = smear_arrays(smears, ("wbc", "rbc"), CANVAS)
    np.testing.assert_array_equal(arrays.scales, [0.5, 0.5])
    for i in range(2):
        kept = smears.labels[i] < 2
        np.testing.assert_array_equal(arrays.boxes[i, arrays.valid[i]], smears.boxes[i][kept] / 2)
        shares = arrays.masks[i, arrays.valid[i]].mean(axis=(1, 2))
        box = smears.boxes[i][kept]
        visible = smears.masks[i][kept].sum(axis=(1, 2)) / ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]))
        np.testing.assert_allclose(shares, visible, atol=0.06)
    with pytest.raises(DataError, match="with_masks=True"):
        smear_arrays(draw(1, (48, 64), with_masks=False), ("wbc",), CANVAS)
