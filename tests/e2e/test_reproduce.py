"""The whole pipeline: a small one in the suite, the quick preset itself when slow tests are asked for."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from wbcjax import config as cfg
from wbcjax.pipeline import reproduce as stages
from wbcjax.pipeline.presets import Preset, quick_recipe
from wbcjax.pipeline.reproduce import STAGES, reproduce


def tiny_recipe(model: str, input: str) -> cfg.ClassifierConfig:
    config = quick_recipe(model, input)
    return replace(config, model=replace(config.model, image_size=(16, 16)),
                   train=replace(config.train, epochs=1, batch_size=8))


TINY = Preset("tiny", tiny_recipe, cfg.NoiseConfig(alphas=(0.0, 0.2), seeds=1), models=("lenet",))


def test_every_stage_runs_once_and_is_reused(synthetic_root, detector_weights, tmp_path, monkeypatch):
    monkeypatch.setattr(stages, "PACKAGED", detector_weights)
    preset = replace(TINY, detector="packaged")
    data = cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path / "cache")
    out = tmp_path / "out"
    console = Console(record=True, width=100, quiet=False, file=(tmp_path / "log").open("w"))
    outcome = reproduce(preset, data, out, console)
    assert outcome.synthetic
    names = {result["experiment"] for result in outcome.results}
    assert names == {"table1_data", "table2_color_roi", "table3_mask_rcnn", "table4_5_custom_whole",
                     "table6_7_custom_roi", "fig12_noise"}
    page = outcome.report.read_text()
    for expected in ("Table 1", "Table 2", "Table 3", "Table 8", "Table 9", "Worst images",
                     "Figure 3", "Figure 7", "Figure 8", "Figure 11", "Figure 12",
                     "come from a few synthetic smears"):
        assert expected in page
    assert (out / "data_check.txt").read_text().startswith("Data root")
    assert f"[{STAGES}/{STAGES}] Report" in console.export_text()

    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path != outcome.report}
    second = Console(record=True, width=100, file=(tmp_path / "log2").open("w"))
    started = time.perf_counter()
    again = reproduce(preset, data, out, second)
    assert time.perf_counter() - started < 20
    assert again.results == outcome.results
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file() and p != outcome.report} == kept
    assert second.export_text().count("reused") == 9


def test_a_changed_config_and_a_damaged_result_are_made_again(synthetic_root, tmp_path):
    data = cfg.DataConfig(root=synthetic_root, cache_dir=tmp_path / "cache")
    out = tmp_path / "out"
    first = reproduce(TINY, data, out, Console(quiet=True))
    (out / "results" / "table1_data.json").write_text("{")
    louder = replace(TINY, noise=cfg.NoiseConfig(alphas=(0.0, 0.3), seeds=1))
    console = Console(record=True, width=100, file=(tmp_path / "log").open("w"))
    second = reproduce(louder, data, out, console)
    alphas = {row["alpha"] for result in second.results for row in result["rows"] if "alpha" in row}
    assert alphas == {0.0, 0.3}
    assert [r["experiment"] for r in second.results] == [r["experiment"] for r in first.results]
    reused = console.export_text()
    assert "table4_5_custom_whole: reused" in reused
    assert "fig12_noise: reused" not in reused and "table1_data: reused" not in reused


@pytest.mark.slow
def test_the_quick_preset_is_quick(tmp_path):
    command = [sys.executable, "-m", "wbcjax", "reproduce", "--data.cache_dir", str(tmp_path / "cache"), "--out",
               str(tmp_path / "out")]
    started = time.perf_counter()
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 300
    report = Path(first.stdout.splitlines()[-1].removeprefix("Report: "))
    assert report.is_file() and "Table 9" in first.stdout and "Figure 12" in first.stdout
    started = time.perf_counter()
    second = subprocess.run(command, capture_output=True, text=True, check=True)
    assert time.perf_counter() - started < 60
    assert second.stdout == first.stdout
    accuracy = json.loads((tmp_path / "out/results/table6_7_custom_roi.json").read_text())["rows"][0]
    assert accuracy["metric"] == "accuracy"
