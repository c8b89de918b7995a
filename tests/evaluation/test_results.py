"""Results files: round trip, refusals, nothing half-written, code version."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from wbcjax.config import ClassifierConfig
from wbcjax.errors import DataError
from wbcjax.evaluation import results
from wbcjax.evaluation.results import PAPER, PAPER_NOISE, read_results, row, write_results


def a_row(**changes):
    defaults = {"model": "custom2", "input": "roi", "split": "TEST", "metric": "accuracy", "value": 0.5}
    return row(**(defaults | changes))


def write(path, rows, **changes):
    options = dict(experiment="table9", config={"a": 1}, seeds=[0], data_fingerprint="f00d", wall_time=1.0)
    return write_results(path, rows=rows, **(options | changes))


def test_round_trip(tmp_path):
    rows = [a_row(value=0.93, low=0.88, high=0.97, paper=0.92, alpha=0.05), a_row(model="custom1")]
    path = write(tmp_path / "deep" / "table9.json", rows, config=ClassifierConfig(), notes=["one"], seeds=3)
    read = read_results(path)
    assert read["rows"] == rows
    assert rows[0]["alpha"] == 0.05 and "low" not in rows[1]
    assert read["config"]["model"]["image_size"] == [80, 80]
    assert (read["experiment"], read["seeds"], read["notes"]) == ("table9", [3], ["one"])
    assert (read["data_fingerprint"], read["wall_time"]) == ("f00d", 1.0)
    assert read["device"]["count"] >= 1 and read["device"]["platform"]
    assert read["code_version"] == results.code_version()
    assert set(read["versions"]) == {"python", "jax", "flax", "numpy"}
    assert [p.name for p in path.parent.iterdir()] == ["table9.json"]


def test_one_row_a_line(tmp_path):
    lines = write(tmp_path / "r.json", [a_row(), a_row(model="lenet")]).read_text().splitlines()
    assert sum('"metric"' in line for line in lines) == 2


def test_scalars_of_numpy_and_jax_become_numbers():
    made = a_row(value=jnp.float32(0.5), low=np.float32(0.25), high=np.float64(0.75), seed=np.int64(3))
    assert json.loads(json.dumps(made)) == made
    assert type(made["seed"]) is int


def test_paths_in_the_config_are_not_those_of_this_machine(tmp_path):
    @dataclass(frozen=True)
    class Config:
        root: Path
        cache: Path

    path = write(tmp_path / "r.json", [], config=Config(Path("/home/someone/data"), Path("runs/cache")))
    assert read_results(path)["config"] == {"root": "data", "cache": "runs/cache"}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": "custom3"}, "model = 'custom3'; known are lenet"),
        ({"input": "crop"}, "input = 'crop'; known are whole, roi"),
        ({"metric": "acc"}, "metric = 'acc'; known are accuracy"),
        ({"split": ""}, "name the images measured"),
        ({"value": float("nan")}, "value = nan; expected a finite number"),
        ({"value": 93.0}, "accuracy = 93.0; expected 0..1, not percent"),
        ({"value": True}, "value = True; expected a finite number"),
        ({"low": 0.1}, "only one of low and high"),
        ({"low": 0.6, "high": 0.7}, r"value 0.5 outside 0.6..0.7"),
        ({"low": 0.7, "high": 0.3}, r"value 0.5 outside 0.7..0.3"),
        ({"low": float("-inf"), "high": 1.0}, "low = -inf"),
        ({"paper": float("inf")}, "paper = inf"),
        ({"alpha": float("nan")}, "alpha = nan"),
        ({"seeds": [1, 2]}, "one row holds one figure"),
    ],
)
def test_invalid_rows(changes, message):
    with pytest.raises(DataError, match=message):
        a_row(**changes)


def test_an_invalid_row_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "r.json", [a_row()])
    before = path.read_text()
    with pytest.raises(DataError, match=r"r.json: row 1 has accuracy = 2"):
        write(path, [a_row(model="lenet"), {**a_row(), "value": 2}])
    with pytest.raises(DataError, match="row 1 and row 0 are both"):
        write(path, [a_row(), a_row(value=0.6)])
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = write(tmp_path / "r.json", [a_row()])
    before = path.read_text()

    def full(fd):
        raise OSError("No space left on device")

    monkeypatch.setattr(results.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(path, [a_row(model="lenet")])
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "not a results file"),
        ('{"rows": [', "not a results file"),
        ("[]", "it lacks experiment"),
        ('{"experiment": "x"}', "it lacks config"),
    ],
)
def test_damaged_file(tmp_path, text, message):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(DataError, match=f"r.json: .*{message}"):
        read_results(path)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([3], "row 0 is 3"),
        ({}, "expected a list"),
        ([{}], "model = None"),
        ([{"model": "lenet", "input": "roi", "split": "TEST", "metric": "ece"}], "row 0 has no value"),
    ],
)
def test_damaged_rows(tmp_path, rows, message):
    path = write(tmp_path / "r.json", [a_row()])
    path.write_text(json.dumps(read_results(path) | {"rows": rows}))
    with pytest.raises(DataError, match=message):
        read_results(path)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="run the experiment that writes it"):
        read_results(tmp_path / "none.json")


def test_papers_figures_are_valid_rows():
    for (model, kind, metric), value in PAPER.items():
        a_row(model=model, input=kind, metric=metric, value=value, paper=value)
    assert PAPER["custom2", "roi", "accuracy"] == 0.92
    assert PAPER_NOISE == {0.05: 0.81, 0.35: 0.51}


def test_code_version_of_a_checkout(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ("-c", "user.name=t", "-c", "user.email=t@t")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    module = tmp_path / "wbcjax" / "evaluation" / "results.py"
    module.parent.mkdir(parents=True)
    module.write_text("1")
    monkeypatch.setattr(results, "__file__", str(module))
    plain = results.code_version()
    assert "+" not in plain  # no repository
    git("init")
    assert results.code_version() == plain  # no commit
    git("add", ".")
    git("commit", "-m", "first")
    clean = results.code_version()
    assert clean.startswith(plain + "+") and len(clean) == len(plain) + 13
    outputs = tmp_path / "experiments" / "results"
    outputs.mkdir(parents=True)
    (outputs / "table9.json").write_text("{}")
    assert results.code_version() == clean  # results do not change the code
    module.write_text("2")
    assert results.code_version() == clean + "-dirty"
