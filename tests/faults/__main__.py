"""Kill a training run at random moments, resume it until it ends, and compare: nothing may be lost.

    python -m tests.faults --kills 100                     # so many on one process, and so many on two
    python -m tests.faults --kills 2 --processes 1 --epochs 4 --seed 3

A small classifier learns synthetic cells. Uninterrupted it gives the reference; then SIGKILL ends it in the middle of
a checkpoint, right after one or anywhere, and ``--resume`` goes on. Final weights, summary and metrics must be bit for
bit those of the reference. The exit status is 1 on any difference, and the folder is kept.
"""

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.job import Job, arguments, in_fork
from tests.faults.moments import MOMENTS, trace_of
from tests.faults.outcome import difference


def main() -> int:
    """The exit status: 1 on any difference."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="for each number of processes (default 100)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], metavar="N", help="default 1 2")
    parser.add_argument("--epochs", type=int, default=20, help="of a run, each ending in a checkpoint (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--train-seed", type=int, default=0, help="of the training")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="wbcjax-faults-"))
    data = folder / "data"
    in_fork(lambda: _draw(data))
    print(f"{'processes':>9}  {'moment':<16}  {'kills':>5}  {'half-written':>12}  {'undigested':>10}")
    failed = []
    for processes in options.processes:
        print(*(line for line in _table(processes, *_campaign(folder, data, processes, options, failed))), sep="\n")
    if failed:
        print(*failed, f"kept: {folder}", sep="\n")
        return 1
    shutil.rmtree(folder)
    return 0


def _draw(root: Path) -> None:
    from wbcjax.data.synthetic import write_dataset

    write_dataset(root, train_originals=3, test_originals=1, copies_train=6, copies_test=3, two_cells=1,
                  size=(240, 320))


def _campaign(folder: Path, data: Path, processes: int, options: argparse.Namespace,
              failed: list[str]) -> tuple[Counter, Counter, int, float]:
    """Runs until there were enough kills; how many of each moment, what they left behind, runs, and seconds."""
    started = time.perf_counter()
    command = arguments(data, folder / "cache", options.epochs, options.train_seed)
    reference = folder / f"reference-{processes}"
    if (status := Job(command, reference, processes).wait()) != 0:
        sys.exit(f"the uninterrupted run ended with status {status}: {reference}.log")
    length = time.perf_counter() - started
    draw = random.Random(f"{options.seed} {processes}")
    kills, traces, runs = Counter(), Counter(), 0
    while kills.total() < options.kills and not failed:
        workdir = folder / f"run-{processes}-{runs}"
        runs += 1
        while True:
            job = Job(command, workdir, processes)
            if kills.total() < options.kills:
                moment = draw.choices(list(MOMENTS), [1, 2, 1])[0]
                if MOMENTS[moment](job, draw, length):
                    job.kill(draw)
                    kills[moment] += 1
                    traces.update((moment, trace) for trace in trace_of(workdir))
                    continue
            status = job.wait()
            if status and job.missed_the_other():
                continue
            if status:
                failed.append(f"{workdir}: a resumed run ended with status {status}; see {workdir}.log")
            elif problem := difference(reference, workdir):
                failed.append(f"{workdir}: {problem}")
            else:
                shutil.rmtree(workdir)
            break
    return kills, traces, runs, time.perf_counter() - started


def _table(processes: int, kills: Counter, traces: Counter, runs: int, seconds: float) -> list[str]:
    lines = [f"{processes:>9}  {moment:<16}  {kills[moment]:>5}  {traces[moment, 'half-written']:>12}  "
             f"{traces[moment, 'undigested']:>10}" for moment in MOMENTS]
    return [*lines, f"{processes:>9}  {'all':<16}  {kills.total():>5}  in {runs} runs of {seconds:.0f} s together"]


if __name__ == "__main__":
    sys.exit(main())
