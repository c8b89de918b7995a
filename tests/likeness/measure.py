"""Trainings on other devices than one, against one."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.tiny import detector_config
from wbcjax import config as cfg

JOB = Path(__file__).with_name("job.py")
LAUNCH = Path(__file__).parents[2] / "launch" / "local.py"


def outcome(kind, folder, devices=1, processes=1, fsdp=1):
    """Data order, metrics lines and number of split arrays of a training by ``job.py``."""
    workdir = folder / f"{devices}-{processes}-{fsdp}"
    workdir.mkdir()
    command = [sys.executable, str(JOB), kind, str(workdir), str(fsdp)]
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    if processes > 1:
        command = [sys.executable, str(LAUNCH), "-n", str(processes), "--cpu-devices", str(devices), "--", *command]
    else:
        env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    told = [json.loads((workdir / f"told-{rank}.json").read_text()) for rank in range(processes)]
    assert [one["devices"] for one in told] == [devices * processes] * processes
    order = [[name for part in parts for name in part] for parts in zip(*(one["order"] for one in told), strict=True)]
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return order, lines, told[0]["split"]


def deviations(lines, others):
    """Largest relative difference of losses, norms, accuracies and IoUs, in the first step and in any line."""
    assert [line["step"] for line in lines] == [line["step"] for line in others]
    largest = []
    for one, other in zip(lines, others, strict=True):
        names = [name for name in one if re.search("loss|norm|accuracy|iou", name)]
        assert names
        largest.append(max(abs(other[name] - one[name]) / max(abs(one[name]), 1e-3) for name in names))
    return largest[0], max(largest)


def compare(kind: str, folder: Path, runs: list[dict]) -> Iterator[tuple[float, float]]:
    """Deviations of each of ``runs`` from one device; the data order is the same, and the state split if it should."""
    (folder / "config.json").write_text(json.dumps(cfg.to_dict(cfg.DetectorConfig(model=detector_config()))))
    order, lines, _ = outcome(kind, folder)
    assert len(order) == max(line["step"] for line in lines)
    for run in runs:
        other_order, others, parts = outcome(kind, folder, **run)
        assert other_order == order
        assert (parts > 0) == (run.get("fsdp", 1) > 1)
        yield deviations(lines, others)
