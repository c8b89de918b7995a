"""Feed every reader of files with damaged ones: each gives a value or an error of this package that names the file.

    python -m tests.fuzz --cases 1000000
    python -m tests.fuzz --cases 20000 --seed 7 --targets coco voc

Valid files are changed: flipped bits, cut ends, spliced parts, values out of a dictionary. A reader must never end in
another exception, take more than its time or memory, crash, or open a file outside its folder. Each reader runs in a
process of its own; files that fail are kept. The exit status is 1 if there are any. Of Keras' files the column "ended"
counts those at which HDF5 hung or crashed: the package reads them in a process of its own and says so.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import ALARM, MEMORY, SECONDS, work


def main() -> int:
    """The exit status: 1 if a file failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=1_000_000, help="of all readers together (default 1000000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", nargs="+", choices=sorted(TARGETS), default=list(TARGETS))
    parser.add_argument("--keep", type=Path, help="folder for the files that fail; a new one by default")
    options = parser.parse_args()
    keep = options.keep or Path(tempfile.mkdtemp(prefix="wbcjax-fuzz-"))
    print(f"at most {SECONDS:g} s and {MEMORY >> 20} MiB a file")
    print(f"{'reader':<12} {'cases':>8} {'values':>8} {'errors':>8} {'ended':>7} {'failed':>7} {'slowest ms':>11}")
    failed = 0
    for name in options.targets:
        told = _in_process(name, options.cases // len(options.targets), options.seed, keep)
        failed += len(told["failures"])
        print(f"{name:<12} {told['cases']:>8} {told['values']:>8} {told['errors']:>8} {told['ended']:>7} "
              f"{len(told['failures']):>7} {told['slowest'] * 1e3:>11.1f}", *told["failures"], sep="\n    ", flush=True)
    if not failed:
        shutil.rmtree(keep, ignore_errors=True)  # it is made when something fails
        return 0
    print(f"kept: {keep}")
    return 1


def _in_process(name: str, cases: int, seed: int, keep: Path) -> dict:
    """What ``work`` tells; a process that dies fails with the file that it was reading."""
    folder = Path(tempfile.mkdtemp(prefix="wbcjax-fuzz-"))
    sys.stdout.flush()
    pid = os.fork()
    if not pid:
        status = 70
        # Libraries of image formats speak there about every damage.
        os.dup2(os.open(folder / "said", os.O_CREAT | os.O_WRONLY), 2)
        try:
            (folder / "told.json").write_text(json.dumps(work(TARGETS[name], cases, seed, folder / "box", keep)))
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if status:
        kept = keep / f"{name}-died"
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        told = {"cases": 0, "values": 0, "errors": 0, "ended": 0, "slowest": 0.0, "failures": [
            f"the process ended with status {os.waitstatus_to_exitcode(status)} (-27: more than {ALARM:g} s): {kept}"]}
    else:
        told = json.loads((folder / "told.json").read_text())
    shutil.rmtree(folder)
    return told


if __name__ == "__main__":
    sys.exit(main())
