"""One reader and its damaged files, within bounds of time, memory and folder."""

import json
import logging
import os
import random
import resource
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import NEIGHBOUR, Target
from wbcjax.errors import WbcjaxError

SECONDS = 5.0
"""Of the processor, so that a busy machine changes nothing; as ``ALARM``."""
MEMORY = 2**30
ALARM = 60.0
"""Seconds after which a reader that hangs is ended, with its process."""
MOST_FAILURES = 20


def work(target: Target, cases: int, seed: int, box: Path, keep: Path) -> dict[str, Any]:
    """Read ``cases`` files in the folder ``box``: how many gave values and errors, what failed, the slowest."""
    logging.disable(logging.CRITICAL)
    folder = box / "folder"
    folder.mkdir(parents=True)
    seeds = target.make(folder)
    path = folder / f"case{target.suffix}"
    for content in seeds:  # loads all modules, and the seeds must be good
        path.write_bytes(content)
        target.read(path)
    opened = watch_opened()
    limit = _address_space() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    read = _read_in_fork if target.ends else _read
    draw = random.Random(f"{target.suffix} {seed}")
    told: dict[str, Any] = {"cases": 0, "values": 0, "errors": 0, "ended": 0, "slowest": 0.0, "failures": []}
    for case in range(cases):
        path.write_bytes(mutated(draw, seeds, target.tokens))
        outcome, problem, took = read(target, path, opened)
        told["cases"] += 1
        told[outcome] += 1
        told["slowest"] = max(told["slowest"], took)
        if problem:
            kept = keep / f"{target.suffix[1:]}-{seed}-{case}{target.suffix}"
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, kept)
            told["failures"].append(f"{' '.join(problem.split())[:200]}: {kept}")
            if len(told["failures"]) >= MOST_FAILURES:
                break
    return told


def _read(target: Target, path: Path, opened: list[str]) -> tuple[str, str | None, float]:
    """Whether the file gave "values" or "errors", what is wrong with that, and seconds of the processor."""
    opened.clear()
    signal.setitimer(signal.ITIMER_PROF, ALARM)
    started = time.process_time()
    outcome, problem, paths = "values", None, []
    try:
        paths = target.read(path)
    except WbcjaxError as error:
        outcome = "errors"
        if path.stem not in str(error) and NEIGHBOUR not in str(error):
            problem = f"an error that does not name the file: {error}"
    except BaseException as error:
        problem = f"{type(error).__name__}: {error}"
    signal.setitimer(signal.ITIMER_PROF, 0)
    took = time.process_time() - started
    folder = path.parent.resolve()
    if outside := [p for p in paths if not p.resolve().is_relative_to(folder)]:
        problem = f"a path outside the folder: {outside[0]}"
    elif took > SECONDS:
        problem = problem or f"{took:.1f} s"
    elif outside := [p for p in opened if not Path(p).resolve().is_relative_to(folder)]:
        problem = problem or f"opened {outside[0]}"
    return outcome, problem, took


def _read_in_fork(target: Target, path: Path, opened: list[str]) -> tuple[str, str | None, float]:
    """As ``_read``; also "ended", when the process of the reader hung or crashed."""
    receiver, sender = os.pipe()
    pid = os.fork()
    if not pid:
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
        os.write(sender, json.dumps(_read(target, path, opened)).encode())
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as file:
        told = file.read()
    os.waitpid(pid, 0)
    return tuple(json.loads(told)) if told else ("ended", None, 0.0)


def watch_opened() -> list[str]:
    """A list that every file opened by Python is added to, but for modules."""
    opened: list[str] = []

    def note(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes):
            name = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode(errors="replace")
            if not name.endswith((".py", ".pyc", ".so")):
                opened.append(name)

    sys.addaudithook(note)
    return opened


def _address_space() -> int:
    """Bytes that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
