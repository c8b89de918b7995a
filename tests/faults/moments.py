"""When a run is killed, and what that left behind."""

import os
import random
import time
from pathlib import Path

from tests.faults.job import Job
from wbcjax.training.digests import has_digests

TEMPORARY = ".orbax-checkpoint-tmp"
POLL = 0.002
"""Seconds between two looks; writing a checkpoint takes some hundredths of a second."""


def while_saving(job: Job, draw: random.Random, length: float) -> bool:
    """Soon after orbax has made the temporary folder of a checkpoint, one of the next four.

    Returns:
      False if the run has ended before.
    """
    return _after_new(job, draw.randint(1, 4), TEMPORARY) and _still_running_after(job, draw.uniform(0, 0.05))


def after_saving(job: Job, draw: random.Random, length: float) -> bool:
    """Soon after a checkpoint has got its name: its digests are written, the oldest one is deleted."""
    return _after_new(job, draw.randint(1, 4), None) and _still_running_after(job, draw.uniform(0, 0.01))


def anywhere(job: Job, draw: random.Random, length: float) -> bool:
    """At any time of a run that takes ``length`` seconds: the start, the reading of a checkpoint, the last files."""
    return _still_running_after(job, draw.uniform(0, length))


MOMENTS = {"anywhere": anywhere, "while saving": while_saving, "after saving": after_saving}


def trace_of(workdir: Path) -> set[str]:
    """What a kill has left in the folder: a checkpoint ``half-written``, one ``undigested``."""
    names = [path.name for path in (workdir / "checkpoints").glob("*")]
    steps = sorted(int(name) for name in names if name.isdecimal())
    traces = {"half-written"} if any(TEMPORARY in name for name in names) else set()
    if steps and not has_digests(workdir / "checkpoints" / str(steps[-1])):
        traces.add("undigested")
    return traces


def _after_new(job: Job, count: int, mark: str | None) -> bool:
    """Wait for the next folders among the checkpoints, with ``mark`` in their names or without."""
    seen, first = set(), True
    while job.running:
        names = os.listdir(job.checkpoints) if job.checkpoints.is_dir() else []
        now = {name for name in names if (mark in name if mark else name.isdecimal())}
        if first:
            seen, first = now, False
        elif now - seen:
            seen |= now
            count -= 1
            if not count:
                return True
        time.sleep(POLL)
    return False


def _still_running_after(job: Job, seconds: float) -> bool:
    end = time.perf_counter() + seconds
    while job.running and time.perf_counter() < end:
        time.sleep(POLL)
    return job.running
