"""Training steps on more devices and processes: what splitting a batch costs, and the collectives of it.

    python benchmarks/scaling.py [--write] [--force] [--rounds N] [--models ...] [--cpu-time]

The custom CNNs and the compact Mask R-CNN. Strong scaling: one global batch on 1, 2, 4 and 8 devices. Weak scaling: as
many images on each device. Processes: one global batch on one process and on two, started by ``launch/local.py``. The
baseline of each case is the same global batch on one device, so the speed-up is the ratio of total throughput: with n
accelerators at best n. CPU devices are virtual and share the machine's cores, so at best it is 1, and what lacks to 1
is the cost of splitting.

The share of time in collectives is what the step takes beyond the same step under ``shard_map`` without any: each
device then computes on its images alone, batch statistics and update included, and nothing is exchanged or waited for.
``--cpu-time`` runs everything on one core and counts processor time, without the time of waiting: for a busy machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")  # before JAX is imported, which reads it then

import jax
import numpy as np
from classifiers import OPTIM, cross_entropy
from common import Case, Timing, arguments, interleave, report
from detector_step import losses
from detectors import COMPACT, our_model, smears
from jax.sharding import PartitionSpec

from wbcjax.config import MeshConfig, ModelConfig
from wbcjax.models import build
from wbcjax.training.allocator import keep_freed_memory
from wbcjax.training.distributed import initialize_distributed
from wbcjax.training.layout import layout_of
from wbcjax.training.mesh import shard, training_mesh
from wbcjax.training.optim import make_optimizer
from wbcjax.training.state import init_state, make_step, split, step_function

LAUNCH = Path(__file__).parents[1] / "launch" / "local.py"
SIZE, CANVAS = (64, 64), (96, 128)
WITHOUT = ", no collectives"


def work(name, count):
    """The model, its loss, and a batch of this process."""
    if name == "compact":
        return our_model(COMPACT, CANVAS), losses, smears(count, CANVAS)
    rng = np.random.default_rng(jax.process_index())
    batch = {"image": rng.random((count, *SIZE, 3), np.float32), "label": rng.integers(0, 4, count, dtype=np.int32)}
    return build(ModelConfig(name=name, image_size=SIZE)), cross_entropy, batch


def candidate(name, batch_size, devices, collectives=True):
    """A function without arguments that trains one step on so many devices, state kept inside."""
    mesh = training_mesh(MeshConfig(data=devices))
    model, loss_fn, batch = work(name, batch_size // jax.process_count())
    optimizer = make_optimizer(OPTIM, steps=1)
    state = init_state(model, optimizer, OPTIM, seed=0)
    layout = layout_of(state, mesh)
    if collectives:
        step = make_step(split(model)[0], optimizer, loss_fn, OPTIM, layout=layout)
    else:
        alone = step_function(split(model)[0], optimizer, loss_fn, OPTIM)
        whole, parts = PartitionSpec(), PartitionSpec(mesh.axis_names)
        step = jax.jit(jax.shard_map(alone, mesh=mesh, in_specs=(whole, whole, parts), out_specs=whole,
                                     check_vma=False), donate_argnums=0)
    batch, state = shard(batch, mesh), jax.device_put(state, layout)

    def call():
        nonlocal state
        state, metrics = step(state, {}, batch)
        return state, metrics  # all is waited for: programs of two meshes at a time may wait for each other's threads

    return call


def on_devices(name, case, batch_size, counts, options):
    """The case of one global batch on each number of devices of this process."""
    candidates = {}
    for devices in counts:
        candidates[_label(devices, "device")] = candidate(name, batch_size, devices)
        if devices > 1:
            candidates[_label(devices, "device") + WITHOUT] = candidate(name, batch_size, devices, collectives=False)
    timing = interleave(candidates, options.rounds, clock=_clock(options))
    return _case(f"{name} {case}, {batch_size} images", timing, "1 device", batch_size)


def on_processes(name, batch_size, counts, options):
    """The case of one global batch on so many processes with one device each, started anew in turns."""
    turns, seconds, first_calls, others = 3, {}, {}, []
    loads = [os.getloadavg()[0]]
    for _ in range(turns):
        for processes in counts:
            command = [sys.executable, str(LAUNCH), "-n", str(processes), "--cpu-devices", "1", "--", sys.executable,
                       __file__, "--worker", "--models", name, "--batch-size", str(batch_size), "--rounds",
                       str(options.rounds), *(["--cpu-time"] if options.cpu_time else [])]
            done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.pathsep
                                  .join(sys.path)})
            if done.returncode:
                raise SystemExit(done.stderr)
            told = [json.loads(line.partition("] ")[2]) for line in done.stdout.splitlines() if '{"seconds"' in line]
            others += [one["others"] for one in told]
            for kind in told[0]["seconds"]:
                label = _label(processes, "process") + kind
                # Processor time adds up; in wall time the last one counts.
                together = sum if options.cpu_time else max
                rounds = [together(times) for times in zip(*(one["seconds"][kind] for one in told), strict=True)]
                seconds.setdefault(label, []).extend(rounds)
                first_calls[label] = max(one["first_call"][kind] for one in told)
    loads.append(os.getloadavg()[0])
    known = None if None in others else statistics.median(others)
    timing = Timing(seconds, first_calls, *loads, known, _clock(options))
    return _case(f"{name} processes, {batch_size} images", timing, "1 process", batch_size)


def worker(options):
    """One of the processes: prints the seconds of each round as JSON."""
    initialize_distributed()
    (name,), candidates = options.models, {"": candidate(options.models[0], options.batch_size, None)}
    if jax.process_count() > 1:
        candidates[WITHOUT] = candidate(name, options.batch_size, None, collectives=False)
    # One call a turn on every process: they exchange their gradients in each.
    timing = interleave(candidates, options.rounds, min_seconds=0, clock=_clock(options))
    sys.__stdout__.write(json.dumps({"seconds": timing.seconds, "first_call": timing.first_call,
                                     "others": _besides(timing)}) + "\n")


def _besides(timing):
    """Cores that processes other than the workers used, as far as one worker can tell."""
    return None if timing.others is None else max(0.0, timing.others - (jax.process_count() - 1))


def _case(name, timing, baseline, items):
    shares = {label: statistics.median(1 - without / with_all for without, with_all in zip(
                  timing.seconds[label + WITHOUT], timing.seconds[label], strict=True))
              for label in timing.seconds if label + WITHOUT in timing.seconds}
    return Case(name, timing, baseline, items, collective_share=shares)


def _label(count, unit):
    plural = {"device": "devices", "process": "processes"}
    return f"{count} {unit if count == 1 else plural[unit]}"


def _clock(options):
    return "processor" if options.cpu_time else "wall"


def main():
    parser = arguments(__doc__.splitlines()[0], rounds=15)
    parser.add_argument("--models", nargs="+", default=["custom1", "custom2", "compact"])
    parser.add_argument("--batch-size", type=int, default=32, help="global, of strong scaling and processes")
    parser.add_argument("--per-device", type=int, default=8, help="images a device, of weak scaling")
    parser.add_argument("--cpu-time", action="store_true", help="one core, processor time")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    keep_freed_memory()
    if options.cpu_time:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    if options.worker:
        worker(options)
        return
    counts = [n for n in (1, 2, 4, 8) if n <= jax.device_count()]
    cases = []
    for name in options.models:
        cases.append(on_devices(name, "strong", options.batch_size, counts, options))
        cases += [on_devices(name, "weak", options.per_device * n, (1, n), options) for n in counts[1:]]
        cases.append(on_processes(name, options.batch_size, (1, 2), options))
    report("scaling" + "_one_core" * options.cpu_time, cases, options)


if __name__ == "__main__":
    main()
