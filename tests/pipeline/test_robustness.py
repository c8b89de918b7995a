"""The robustness study: its rows by hand, its candidates on a tiny run, its table and figures."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.data.corruptions import CORRUPTIONS
from wbcjax.errors import ConfigError
from wbcjax.evaluation.results import read_results
from wbcjax.pipeline.inputs import Inputs
from wbcjax.pipeline.robustness import Candidate, candidate_rows, ensemble, robustness_study
from wbcjax.report.robustness import corruption_grid, robustness_curves, robustness_tables

NOISE = cfg.NoiseConfig(alphas=(0.0, 0.35), seeds=2)


def found(rows, **keys):
    same = [row for row in rows if all(row.get(key) == value for key, value in keys.items())]
    assert len(same) == 1
    return same[0]


@pytest.fixture
def grey() -> Inputs:
    """Images of one brightness a class: 40, 100, 160 and 220, two originals a class, two files each."""
    labels = np.repeat(np.arange(4), 4).astype(np.int32)
    images = (40 + 60 * labels[:, None, None, None] + np.zeros((16, 16, 16, 3))).astype(np.uint8)
    return Inputs(images, labels, tuple(f"s{k // 2}" for k in range(16)), tuple(map(str, range(16))),
                  np.zeros(16, bool))


def by_brightness(images):
    centres = jnp.array([40, 100, 160, 220]) / 255
    return -jnp.abs(images.mean(axis=(1, 2, 3))[:, None] - centres)


def test_rows_by_hand(grey):
    rows = candidate_rows(jax.tree_util.Partial(by_brightness), grey, NOISE, model="custom1", input="roi", split="TEST")
    assert found(rows, metric="noise_accuracy", alpha=0.0)["value"] == 1
    assert found(rows, metric="noise_retention", alpha=0.0)["value"] == 1
    assert found(rows, metric="mean_retention")["value"] == found(rows, metric="noise_retention", alpha=0.35)["value"]
    # ×0.5 makes 220 (class 3) 110 (class 1), 160 (class 2) 80 (class 1), 100 (class 1) 50 (class 0).
    dark = found(rows, metric="corruption_accuracy", corruption="brightness_down", level=5)
    assert dark["value"] == 0.25 and dark["low"] == dark["high"] == 0.25
    assert found(rows, metric="corruption_accuracy", corruption="defocus_blur", level=5)["value"] == 1
    kinds = [row["value"] for row in rows if row["metric"] == "corruption_accuracy"]
    assert len(kinds) == 5 * len(CORRUPTIONS)
    assert found(rows, metric="mean_corruption_accuracy")["value"] == pytest.approx(np.mean(kinds))


def test_an_ensemble_averages_probabilities():
    sure, unsure = (jax.tree_util.Partial(lambda scale, x: scale * jnp.array([[0.0, 1.0]]), s) for s in (20.0, -1.0))
    mixed = jnp.exp(ensemble([sure, unsure])(jnp.zeros((1, 2, 2, 3))))
    np.testing.assert_allclose(mixed.sum(), 1, atol=1e-6)
    np.testing.assert_allclose(mixed[0, 1], (1 + 1 / (1 + np.e)) / 2, atol=1e-6)


def test_study_writes_rows_of_every_candidate_and_the_report_shows_them(synthetic_root, tmp_path):
    config = cfg.ClassifierConfig(
        data=cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path / "cache"), input="whole",
        model=cfg.ModelConfig(name="custom1", image_size=(16, 16)), train=cfg.TrainConfig(epochs=1, batch_size=8),
    )
    candidates = [
        Candidate(config, share=0.5),
        Candidate(replace(config, test_views="flips"), "mirrored", wrap=lambda predict: ensemble([predict, predict])),
    ]
    rows = robustness_study(candidates, noise=NOISE, experiment="robustness", runs=tmp_path / "runs", results=tmp_path)
    assert read_results(tmp_path / "robustness.json")["rows"] == rows
    images = {row.get("variant"): row["images"] for row in rows}
    assert images["mirrored"] > images[None]
    (table,) = robustness_tables([{**row, "experiment": "robustness"} for row in rows])
    assert [line[0].text for line in table.rows] == ["Custom CNN 1", "Custom CNN 1 (mirrored)"]
    for draw in (robustness_curves, corruption_grid):
        assert draw(rows, tmp_path / "figure.png").stat().st_size > 5000


def test_retention_needs_the_clean_accuracy(tmp_path):
    with pytest.raises(ConfigError, match=r"expected 0 among them"):
        robustness_study([], noise=cfg.NoiseConfig(alphas=(0.1,)), experiment="x", runs=tmp_path, results=tmp_path)
