"""Whether two runs have ended the same, bit for bit."""

import json
from pathlib import Path

from safetensors import safe_open

TIMES = {"images_per_second", "input_wait", "compile_seconds", "flops_per_second", "peak_share", "wall_time"}


def difference(reference: Path, workdir: Path) -> str | None:
    """The first thing in which a run's final files differ from the reference's; None if they do not."""
    if damaged := sorted(path.name for path in (workdir / "checkpoints").glob("*.damaged")):
        return f"a checkpoint was found damaged: {damaged[0]}"
    there, here = _metrics(reference), _metrics(workdir)
    for line, other in zip(there, here, strict=False):
        if line != other:
            return f"metrics differ: {line} in the reference, {other} here"
    if len(there) != len(here):
        return f"{len(there)} lines of metrics in the reference, {len(here)} here"
    if _timeless((reference / "summary.json").read_text()) != _timeless((workdir / "summary.json").read_text()):
        return "the summaries differ"
    if _weights(reference) != _weights(workdir):
        return "the weights differ"
    return None


def _weights(workdir: Path) -> tuple:
    """Metadata and every bit of the arrays; the file itself holds the metadata in any order."""
    with safe_open(workdir / "weights.safetensors", "np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
        return file.metadata(), {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in arrays.items()}


def _metrics(workdir: Path) -> list[dict]:
    return [_timeless(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def _timeless(text: str) -> dict:
    return {name: value for name, value in json.loads(text).items() if name not in TIMES}
