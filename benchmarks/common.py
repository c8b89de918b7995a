"""What every benchmark shares: interleaved timing, a watch on the machine's load, tables and JSON.

Candidates are timed in turns within one process, so that a slow minute of the machine hits all of them, and
ratios are medians over the rounds. Contention does not hit two frameworks alike, so a ratio measured while other
processes used the processor is not printed unless ``--force`` asks for it (and then says so).
"""

import argparse
import json
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import jax

from wbcjax.evaluation.results import environment

BUSY_CORES = 0.25
"""More than this many processor cores used by others during a measurement makes it a busy machine."""

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Timing:
    """Seconds per call of each candidate, one entry a round, and what else the machine did meanwhile."""

    seconds: dict[str, list[float]]
    first_call: dict[str, float]
    """Seconds of the first call, compilation included."""
    load_before: float
    """Load average over the last minute (of all processes, this one too)."""
    load_after: float
    others: float | None
    """Cores used by other processes meanwhile; None where psutil is not installed."""
    clock: str = "wall"
    """``wall``, or ``processor``: time this process computed, which others hardly change."""

    @property
    def busy(self) -> bool:
        if self.clock == "processor":
            return False
        if self.others is None:  # the load before is all there is to go by: afterwards it holds our own work
            return self.load_before > BUSY_CORES
        return self.others > BUSY_CORES

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def speedup(self, name: str, baseline: str) -> float:
        """How many times faster than the baseline: median over the rounds of the ratio within a round."""
        return statistics.median(b / s for b, s in zip(self.seconds[baseline], self.seconds[name], strict=True))


@dataclass(frozen=True)
class Case:
    """One workload: ``items`` (of kind ``unit``) are worked on by a call; ratios are to the ``baseline``."""

    name: str
    timing: Timing
    baseline: str
    items: int
    unit: str = "images"
    peak_mib: Mapping[str, float | None] = field(default_factory=dict)
    """``peak_memory`` of each candidate, where it was measured."""
    flops: Mapping[str, float] = field(default_factory=dict)
    """Floating-point operations of a call of each candidate, where they were counted."""
    peak_flops: float | None = None
    """Those that the device can do in a second, where that is known."""
    collective_share: Mapping[str, float] = field(default_factory=dict)
    """Of the time of each candidate, what goes into exchange between devices, where it was measured."""


def arguments(description: str, rounds: int = 15) -> argparse.ArgumentParser:
    """The options of every benchmark: ``--rounds``, ``--force``, ``--write``."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds, help="times every candidate is timed, in turns")
    parser.add_argument("--force", action="store_true", help="print ratios although the machine is busy")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/<name>.json")
    return parser


def interleave(
    candidates: Mapping[str, Callable[[], Any]],
    rounds: int,
    warmup: int = 2,
    min_seconds: float = 0.02,
    clock: str = "wall",
) -> Timing:
    """Time the candidates in turns, each turn long enough to be measured, results waited for.

    Args:
      candidates: functions that do the same work; what they return is blocked on (``jax.block_until_ready``).
      warmup: calls of each before the first round; the first is timed apart.
      min_seconds: a candidate is called repeatedly in a turn until it takes about this long.
      clock: ``wall``, or ``processor`` to count only the time that this process computed.
    """
    first_call, repeats = {}, {}
    for name, call in candidates.items():
        first_call[name] = _seconds(call, 1, clock)
        warm = min((_seconds(call, 1, clock) for _ in range(warmup - 1)), default=first_call[name])
        repeats[name] = max(1, round(min_seconds / max(warm, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    load_before, meter = os.getloadavg()[0], _OtherProcesses()
    for turn in range(rounds):
        # The order is turned round every time, so that no candidate always follows the same one.
        for name in list(candidates)[:: 1 if turn % 2 == 0 else -1]:
            seconds[name].append(_seconds(candidates[name], repeats[name], clock))
    return Timing(seconds, first_call, load_before, os.getloadavg()[0], meter.cores(), clock)


def peak_memory(make: Callable[..., Callable[[], Any]], *args: Any) -> float | None:
    """Largest memory, in MiB, of a process that calls ``make(*args)()`` twice and does nothing else.

    Libraries and compilation included. None where the system does not tell (it is read from ``/proc``).
    """
    if not Path("/proc/self/status").exists():
        return None
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_memory, make, args).result()


def _peak_memory(make: Callable[..., Callable[[], Any]], args: tuple) -> float:
    call = make(*args)
    for _ in range(2):
        jax.block_until_ready(call())
    # Not getrusage: a child's maximum there begins with what its parent held.
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def report(name: str, cases: Sequence[Case], options: argparse.Namespace) -> None:
    """Print the table of all cases, and write it as JSON when asked to."""
    header = ("case", "candidate", "first call ms", "median ms", "rate", "speed-up", "compile s", "GFLOP", "GFLOP/s",
              "of peak", "peak MiB", "collectives")
    rows, records = [], []
    for case in cases:
        timing = case.timing
        for candidate in timing.seconds:
            median = timing.median(candidate)
            ratio = timing.speedup(candidate, case.baseline)
            shown = None if timing.busy and not options.force else ratio
            peak = case.peak_mib.get(candidate)
            counted = _arithmetic(case, candidate)
            exchange = case.collective_share.get(candidate)
            rows.append((
                case.name,
                candidate,
                f"{timing.first_call[candidate] * 1e3:.1f}",
                f"{median * 1e3:.3f}",
                f"{case.items / median:,.{0 if case.items >= 10 * median else 2}f} {case.unit}/s",
                "busy" if shown is None else f"{shown:.2f}x",
                f"{counted['compile_seconds']:.1f}" if counted else "",
                f"{counted['flops'] / 1e9:,.1f}" if counted else "",
                f"{counted['flops_per_second'] / 1e9:,.0f}" if counted else "",
                f"{counted['share_of_peak']:.0%}" if counted.get("share_of_peak") else "",
                "" if peak is None else f"{peak:,.0f}",
                "" if exchange is None else f"{exchange:.0%}",
            ))
            records.append({
                "case": case.name, "candidate": candidate, "baseline": case.baseline, "items": case.items,
                "unit": case.unit, "median_seconds": median, "speedup": shown, "busy": timing.busy,
                **counted, **({} if peak is None else {"peak_mib": round(peak)}),
                **({} if exchange is None else {"collective_share": exchange}),
            })
    filled = [i for i in range(len(header)) if any(row[i] for row in rows)]
    print_table([header[i] for i in filled], [[row[i] for i in filled] for row in rows])
    for case in cases:
        timing = case.timing
        others = "unknown (install psutil)" if timing.others is None else f"{timing.others:.2f} cores"
        load = f"load {timing.load_before:.2f} before, {timing.load_after:.2f} after"
        print(f"{case.name}: {load}; other processes used {others}")
    if any(case.timing.busy for case in cases):
        print("The machine was busy: ratios " + ("may mislead (--force)." if options.force
              else "are withheld. Run again when it is quiet, or with --force."))
    if options.write:
        RESULTS.mkdir(exist_ok=True)
        content = {"benchmark": name, **environment(), "forced": options.force, "rows": records,
                   "timings": {case.name: asdict(case.timing) for case in cases}}
        path = RESULTS / f"{name}.json"
        path.write_text(json.dumps(content, indent=1) + "\n")
        print(f"wrote {path}")


def _arithmetic(case: Case, candidate: str) -> dict[str, float]:
    """How fast a candidate computes, by its FLOPs, and how long it compiled: its first call less one of the others."""
    if candidate not in case.flops:
        return {}
    median, flops = case.timing.median(candidate), case.flops[candidate]
    share = {} if case.peak_flops is None else {"share_of_peak": flops / median / case.peak_flops}
    return {"flops": flops, "flops_per_second": flops / median, **share,
            "compile_seconds": max(0.0, case.timing.first_call[candidate] - median)}


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest entry; the first two to the left, numbers to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    for row in (header, ["-" * width for width in widths], *rows):
        print("  ".join(cell.ljust(w) if i < 2 else cell.rjust(w)
                        for i, (cell, w) in enumerate(zip(row, widths, strict=True))))


def _seconds(call: Callable[[], Any], repeats: int, clock: str) -> float:
    now = time.process_time if clock == "processor" else time.perf_counter
    start = now()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return (now() - start) / repeats


class _OtherProcesses:
    """Processor time that other processes use from now on."""

    def __init__(self):
        try:
            import psutil
        except ImportError:
            psutil = None
        self.psutil = psutil
        if psutil:
            self.start = time.perf_counter(), self._all(), self._own()

    def cores(self) -> float | None:
        if not self.psutil:
            return None
        start, everything, own = self.start
        used = (self._all() - everything) - (self._own() - own)
        return max(0.0, used / (time.perf_counter() - start))

    def _all(self) -> float:
        times = self.psutil.cpu_times()
        return sum(times) - times.idle - getattr(times, "iowait", 0.0)

    def _own(self) -> float:
        """Of this process and its children, the ended ones included."""
        process = self.psutil.Process()
        return sum(sum(p.cpu_times()[:4]) for p in (process, *process.children(recursive=True)))
