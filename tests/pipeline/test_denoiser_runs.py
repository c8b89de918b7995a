"""A denoiser's run: trained, reused, loaded, in front of a classifier; PSNR by hand."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.errors import CheckpointError
from wbcjax.evaluation.noise import noise_sweep
from wbcjax.evaluation.results import read_results
from wbcjax.models import build
from wbcjax.models.denoiser import build_denoiser
from wbcjax.pipeline import denoiser as runs
from wbcjax.pipeline.rows import noise_predictor
from wbcjax.pipeline.runs import load_run


@pytest.fixture
def config(synthetic_root, tmp_path) -> cfg.DenoiserConfig:
    small = runs.small_denoiser(cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path / "cache"))
    return replace(small, image_size=(16, 16), model=cfg.DenoiserModelConfig(layers=2, channels=4), train_share=1.0,
                   folds=3, train=cfg.LoopConfig(epochs=1, batch_size=4))


def test_a_study_trains_once_and_measures_what_it_held_out(config, tmp_path):
    places = {"runs": tmp_path / "runs", "results": tmp_path}
    rows = runs.denoiser_study(config, experiment="denoiser", **places)
    (weights,) = tmp_path.glob("runs/denoiser-*/weights.safetensors")
    written = weights.stat().st_mtime_ns
    assert runs.denoiser_study(config, experiment="denoiser", **places) == rows
    assert weights.stat().st_mtime_ns == written
    assert read_results(tmp_path / "denoiser.json")["rows"] == rows
    assert {(row["alpha"], row["variant"]) for row in rows} == {
        (alpha, variant) for alpha in runs.ALPHAS for variant in ("noisy", "denoised")}
    noisy = [row["value"] for row in rows if row["variant"] == "noisy"]
    assert noisy == sorted(noisy, reverse=True)
    assert {row["split"] for row in rows} == {"TRAIN, fold 0 of 3"}
    with pytest.raises(CheckpointError, match="weights of a denoiser"):
        load_run(weights)
    other = replace(config, train=replace(config.train, seed=1))
    assert runs.denoiser_folder(tmp_path, other) != runs.denoiser_folder(tmp_path, config)


def test_predictions_go_through_the_denoiser():
    model = build(cfg.ModelConfig(name="lenet", image_size=(16, 16)))
    denoiser = build_denoiser(cfg.DenoiserModelConfig(layers=2, channels=4))
    denoiser.last.kernel[...] = 0.1 * jax.random.normal(jax.random.key(1), denoiser.last.kernel.shape)
    model.eval()
    images = jax.random.uniform(jax.random.key(0), (3, 16, 16, 3))
    predict = runs.denoised(noise_predictor(model), denoiser)
    np.testing.assert_allclose(predict(images), model(denoiser(images)), atol=1e-6)
    assert np.abs(predict(images) - model(images)).max() > 1e-4
    pixels = np.asarray(images * 255, np.uint8)
    swept = noise_sweep(predict, pixels, alphas=(0.0,), seeds=1, key=jax.random.key(0))
    expected = model(denoiser(jnp.asarray(pixels, jnp.float32) / 255)).argmax(axis=-1)
    np.testing.assert_array_equal(swept[0, 0], expected)


def test_psnr_by_hand():
    np.testing.assert_allclose(runs.psnr(np.array([1.0, 0.1, 0.01])), [0, 10, 20])
