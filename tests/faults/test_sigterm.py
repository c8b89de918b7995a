"""SIGTERM: a checkpoint within the time that clusters grant, exit status 0, and the rest on another number of devices.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL on Kubernetes and SLURM, as they come."""


@pytest.mark.slow
def test_sigterm_saves_in_time_and_four_devices_end_like_the_one_that_began(synthetic_root, tmp_path):
    def start(workdir, devices, *options):
        command = [
            sys.executable, "-m", "wbcjax", "train", "--data.root", str(synthetic_root),
            "--data.cache_dir", str(tmp_path / "cache"), "--workdir", str(workdir), "--model.name", "lenet",
            "--model.image_size", "16", "16", "--folds", "3", "--fold", "0", "--train.batch_size", "8",
            "--train.epochs", "6", "--train.log_every", "1", *options]
        env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    run = start(tmp_path / "run", 1)
    for line in run.stdout:
        if "epoch 1/6" in line:
            run.send_signal(signal.SIGTERM)
            sent = time.perf_counter()
            break
    out, _ = run.communicate(timeout=300)
    assert time.perf_counter() - sent < GRACE
    assert run.returncode == 0 and "interrupted, and saved" in out, out

    last = max(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir() if p.name.isdecimal())
    assert last < 12 and last == metrics(tmp_path / "run")[-1]["step"]
    for job in (start(tmp_path / "run", 4, "--resume"), start(tmp_path / "alone", 1)):
        out, _ = job.communicate(timeout=300)
        assert job.returncode == 0, out
    lines, others = metrics(tmp_path / "run"), metrics(tmp_path / "alone")
    assert len(lines) == len(others) == 18  # twelve steps and six evaluations
    for here, there in zip(lines, others, strict=True):
        assert here == pytest.approx(there, rel=1e-4, abs=1e-6)


def metrics(workdir):
    """Every loss and norm, by step."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if re.search("step|loss|norm|accuracy", name)}
            for line in lines]
