"""The program beside this file, in short: killed runs end like one that was left alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

ROOT = Path(__file__).parents[2]


def faults(*options):
    """Run ``python -m tests.faults``."""
    return subprocess.run([sys.executable, "-m", "tests.faults", *options], cwd=ROOT, capture_output=True, text=True)


def test_a_run_that_is_killed_twice_ends_like_one_that_is_not():
    done = faults("--kills", "2", "--processes", "1", "--epochs", "5")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all                   2  in" in done.stdout


@pytest.mark.slow
def test_so_do_two_processes_of_which_one_or_both_are_killed():
    done = faults("--kills", "4", "--processes", "2", "--epochs", "12")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all                   4  in" in done.stdout


def test_a_difference_is_found(tmp_path):
    """The comparison itself: one last digit of a loss, one bit of the weights, one line too few, one damage."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("faults_outcome", Path(__file__).with_name("outcome.py"))
    outcome = module_from_spec(spec)
    spec.loader.exec_module(outcome)
    for name in ("a", "b"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5, "input_wait": 1}\n')
        (tmp_path / name / "summary.json").write_text('{"steps": 1, "wall_time": 3}')
        save_file({"kernel": np.float32([1, 2])}, tmp_path / name / "weights.safetensors", {"a": "1", "b": "2"})
    a, b = tmp_path / "a", tmp_path / "b"
    (b / "summary.json").write_text('{"steps": 1, "wall_time": 4}')
    assert outcome.difference(a, b) is None
    save_file({"kernel": np.nextafter(np.float32([1, 2]), 3)}, b / "weights.safetensors", {"a": "1", "b": "2"})
    assert outcome.difference(a, b) == "the weights differ"
    (b / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5000001}\n')
    assert "metrics differ" in outcome.difference(a, b)
    (b / "metrics.jsonl").write_text("")
    assert outcome.difference(a, b) == "1 lines of metrics in the reference, 0 here"
    (b / "checkpoints" / "4.damaged").mkdir()
    assert "4.damaged" in outcome.difference(a, b)
