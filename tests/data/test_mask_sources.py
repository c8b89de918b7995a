"""Masks for boxes: parts of published masks, and colour inside boxes."""

import logging
from dataclasses import replace

import cv2
import numpy as np
import pytest

from wbcjax.data import voc
from wbcjax.data.cell_masks import cell_mask_path, read_cell_mask
from wbcjax.data.mask_sources import assign_parts, hull_of, segment_in_box, stained_pixels, with_masks
from wbcjax.data.sets import DetectionSet
from wbcjax.data.synthetic import draw
from wbcjax.errors import DataError
from wbcjax.ops.boxes import paired_iou

SIZE = (60, 80)


def disc(x, y, r, size=SIZE):
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    return (columns - x) ** 2 + (rows - y) ** 2 <= r**2


def around(x, y, r, margin=2):
    return np.array([x - r - margin, y - r - margin, x + r + margin, y + r + margin], np.float32)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


# --- parts of published masks ---


def test_each_box_takes_its_own_part():
    left, right = disc(20, 30, 12), disc(60, 30, 15)
    masks = assign_parts(left | right, np.stack([around(60, 30, 15), around(20, 30, 12)]))
    np.testing.assert_array_equal(masks, [right, left])


def test_a_box_takes_the_part_it_holds_most_of_though_it_touches_another():
    left, right = disc(20, 30, 12), disc(47, 30, 12)
    masks = assign_parts(left | right, np.stack([around(20, 30, 14), around(47, 30, 14)]))
    np.testing.assert_array_equal(masks, [left, right])


def test_touching_cells_are_divided_between_their_boxes():
    left, right = disc(24, 30, 15), disc(50, 30, 15)
    masks = assign_parts(left | right, np.stack([around(24, 30, 15, 1), around(50, 30, 15, 1)]))
    assert not (masks[0] & masks[1]).any()
    np.testing.assert_array_equal(masks[0] | masks[1], left | right)
    assert iou(masks[0], left) > 0.95 and iou(masks[1], right) > 0.95


def test_a_mask_is_cut_to_its_box():
    cells = np.zeros(SIZE, bool)
    cells[20:40, 30:50] = True
    box = np.array([[30, 22, 50, 44]], np.float32)
    expected = cells.copy()
    expected[:22] = False
    np.testing.assert_array_equal(assign_parts(cells, box)[0], expected)


def test_a_part_that_fills_less_than_half_of_its_box_is_not_taken():
    assert not assign_parts(disc(20, 20, 8), np.float32([[10, 10, 50, 50]])).any()
    assert not assign_parts(np.zeros(SIZE, bool), np.float32([[10, 10, 50, 50]])).any()
    assert assign_parts(disc(20, 20, 8), np.zeros((0, 4), np.float32)).shape == (0, *SIZE)


def test_hull():
    mask = np.zeros(SIZE, bool)
    assert hull_of(mask).tolist() == [0, 0, 0, 0]
    mask[3:5, 7] = True
    assert hull_of(mask).tolist() == [7, 3, 8, 5]


# --- colour ---


def test_a_pale_centre_and_a_thread_do_not_matter():
    stained = disc(40, 30, 16) & ~disc(40, 30, 8)
    stained[30, 40:] = True  # a thread to the side
    assert iou(segment_in_box(stained, around(40, 30, 16)), disc(40, 30, 16)) > 0.97


def test_a_broken_ring_becomes_whole():
    stained = disc(40, 30, 16) & ~disc(40, 30, 10)
    stained[26:34, 40:] = False
    assert iou(segment_in_box(stained, around(40, 30, 16)), disc(40, 30, 16)) > 0.9


def test_neighbours_in_the_corners_are_left_out():
    stained = disc(40, 30, 12) | disc(60, 12, 6)
    mask = segment_in_box(stained, np.float32([26, 10, 64, 44]))
    assert iou(mask, disc(40, 30, 12)) > 0.9


@pytest.mark.parametrize("stained", [np.zeros(SIZE, bool), disc(22, 16, 2), disc(40, 30, 3)])
def test_the_oval_where_colour_finds_nothing_or_a_fragment(stained):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    oval = ((columns - 40) / 20) ** 2 + ((rows - 30) / 15) ** 2 <= 1
    np.testing.assert_array_equal(segment_in_box(stained, np.float32([20, 15, 60, 45])), oval)


def test_at_the_border_the_oval_is_open():
    whole = disc(0, 30, 20)
    mask = segment_in_box(np.zeros(SIZE, bool), np.float32([0, 10, 20, 50]))
    assert mask[11:49, 0].all()
    assert iou(mask, whole) > 0.75 > iou(disc(10, 30, 10), whole)
    np.testing.assert_array_equal(segment_in_box(np.ones(SIZE, bool), np.float32([0, 0, 80, 60])), np.ones(SIZE, bool))


@pytest.mark.parametrize("box", [(5, 5, 6, 6), (5.2, 5.2, 5.6, 5.4), (0, 0, 1, 60), (79, 59, 80, 60), (-3, -3, 1, 1)])
@pytest.mark.parametrize("level", [False, True])
def test_boxes_of_a_pixel_have_a_mask(box, level):
    mask = segment_in_box(np.full(SIZE, level), np.float32(box))
    assert mask.any()
    hull = hull_of(mask)
    assert (hull[:2] >= np.floor(box[:2])).all() and (hull[2:] <= np.ceil(box[2:])).all()


@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_of_one_colour_is_no_obstacle(value):
    assert stained_pixels(np.full((*SIZE, 3), value, np.uint8)).shape == SIZE


def test_colour_finds_the_drawn_cells():
    smears = draw(2, (240, 320), seed=1)
    found = {0: [], 1: [], 2: []}
    for image, boxes, labels, masks in zip(smears.images, smears.boxes, smears.labels, smears.masks, strict=True):
        stained = stained_pixels(image)
        for box, label, mask in zip(boxes, labels, masks, strict=True):
            found[int(label)].append(iou(segment_in_box(stained, box), mask))
    assert np.mean(found[0]) > 0.93 and np.mean(found[1]) > 0.8 and np.mean(found[2]) > 0.75


# --- sets ---


def test_white_cells_take_the_published_masks_and_others_colour(synthetic_root):
    published = voc(synthetic_root).subset([0, 1])
    masked = with_masks(published, synthetic_root)
    for i, name in enumerate(published.names):
        white = published.labels[i] == 0
        cells = read_cell_mask(cell_mask_path(synthetic_root, name)) > 0
        np.testing.assert_array_equal(masked.masks[i][white].any(axis=0), cells)
        assert masked.masks[i].shape == (len(published.boxes[i]), *published.sizes[i])
        assert masked.masks[i].any(axis=(1, 2)).all()
        hulls = np.stack([hull_of(mask) for mask in masked.masks[i]])
        assert (paired_iou(hulls, published.boxes[i]) > 0.3).all()
    assert with_masks(masked, synthetic_root) is masked


def test_without_published_masks_all_is_colour(synthetic_root):
    white = voc(synthetic_root).subset([0]).of_classes(("wbc",))
    cells = with_masks(white, synthetic_root).masks[0]
    for root in (None, synthetic_root / "elsewhere"):
        colour = with_masks(white, root).masks[0]
        assert colour.shape == cells.shape
        assert 0.85 < iou(colour[0], cells[0]) < 1


def test_images_without_boxes_and_grey_ones(tmp_path):
    paths = (tmp_path / "empty.png", tmp_path / "grey.png")
    for path in paths:
        cv2.imwrite(str(path), np.where(disc(40, 30, 12), 90, 220).astype(np.uint8))
    boxes = (np.zeros((0, 4), np.float32), around(40, 30, 12)[None])
    data = DetectionSet(paths, boxes, (np.zeros(0, np.int32), np.zeros(1, np.int32)), ("cell",), (SIZE, SIZE))
    masks = with_masks(data).masks
    assert masks[0].shape == (0, *SIZE)
    assert iou(masks[1][0], disc(40, 30, 12)) > 0.85
    with pytest.raises(DataError, match=r"grey: box 1 .* has no area"):
        with_masks(replace(data, boxes=(boxes[0], np.float32([[3, 3, 3, 9]]))))


def test_a_mask_of_another_size_is_named(synthetic_root, tmp_path):
    data = voc(synthetic_root).subset([0])
    mask = tmp_path / "BCCD_masks" / f"{data.names[0].replace('BloodImage_', 'BloodImage_Mask_')}.png"
    mask.parent.mkdir()
    cv2.imwrite(str(mask), np.zeros((10, 20), np.uint8))
    with pytest.raises(DataError, match=rf"{mask.name}: 20×10 pixels, {data.paths[0].name} has 320×240"):
        with_masks(data, tmp_path)


def test_bccd(data_root, caplog):
    caplog.set_level(logging.ERROR)
    odd = [f"BloodImage_{n:05}" for n in (113, 177, 313, 374, 242)]
    data = with_masks(voc(data_root).of_classes(("wbc",)).select(odd), data_root)
    overlap = [
        [float(paired_iou(hull_of(mask), box)) for mask, box in zip(masks, boxes, strict=True)]
        for masks, boxes in zip(data.masks, data.boxes, strict=True)
    ]
    published = [read_cell_mask(cell_mask_path(data_root, name)) > 0 for name in odd]
    assert [len(o) for o in overlap] == [2, 1, 2, 2, 1]
    assert min(min(o) for o in overlap) > 0.3  # platelets in a box of a white cell
    assert min(overlap[1]) > 0.8 and not (data.masks[1][0] <= published[1]).all()  # the published mask is wrong
    both = data.masks[2]
    assert not (both[0] & both[1]).any() and iou(both.any(axis=0), published[2]) > 0.98  # two cells, one part
    assert min(overlap[2]) > 0.75
