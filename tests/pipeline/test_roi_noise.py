"""Noise before the ROI: the noise itself, statistics by hand, and the chain on synthetic smears."""

from dataclasses import replace

import cv2
import jax
import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.evaluation.noise import add_noise, gaussian
from wbcjax.evaluation.results import read_results
from wbcjax.pipeline import roi_noise
from wbcjax.pipeline.roi_noise_pictures import draw_roi_noise
from wbcjax.roi import color_roi, crop

BOX = np.array([2, 2, 8, 8], np.float32)


def test_copies_share_one_noise_and_are_clean_without():
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    clean, noisy, more = roi_noise.noisy_copies(image, (0.0, 0.1, 0.2), 1, 4)
    np.testing.assert_array_equal(clean, image)
    noise = gaussian(jax.random.key(0), 1, 4, image.shape)
    for copy, alpha in ((noisy, 0.1), (more, 0.2)):
        expected = 255 * add_noise(jax.numpy.asarray(image, jax.numpy.float32) / 255, noise, alpha)
        np.testing.assert_allclose(copy, expected, atol=0.51)
    assert (roi_noise.noisy_copies(image, (0.1,), 1, 5)[0] != noisy).any()


def test_localisation_by_hand():
    """A localiser that finds the box where the mean brightness is that of the clean image, and nothing elsewhere."""
    images = np.full((3, 10, 10, 3), 128, np.uint8)
    true = [BOX[None], np.zeros((0, 4), np.float32), BOX[None] + 1]

    def localise(copies):
        return [BOX if (copy == 128).all() else None for copy in copies]

    found = roi_noise.localised({"one": localise, "none": lambda copies: [None] * 2}, images, true, (0.0, 0.3), 2)
    iou, missed = found["one"]
    assert list(found) == ["one", "none"] and found["none"][1].all()
    np.testing.assert_array_equal(missed[1], True)
    np.testing.assert_array_equal(missed[0], False)
    np.testing.assert_allclose(iou[0, 0], [1, np.nan, 25 / 47])
    np.testing.assert_allclose(iou[1, 1], [0, np.nan, 0])
    rows = roi_noise.localisation_rows(iou, missed, (0.0, 0.3), model="color", input="whole", split="made up")
    found = {(row["metric"], row["alpha"]): row["value"] for row in rows}
    assert found == pytest.approx({("noise_iou", 0.0): (1 + 25 / 47) / 2, ("noise_iou", 0.3): 0,
                                   ("missed_share", 0.0): 0, ("missed_share", 0.3): 1}, abs=1e-6)


def test_inputs_of_the_chain():
    image = np.full((40, 60, 3), 235, np.uint8)
    image[10:30, 20:40] = (120, 60, 160)
    config = cfg.ClassifierConfig(model=cfg.ModelConfig(image_size=(16, 16)))
    box = color_roi(image)
    np.testing.assert_array_equal(box, [20, 10, 40, 30])
    other = np.array([0, 0, 10, 10], np.float32)
    pictures, found = roi_noise.chain_inputs(image, box, config, [lambda copies: [other, None]], (0.0, 0.4), 0, 0)
    assert pictures.shape == (3, 2, 16, 16, 3)
    np.testing.assert_array_equal(found, [[True, True], [True, True], [True, False]])
    np.testing.assert_array_equal(pictures[0, 0], crop(image, box, (16, 16)))
    np.testing.assert_array_equal(pictures[1, 0], pictures[0, 0])
    np.testing.assert_array_equal(pictures[2, 0], crop(image, other, (16, 16)))
    noisy = roi_noise.noisy_copies(image, (0.4,), 0, 0)[0]
    np.testing.assert_array_equal(pictures[1, 1], crop(noisy, box, (16, 16)))
    np.testing.assert_array_equal(pictures[2, 1], crop(noisy, None, (16, 16)))
    assert (pictures[0, 1] != pictures[1, 1]).any(), "noise after cropping is not smoothed by it"


def test_the_blur_is_chosen_by_iou_over_the_levels():
    image = np.full((120, 160, 3), 235, np.uint8)
    image[40:80, 60:110] = (110, 50, 160)
    true = [np.array([[60, 40, 110, 80]], np.float32)]
    robust, rows = roi_noise.robust_roi(image[None], true, (0.0, 0.4))
    scores = {int(row["variant"].split()[3]): row["value"] for row in rows}
    assert set(scores) == set(roi_noise.BLURS) and robust.blur_kernel == max(scores, key=scores.get)
    assert robust == replace(roi_noise.EXPANDED, blur_kernel=robust.blur_kernel)


def test_the_study_writes_every_level_and_place(synthetic_root, detector_weights, tmp_path):
    config = cfg.ClassifierConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path / "cache"),
        model=cfg.ModelConfig(name="lenet", image_size=(16, 16)), train=cfg.TrainConfig(epochs=1, batch_size=8),
    )
    size = roi_noise.RoiNoise(alphas=(0.0, 0.3), seeds=1, chain_alphas=(0.0, 0.3), chain_seeds=1, chain_share=0.4,
                              detector=detector_weights)
    rows = roi_noise.roi_noise_study({"tiny": config}, size, experiment="roi_noise", runs=tmp_path / "runs",
                                     results=tmp_path)
    assert read_results(tmp_path / "roi_noise.json")["rows"] == rows
    found = [(row["model"], row.get("variant"), row["alpha"]) for row in rows
             if row["metric"] == "noise_iou" and "alpha" in row]
    localisers = [("color", "faithful"), ("color", "expanded"), ("color", "robust"), ("mask_rcnn_compact", None)]
    assert found == [(*localiser, alpha) for localiser in localisers for alpha in (0.0, 0.3)]
    chain = {(row["added"], row["localiser"], row.get("variant"), row["alpha"]): row["value"] for row in rows
             if row["metric"] == "chain_accuracy"}
    assert len(chain) == 2 * (2 + len(localisers))
    after, before = ((place, "color", None, 0.0) for place in (roi_noise.AFTER, roi_noise.SAME_BOX))
    assert chain[after] == chain[before], "without noise the place makes no difference"
    drawn = draw_roi_noise(tmp_path / "roi_noise.json", config.data, tmp_path / "figures", detector_weights)
    assert all(min(cv2.imread(str(path)).shape[:2]) > 200 for path in drawn) and len(drawn) == 2
