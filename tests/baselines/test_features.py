"""Hand-made features by hand, and what they should not depend on."""

import cv2
import numpy as np
import pytest
from test_segmentation import disc, drawn

from wbcjax.baselines import require
from wbcjax.baselines.features import (
    by_group,
    colour_features,
    feature_matrix,
    features,
    lobes,
    shape_features,
    texture_features,
)
from wbcjax.baselines.segmentation import Cell
from wbcjax.errors import ConfigError
from wbcjax.roi import EXPANDED

WHOLE = np.ones((8, 8), bool)


def test_shapes_of_a_disc_and_of_a_bar():
    round_, bar = shape_features(disc(48, 48, 30), "x"), shape_features(np.pad(np.ones((4, 40), bool), 28), "x")
    assert round_["x_area"] == pytest.approx(np.pi * 30**2 / 96**2, rel=0.02)
    assert round_["x_compactness"] > 0.85 > 0.5 > bar["x_compactness"]
    assert round_["x_eccentricity"] < 0.05 and bar["x_eccentricity"] > 0.99
    assert round_["x_long_axis"] == pytest.approx(60 / 96, rel=0.03) and round_["x_solidity"] > 0.97
    assert round_["x_hu1"] == pytest.approx(np.log10(1 / (2 * np.pi)), abs=0.01)  # of a disc


def test_lobes():
    assert lobes(disc(48, 48, 20)) == 1
    three = disc(20, 48, 12) | disc(48, 48, 12) | disc(76, 48, 12)
    three[46:50, 20:76] = True  # threads between them
    assert lobes(three) == 3
    assert lobes(np.eye(1, dtype=bool)) == 1


def test_colour_moments_by_hand():
    image = np.zeros((8, 8, 3), np.uint8)
    image[:4, :, 0] = 255
    image[0, :, 0] = 51
    nucleus = np.zeros((8, 8), bool)
    nucleus[:4] = True
    found = colour_features(image, Cell(nucleus, WHOLE))
    values = np.repeat([0.2, 1, 1, 1], 8)
    assert found["nucleus_R_mean"] == pytest.approx(values.mean()) and found["nucleus_R_std"] == pytest.approx(
        values.std())
    assert found["nucleus_R_skew"] == pytest.approx(((values - 0.8) ** 3).mean() / values.std() ** 3)
    assert found["cytoplasm_R_mean"] == 0 and found["cytoplasm_R_skew"] == 0
    alone = colour_features(image, Cell(WHOLE, WHOLE))
    assert alone["cytoplasm_R_mean"] == alone["nucleus_R_mean"]


def test_texture_by_hand():
    flat = texture_features(np.full((8, 8, 3), 100, np.uint8), Cell(WHOLE, WHOLE))
    assert flat["contrast_1"] == 0 and flat["homogeneity_1"] == flat["energy_1"] == 1 and abs(flat["entropy_1"]) < 1e-9
    board = np.indices((8, 8)).sum(axis=0) % 2 * 16  # two levels of GREYS apart: 0 and 2
    found = texture_features(np.repeat(board[..., None], 3, axis=2).astype(np.uint8), Cell(WHOLE, WHOLE))
    assert found["contrast_1"] == pytest.approx(2)  # 4 between rows and columns, 0 along diagonals
    assert sum(value for name, value in found.items() if name.startswith("lbp1_")) == pytest.approx(1)


def test_what_lies_outside_the_cell_has_no_texture():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
    cell = np.zeros((32, 32), bool)
    cell[8:24, 8:24] = True
    other = np.where(np.pad(np.ones((20, 20), bool), 6)[..., None], image, 255 - image)
    before, after = (texture_features(x, Cell(cell, cell)) for x in (image, other))
    assert before == after


def test_turning_and_mirroring_change_little():
    image = drawn((36, 44, 11), (56, 52, 13), (50, 30, 8))
    image = cv2.GaussianBlur(image, (5, 5), 0)
    names, values = feature_matrix(np.stack([image, np.rot90(image), image[:, ::-1]]), EXPANDED)
    assert names == tuple(features(image, EXPANDED)) and values.shape == (3, len(names))
    for name, line in zip(names, values.T, strict=True):
        if "_hu" not in name:  # the logarithms of the higher ones are of numbers near 0
            np.testing.assert_allclose(line, line[0], rtol=0.05, atol=0.02, err_msg=name)
    assert sum(by_group(names).values()) == len(names) == 98


def test_degenerate_crops_have_finite_features():
    odd = np.zeros((3, 24, 24, 3), np.uint8)
    odd[1] = 255
    odd[2, 5, 5] = 200
    assert np.isfinite(feature_matrix(odd, EXPANDED)[1]).all()
    with pytest.raises(ValueError, match="at least one image"):
        feature_matrix(odd[:0], EXPANDED)


def test_a_missing_extra_is_named():
    with pytest.raises(ConfigError, match=r"no_such_module is not installed .*pip install \"wbcjax\[literature\]\""):
        require("no_such_module.part")
