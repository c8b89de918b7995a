"""The colour ROI on drawn cells, and on real ones where the archives are."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wbcjax.config import ColorRoiConfig
from wbcjax.data import kaggle, load_images, voc
from wbcjax.data.provenance import wbc_boxes
from wbcjax.data.splits import detector_split
from wbcjax.errors import ConfigError
from wbcjax.ops.boxes import pairwise_iou
from wbcjax.roi import EXPANDED, FAITHFUL, color_roi, color_rois, largest_contour, steps
from wbcjax.roi.fit import fit

PLASMA, RED_CELL, CYTOPLASM, NUCLEUS = (200, 205, 195), (190, 160, 155), (190, 165, 205), (140, 80, 190)
SHARP = replace(FAITHFUL, blur_kernel=1)


def smear(nuclei=(), cells=(), red_cells=(), size=(480, 640)) -> np.ndarray:
    """A plain smear of discs (x, y, radius)."""
    image = np.full((*size, 3), PLASMA, np.uint8)
    for discs, colour in ((red_cells, RED_CELL), (cells, CYTOPLASM), (nuclei, NUCLEUS)):
        for x, y, radius in discs:
            cv2.circle(image, (x, y), radius, colour, cv2.FILLED)
    return image


def iou(box: np.ndarray | None, true: tuple[float, ...]) -> float:
    return 0.0 if box is None else float(pairwise_iou(box[None], np.array([true], np.float32))[0, 0])


def test_box_is_the_extent_of_the_pixels_in_range():
    image = np.full((480, 640, 3), PLASMA, np.uint8)
    image[100:140, 200:260] = NUCLEUS
    assert color_roi(image, SHARP).tolist() == [200, 100, 260, 140]


def test_one_pixel_has_a_box_of_one_pixel():
    image = np.full((480, 640, 3), PLASMA, np.uint8)
    image[7, 11] = NUCLEUS
    assert color_roi(image, SHARP).tolist() == [11, 7, 12, 8]


@pytest.mark.parametrize("config", [FAITHFUL, EXPANDED])
def test_no_cell_gives_none(config):
    assert color_roi(smear(red_cells=[(200, 200, 50), (400, 100, 50)]), config) is None
    assert color_roi(np.zeros((480, 640, 3), np.uint8), config) is None


def test_speck_below_min_area_is_no_cell():
    speck = smear(nuclei=[(300, 200, 8)])
    assert color_roi(speck) is not None
    assert color_roi(speck, replace(FAITHFUL, min_area=500.0)) is None


@pytest.mark.parametrize("config", [FAITHFUL, EXPANDED])
def test_of_two_cells_the_larger_wins(config):
    box = color_roi(smear(nuclei=[(150, 150, 40), (450, 300, 55)]), config)
    assert (box[:2] + box[2:]) / 2 == pytest.approx([450.5, 300.5], abs=2)


def test_of_two_equal_cells_the_upper_wins():
    assert color_roi(smear(nuclei=[(150, 300, 40), (450, 150, 40)]), SHARP).tolist() == [410, 110, 491, 191]


def test_touching_cells_get_one_box_around_both():
    box = color_roi(smear(nuclei=[(250, 200, 40), (325, 200, 40)]), SHARP)
    assert box.tolist() == [210, 160, 366, 241]


@pytest.mark.parametrize("centre", [(0, 240), (639, 240), (320, 0), (320, 479), (0, 0), (639, 479)])
def test_box_of_a_cell_at_the_border_is_clipped(centre):
    box = color_roi(smear(cells=[(*centre, 90)], nuclei=[(*centre, 50)]), EXPANDED)
    assert (box[:2] >= 0).all() and (box[2:] <= [640, 480]).all() and (box[2:] - box[:2] >= 50).all()


def test_expanded_covers_the_cytoplasm_and_not_the_red_cell_beside_it():
    image = smear(nuclei=[(300, 220, 45)], cells=[(310, 230, 75)], red_cells=[(425, 230, 50)])
    true = (235, 155, 386, 306)
    assert iou(color_roi(image, FAITHFUL), true) < 0.5
    assert iou(color_roi(image, EXPANDED), true) > 0.8


def test_closing_joins_the_lobes_of_a_nucleus():
    image = smear(nuclei=[(260, 200, 30), (330, 200, 30)])
    parted, joined = (color_roi(image, replace(SHARP, close_kernel=k)) for k in (0, 41))
    assert parted[2] - parted[0] < 70 and joined.tolist() == [230, 170, 361, 231]


def test_opening_drops_a_tail():
    image = smear(nuclei=[(300, 200, 40)])
    cv2.line(image, (300, 200), (600, 200), NUCLEUS, 3)
    assert color_roi(image, SHARP)[2] > 590
    assert color_roi(image, replace(SHARP, open_kernel=15))[2] < 350


def test_enlargement_scales_about_the_centre_then_pads():
    image = np.full((480, 640, 3), PLASMA, np.uint8)
    image[100:140, 200:260] = NUCLEUS
    assert color_roi(image, replace(SHARP, scale=1.5, pad=10.0)).tolist() == [175, 80, 285, 160]


def test_fields_in_pixels_scale_with_the_image():
    image = smear(nuclei=[(300, 200, 40)], cells=[(310, 210, 70)])
    half = cv2.resize(image, (320, 240), interpolation=cv2.INTER_AREA)
    np.testing.assert_array_equal(color_roi(half, EXPANDED) * 2, color_roi(image, EXPANDED))
    native = replace(EXPANDED, work_width=None)
    np.testing.assert_allclose(color_roi(half, native) * 2, color_roi(image, native), atol=5)


@pytest.mark.parametrize("config", [FAITHFUL, EXPANDED])
def test_black_fill_is_no_cell(config):
    turn = cv2.getRotationMatrix2D((160, 120), 20, 1.0)
    plain = cv2.warpAffine(smear(red_cells=[(300, 200, 60)], size=(240, 320)), turn, (320, 240))
    assert color_roi(plain, config) is None
    image = cv2.warpAffine(smear(nuclei=[(150, 120, 25)], cells=[(155, 125, 38)], size=(240, 320)), turn, (320, 240))
    assert (image.max(-1) == 0).mean() > 0.1
    box = color_roi(image, config).round().astype(int)
    assert image[box[1] : box[3], box[0] : box[2]].max(-1).min() > 100


def test_many_images_of_several_sizes_are_as_one_by_one():
    images = [smear(nuclei=[(300, 200, 40)]), smear(size=(240, 320)), smear(nuclei=[(99, 99, 20)], size=(240, 320))]
    for box, image in zip(color_rois(images, EXPANDED, 3), images, strict=True):
        np.testing.assert_equal(box, color_roi(image, EXPANDED))
    assert color_rois([]) == []


def test_steps_end_in_the_box_and_agree_with_our_own_contour_tracing():
    image = smear(nuclei=[(300, 200, 40), (500, 400, 10)])
    named = steps(image)
    assert list(named) == ["image", "blurred", "hsv", "mask", "cleaned", "cell", "contour", "box"]
    points = largest_contour(named["cleaned"])
    assert color_roi(image).tolist() == [*points.min(0), *(points.max(0) + 1)]
    assert (named["box"] != image).any() and (image == smear(nuclei=[(300, 200, 40), (500, 400, 10)])).all()
    assert not steps(smear())["cell"].any()


@pytest.mark.parametrize("field, value", [
    ("pad", -1.0), ("scale", 0.0), ("blur_kernel", 4), ("cytoplasm_reach", -1.0), ("hsv_low", (80, 60, 300)),
    ("cytoplasm_low", (160, 0, 0)), ("work_width", 3),
])
def test_impossible_field_is_named(field, value):
    with pytest.raises(ConfigError, match=f"roi.{field}"):
        ColorRoiConfig(**{field: value})


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 1), (3, 40), (40, 3), (60, 80)]))
def test_any_image_gives_none_or_a_box_inside_it(seed, size):
    image = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    for config in (FAITHFUL, EXPANDED, replace(EXPANDED, min_area=0.0)):
        box = color_roi(image, config)
        assert box is None or ((box[:2] >= 0).all() and (box[2:] <= size[::-1]).all() and (box[2:] > box[:2]).all())


def test_fit_finds_the_enlargement_that_was_drawn():
    """The boxes are the nuclei, times 1.1 plus 8 pixels: the search must come back with that."""
    images = [smear(nuclei=[(200 + 30 * i, 240, 30 + 10 * i)]) for i in range(4)]
    tight = [color_roi(image, SHARP) for image in images]
    boxes = [np.concatenate([c - h, c + h])[None] for c, h in
             (((b[:2] + b[2:]) / 2, (b[2:] - b[:2]) / 2 * 1.1 + 8) for b in tight)]
    found = fit([*images, smear()], [*boxes, np.zeros((0, 4), np.float32)], SHARP, {"close_kernel": (0, 9)})
    assert (found.scale, found.pad, found.close_kernel) == (1.1, 8.0, 0)


def test_real_smears_have_the_documented_iou(data_root):
    """On the detector's training images; the test images are for the experiment alone."""
    originals = voc(data_root)
    train = originals.select(detector_split(originals)[0])
    images, boxes = load_images(train.paths), train.boxes_of("wbc")
    for config, expected in ((FAITHFUL, 0.614), (EXPANDED, 0.869)):
        found = color_rois(images, config)
        scores = [max(iou(box, t) for t in true) for box, true in zip(found, boxes, strict=True) if len(true)]
        assert np.mean(scores) == pytest.approx(expected, abs=0.005)


def test_black_corners_of_real_augmented_images_are_never_taken_for_cells(data_root):
    files = kaggle(data_root, "TRAIN")
    files = files.subset(np.random.default_rng(0).choice(len(files), 200, replace=False))
    images, true = load_images(files.paths), wbc_boxes(files, voc(data_root))
    for config in (FAITHFUL, EXPANDED):
        found = color_rois(images, config)
        assert all(box is not None for box in found)
        for image, box in zip(images, found, strict=True):
            x0, y0, x1, y1 = box.round().astype(int)
            assert (image[y0:y1, x0:x1].max(-1) < 25).mean() < 0.3
    scores = [iou(box, t[0]) for box, t in zip(found, true, strict=True) if len(t)]
    assert np.mean(scores) > 0.82
