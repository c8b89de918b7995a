"""Training by ``launch/local.py``: one process dies, the run goes on, and ends like those of a single process."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from wbcjax.cli import main

LAUNCH = Path(__file__).parents[2] / "launch"
DYING = textwrap.dedent(
    """
    # wbcjax, whose second process meets a damaged image in the fourth batch: the second epoch.
    import sys, jax
    from wbcjax.cli import main
    from wbcjax.data.device import DeviceStream
    from wbcjax.errors import DataError

    take = DeviceStream.__next__

    def take_or_die(self):
        if self._position == 3 and jax.process_index() == 1:
            raise DataError("smear.jpg: damaged")
        return take(self)

    DeviceStream.__next__ = take_or_die
    sys.exit(main())
    """
)


@pytest.fixture(scope="module")
def arguments(synthetic_root, tmp_path_factory):
    """Of ``wbcjax`` for a tiny run: 16 images and 8 to validate on, two batches an epoch, all that training has."""
    cache = tmp_path_factory.mktemp("cache")
    return lambda workdir: [
        "train", "--data.root", str(synthetic_root), "--data.cache_dir", str(cache), "--workdir", str(workdir),
        "--model.name", "lenet", "--model.image_size", "16", "16", "--folds", "3", "--fold", "0",
        "--train.batch_size", "8", "--train.epochs", "3", "--train.log_every", "1"]


def on_two_processes(*command):
    """Run a command as two processes with two CPU devices each."""
    return subprocess.run([sys.executable, LAUNCH / "local.py", "-n", "2", "--cpu-devices", "2", "--", *command],
                          capture_output=True, text=True, timeout=300)


def outcome(workdir):
    """Every loss and norm, and the final weights, of a run."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    numbers = [{name: value for name, value in line.items() if re.search("step|loss|norm|accuracy", name)}
               for line in lines]
    return numbers, load_file(workdir / "weights.safetensors")


def assert_alike(run, other):
    (numbers, weights), (others, other_weights) = run, other
    assert len(numbers) == len(others) == 9  # six steps and three evaluations
    for a, b in zip(numbers, others, strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    assert weights.keys() == other_weights.keys()
    for name in weights:
        # Adam divides by the gradient's size: where that is next to 0, its rounding error is as large as a step.
        np.testing.assert_allclose(weights[name], other_weights[name], rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def one(arguments, tmp_path_factory):
    """The run on one device."""
    workdir = tmp_path_factory.mktemp("one")
    assert main(arguments(workdir)) == 0
    return outcome(workdir)


@pytest.fixture(scope="module")
def died(arguments, tmp_path_factory):
    """The run of two processes, of which the second has died, and what they said."""
    workdir = tmp_path_factory.mktemp("two")
    return workdir, on_two_processes(sys.executable, "-c", DYING, *arguments(workdir))


def test_a_process_that_dies_ends_the_other_and_leaves_a_good_checkpoint(died):
    workdir, done = died
    assert done.returncode == 2
    assert "[1] wbcjax: smear.jpg: damaged\n" in done.stderr
    assert "launch/local.py: process 1 of 2 ended with status 2; ending the others\n" in done.stderr
    saved = [path.name for path in (workdir / "checkpoints").iterdir() if path.name.isdecimal()]
    assert saved == ["2"]
    assert not (workdir / "weights.safetensors").exists()


def test_the_rest_on_two_processes_ends_like_a_run_on_one_device(died, arguments, one):
    """From that checkpoint, by the wrapper that clusters use: same losses, same weights; the first alone speaks."""
    workdir, _ = died
    done = on_two_processes(sys.executable, LAUNCH / "resume.py", "--", sys.executable, "-m", "wbcjax",
                            *arguments(workdir))
    assert done.returncode == 0, done.stderr
    said = [line for line in (done.stdout + done.stderr).splitlines() if "[Gloo]" not in line]
    assert said and all(line.startswith("[0]") for line in said)
    assert_alike(outcome(workdir), one)


def test_one_process_with_four_devices_trains_like_one_device(arguments, one, tmp_path):
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "4"}
    command = [sys.executable, "-m", "wbcjax", *arguments(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_alike(outcome(tmp_path), one)


@pytest.mark.slow
def test_evaluation_on_two_processes_measures_what_one_does(arguments, synthetic_root, tmp_path):
    """Every image once, the padded end of the last batch left out; one process writes the results."""
    workdir, rows = tmp_path / "run", []
    assert main(arguments(workdir)) == 0
    for name in ("one", "two"):
        results = tmp_path / f"{name}.json"
        command = ["evaluate", str(workdir), "--data.root", str(synthetic_root), "--out", str(results)]
        if name == "one":
            assert main(command) == 0
        else:
            done = on_two_processes(sys.executable, "-m", "wbcjax", *command)
            assert done.returncode == 0, done.stderr
        rows.append(json.loads(results.read_text())["rows"])
    assert len(rows[0]) == len(rows[1])
    for a, b in zip(*rows, strict=True):
        assert a == {name: pytest.approx(b[name], rel=1e-5) if isinstance(b[name], float) else b[name] for name in b}


@pytest.mark.slow
def test_a_signal_saves_on_all_processes_at_the_same_step(arguments, tmp_path):
    command = [sys.executable, "-m", "wbcjax", *arguments(tmp_path), "--train.epochs", "5000"]
    job = subprocess.Popen([sys.executable, LAUNCH / "local.py", "-n", "2", "--cpu-devices", "1", "--", *command],
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in job.stdout:
        if "epoch 2/5000" in line:
            job.send_signal(signal.SIGTERM)
            break
    out, _ = job.communicate(timeout=300)
    assert job.returncode == 0, out
    assert out.count("stopping after this step") == 2 and out.count("interrupted, and saved") == 2
    last = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()][-1]
    assert (tmp_path / "checkpoints" / str(last)).is_dir()
