"""The same training on 1, 2, 4 and 8 devices, on 2 and 4 processes, whole or split: same data order, same numbers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.data.detection_stream import DetectionStream
from wbcjax.data.device import DeviceStream
from wbcjax.data.instances import smear_arrays
from wbcjax.data.synthetic import draw
from wbcjax.models import build
from wbcjax.models.mask_rcnn import build_detector
from wbcjax.training import classification_loss, detector, evaluator, fit, layout
from wbcjax.training.distributed import initialize_distributed

LAUNCH = Path(__file__).parents[2] / "launch" / "local.py"
OPTIM = cfg.OptimConfig(ema_decay=0.9)
BATCH = 16
FIRST, LATER = 1e-5, 1e-3
"""Tolerances of the first step and of all: Adam divides by the gradient's size, so that each step enlarges the rounding
of those before. Some ten times what launch/README.md says was measured."""


def recorded(kind):
    """A class of stream that notes the names of this process's share of each batch."""
    class Recorded(kind):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            self.taken = []

        def __next__(self):
            batch = super().__next__()
            self.taken.append(self.names(batch))
            return batch

    return Recorded


def train_classifier(mesh, workdir):
    """Custom CNN 2 with batch norm, augmentation, mixup, dropout, moving average and early stopping."""
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 4
    images = np.clip(rng.normal(90 + 30 * labels[:, None, None, None], 40, (40, 64, 64, 3)), 0, 255).astype(np.uint8)
    stream = recorded(DeviceStream)(images, labels, [str(i) for i in range(40)], batch_size=BATCH, seed=0)
    train = cfg.TrainConfig(epochs=3, batch_size=BATCH, log_every=1, mixup=0.2, patience=5, mesh=mesh)
    model = build(cfg.ModelConfig(name="custom2", image_size=(64, 64)), 0)
    fit(model, stream, classification_loss(cfg.AugmentConfig(), train, num_classes=4), optim=OPTIM, train=train,
        workdir=workdir, evaluate=evaluator(model, images, labels, head="softmax"))
    return stream.taken


def train_detector(mesh, workdir):
    """A tiny Mask R-CNN with batch norm: augmentation, sampling, both stages, masks, evaluation."""
    config = cfg.from_dict(cfg.DetectorConfig, json.loads((workdir.parent / "config.json").read_text()))
    train = cfg.LoopConfig(epochs=3, batch_size=BATCH, log_every=1, mesh=mesh)
    cells = smear_arrays(draw(BATCH, (60, 80), seed=1), config.model.class_names, config.model.canvas)
    stream = recorded(DetectionStream)(cells, BATCH, 0)
    model = build_detector(config.model)
    fit(model, stream, detector.detection_loss(config), optim=OPTIM, train=train, workdir=workdir,
        evaluate=detector.evaluator(model, cells, batch_size=8))
    return stream.taken


def outcome(kind, folder, devices=1, processes=1, fsdp=1):
    """Data order, metrics lines and number of split arrays of a training by this file as a program."""
    workdir = folder / f"{devices}-{processes}-{fsdp}"
    workdir.mkdir()
    command = [sys.executable, __file__, kind, str(workdir), str(fsdp)]
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


def check(kind, folder, *runs):
    """Each of ``runs`` against one device; the deviations go into the output, for the README of the launchers."""
    order, lines, _ = outcome(kind, folder)
    assert len(order) == max(line["step"] for line in lines)
    for run in runs:
        other_order, others, parts = outcome(kind, folder, **run)
        assert other_order == order
        assert (parts > 0) == (run.get("fsdp", 1) > 1)
        first, largest = deviations(lines, others)
        print(kind, run, f"{first:.1e} {largest:.1e}", flush=True)
        assert first < FIRST and largest < LATER, run


@pytest.fixture
def folder(tiny_detector, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(cfg.to_dict(cfg.DetectorConfig(model=tiny_detector))))
    return tmp_path


def test_a_split_state_on_two_processes_trains_like_one_device(folder):
    check("classifier", folder, {"processes": 2, "fsdp": 2})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_any_number_of_devices_and_processes_trains_like_one_device(kind, folder):
    check(kind, folder, {"devices": 2}, {"devices": 4}, {"devices": 8}, {"processes": 2}, {"processes": 4},
          {"devices": 2, "fsdp": 2}, {"devices": 8, "fsdp": 4}, {"processes": 2, "fsdp": 2},
          {"devices": 2, "processes": 2, "fsdp": 2}, {"devices": 2, "processes": 2, "fsdp": 4})


if __name__ == "__main__":
    kind, workdir, fsdp = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    initialize_distributed()
    layout.SPLIT_FROM = 64
    counts = []
    plan = layout.layout_of

    def counting(*args, **options):
        made = plan(*args, **options)
        counts.append(sum(any(leaf.spec) for leaf in jax.tree.leaves(made["params"])))
        return made

    sys.modules["wbcjax.training.loop"].layout_of = counting
    order = {"classifier": train_classifier, "detector": train_detector}[kind](cfg.MeshConfig(fsdp=fsdp), workdir)
    told = {"devices": jax.device_count(), "order": order, "split": counts[0]}
    (workdir / f"told-{jax.process_index()}.json").write_text(json.dumps(told))
