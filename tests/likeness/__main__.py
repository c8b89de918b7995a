"""Train a classifier and a Mask R-CNN on one device and on others: how far do the numbers lie apart?

    python -m tests.likeness --out benchmarks/results/likeness.json

Custom CNN 2 with batch norm and a tiny Mask R-CNN see the same images in the same order. Printed are the largest
relative deviations of any loss, norm, accuracy or IoU, in the first step and in any line of three epochs.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from tests.likeness.measure import compare
from wbcjax.evaluation.results import environment

RUNS = {
    "2": {"devices": 2},
    "4": {"devices": 4},
    "8": {"devices": 8},
    "2 processes": {"processes": 2},
    "4 processes": {"processes": 4},
    "2, `fsdp` 2": {"devices": 2, "fsdp": 2},
    "8, `fsdp` 4": {"devices": 8, "fsdp": 4},
    "2 processes, `fsdp` 2": {"processes": 2, "fsdp": 2},
    "2 processes of 2, `fsdp` 2": {"processes": 2, "devices": 2, "fsdp": 2},
    "2 processes of 2, `fsdp` 4": {"processes": 2, "devices": 2, "fsdp": 4},
}
KINDS = {"classifier": "classifier", "detector": "Mask R-CNN"}


def table(rows: dict[str, dict[str, tuple[float, float]]]) -> str:
    """In Markdown, as in ``launch/README.md``."""
    lines = ["| devices | classifier: first step | all | Mask R-CNN: first step | all |",
             "| :--- | ---: | ---: | ---: | ---: |"]
    lines += [f"| {name} | " + " | ".join(f"{value:.1e}" for kind in KINDS for value in row[kind]) + " |"
              for name, row in rows.items()]
    return "\n".join(lines).replace("e-0", "e-")


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m tests.likeness", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file to write")
    options = parser.parse_args()
    rows = {name: {} for name in RUNS}
    for kind in KINDS:
        with tempfile.TemporaryDirectory(prefix="wbcjax-likeness-") as folder:
            for name, found in zip(RUNS, compare(kind, Path(folder), list(RUNS.values())), strict=True):
                rows[name][kind] = found
                print(kind, name, *(f"{value:.1e}" for value in found), file=sys.stderr, flush=True)
    print(table(rows))
    if options.out:
        options.out.write_text(json.dumps({**environment(), "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
