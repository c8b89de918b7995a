"""Foreign images: what they show, what they are told from, and nothing of TRAIN among them."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.data.kaggle import originals
from wbcjax.errors import DataError
from wbcjax.evaluation.results import read_results
from wbcjax.models import build
from wbcjax.pipeline import foreign_images as foreign
from wbcjax.pipeline import out_of_distribution as ood
from wbcjax.pipeline.inputs import Inputs, inputs_of
from wbcjax.training import predict_logits, split


@pytest.fixture(scope="module")
def config(synthetic_root, tmp_path_factory) -> cfg.ClassifierConfig:
    cache = tmp_path_factory.mktemp("foreign")
    return cfg.ClassifierConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=cache), model=cfg.ModelConfig(name="lenet",
                                                                                         image_size=(32, 32)),
        train=cfg.TrainConfig(epochs=1, batch_size=8),
    )


def test_no_smear_of_train_is_among_them(config, synthetic_root):
    test = inputs_of(originals(synthetic_root, "TEST"), config)
    sets = foreign.foreign_sets(config, test)
    trained = set(originals(synthetic_root, "TRAIN").sources)
    assert {"a red cell", "two white cells", "another stain, simulated"} <= sets.keys()
    for found in sets.values():
        assert found.images.shape == (len(found.sources), 32, 32, 3) and found.images.dtype == np.uint8
        assert not trained & set(found.sources)
    assert len(sets["two white cells"].images) == 1
    assert sets["another stain, simulated"].sources == test.sources


def test_a_window_is_free_of_cells_and_inside(config):
    image = np.zeros((100, 200, 3), np.uint8)
    cells = np.float32([[0, 0, 50, 50]])
    box = np.float32([60, 10, 100, 50])  # with the margin of 0.1: 56..104, 6..54
    assert foreign._is_free(box, cells, image, config)
    assert not foreign._is_free(box - np.float32([7, 0, 7, 0]), cells, image, config)  # from 49
    assert not foreign._is_free(box + np.float32([0, 50, 0, 50]), cells, image, config)  # to 104
    assert foreign._is_free(box, np.zeros((0, 4), np.float32), image, config)
    windows = foreign._free_windows(np.random.default_rng(0), 40, cells, image, config)
    assert windows and all(foreign._is_free(w, cells, image, config) for w in windows)
    assert foreign._free_windows(np.random.default_rng(0), 100, cells, image, config) == []


def test_another_stain():
    image = np.array([[[255, 255, 255], [0, 0, 0], [128, 128, 128], [200, 80, 160]]], np.uint8)[None]
    shifted = foreign.restained(image)[0, 0]
    np.testing.assert_array_equal(shifted[:2], [[255] * 3, [0] * 3])
    np.testing.assert_array_equal(shifted[2], np.round(255 * (128 / 255) ** foreign.STAIN))
    assert shifted[3, 0] < 200 and shifted[3, 1] == 80 and shifted[3, 2] > 160
    np.testing.assert_array_equal(foreign.restained(image, np.ones(3)), image)


def test_background_is_plain(config):
    image = np.full((100, 100, 3), 200, np.uint8)
    box = np.float32([20, 20, 60, 60])
    assert foreign._deviation(image, box, config) == 0
    cv2.circle(image, (40, 40), 10, (90, 0, 90), -1)
    assert foreign._deviation(image, box, config) > foreign.PLAIN


def test_features_and_logits_are_those_of_the_model(config, monkeypatch):
    model = build(config.model, 0)
    model.eval()
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), np.uint8)
    for batch, views in ((3, "one"), (128, "one"), (4, "dihedral")):
        expected = predict_logits(*split(model), images, views=views)
        monkeypatch.setattr(ood, "BATCH", batch)
        logits, features = ood.logits_and_features(model, images, views)
        np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(model.classify(jnp.asarray(features)), expected, rtol=1e-5, atol=1e-5)


def test_rows_of_a_score_that_tells_all():
    inputs = Inputs(np.zeros((4, 2, 2, 3), np.uint8), np.array([0, 0, 1, 1]), ("a", "a", "b", "c"), ("",) * 4,
                    np.zeros(4, bool))
    rows = ood.separation_rows(np.array([0.0, 0, 0, 1]), inputs, np.array([2.0, 3]), ["a", "x"], curve=True,
                               model="lenet", input="roi", split="TEST")
    values = {row["metric"]: (row["value"], row["low"], row["high"]) for row in rows if "low" in row}
    assert values == {"auroc": (1, 1, 1), "fpr95": (0, 0, 0)}
    assert [row["value"] for row in rows if row["metric"] == "true_positive_rate"] == [1] * len(ood.GRID)


def test_from_training_to_the_results(config, tmp_path):
    rows, found = ood.out_of_distribution_study(config, experiment="out_of_distribution", runs=tmp_path / "runs",
                                                results=tmp_path)
    assert read_results(tmp_path / "out_of_distribution.json")["rows"] == rows
    told = [row for row in rows if row["metric"] == "auroc"]
    assert len(told) == 2 * 4 * len(found)
    assert {(row["foreign"], row["value"]) for row in rows if row["metric"] == "images"} == {
        (kind, len(images.images)) for kind, images in found.items()}


def test_whole_images_are_refused(config):
    with pytest.raises(DataError, match="use input 'roi' and roi_source 'color'"):
        foreign.check_crops(cfg.ClassifierConfig(input="whole"))
