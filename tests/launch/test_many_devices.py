"""The same training on 1, 2, 4 and 8 devices, on 2 and 4 processes, whole or split: same data order, same numbers."""

import json
from pathlib import Path

import pytest

from tests.likeness.__main__ import RUNS, table
from tests.likeness.measure import compare

ROOT = Path(__file__).parents[2]
FIRST, LATER = 1e-5, 1e-3
"""Tolerances of the first step and of all: Adam divides by the gradient's size, so that each step enlarges the rounding
of those before. Some ten times what launch/README.md says was measured."""


def test_a_split_state_on_two_processes_trains_like_one_device(tmp_path):
    ((first, later),) = compare("classifier", tmp_path, [RUNS["2 processes, `fsdp` 2"]])
    assert first < FIRST and later < LATER


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_any_number_of_devices_and_processes_trains_like_one_device(kind, tmp_path):
    for name, (first, later) in zip(RUNS, compare(kind, tmp_path, list(RUNS.values())), strict=True):
        assert first < FIRST and later < LATER, name


def test_the_launchers_readme_shows_what_was_measured():
    measured = json.loads((ROOT / "benchmarks" / "results" / "likeness.json").read_text())["rows"]
    assert list(measured) == list(RUNS)
    assert table(measured) in (ROOT / "launch" / "README.md").read_text()
    assert all(row[kind][0] < FIRST and row[kind][1] < LATER for row in measured.values() for kind in row)
