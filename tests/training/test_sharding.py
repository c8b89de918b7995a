"""Meshes and layouts: what is split where, and the same training on any number of devices and any mesh."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, PartitionSpec

from wbcjax import config as cfg
from wbcjax.cli import main
from wbcjax.data.detection_stream import DetectionStream
from wbcjax.data.device import DeviceStream
from wbcjax.data.instances import smear_arrays
from wbcjax.data.synthetic import draw
from wbcjax.errors import ConfigError
from wbcjax.models.mask_rcnn import build_detector
from wbcjax.pipeline.workdir import portable
from wbcjax.training import classification_loss, evaluator, fit, layout, split
from wbcjax.training.detector import detection_loss
from wbcjax.training.detector import evaluator as detector_evaluator
from wbcjax.training.layout import describe_sharding, layout_of, split_axis
from wbcjax.training.mesh import mesh_shape, shard, training_mesh
from wbcjax.training.optim import make_optimizer
from wbcjax.training.state import init_state, make_step

OPTIM = cfg.OptimConfig(learning_rate=0.01, ema_decay=0.9)
TRAIN = cfg.TrainConfig(epochs=2, batch_size=8, log_every=1, mixup=0.2, patience=5)
LOSS = classification_loss(cfg.AugmentConfig(), TRAIN, num_classes=4)
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(20) % 4
FROZEN = ("stem",)
TINY = 64
"""In place of ``SPLIT_FROM``, for nets that compile in a moment."""


class Net(nnx.Module):
    """Batch norm is where devices would differ, if each took its own mean."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        # No bias: batch norm cancels it, so its gradient is rounding noise, which Adam blows up to full steps.
        self.stem = nnx.Conv(3, 16, (3, 3), use_bias=False, rngs=rngs)
        self.conv = nnx.Conv(16, 16, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.dropout = nnx.Dropout(0.2)
        self.dense = nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x, rngs=None):
        x = nnx.relu(self.norm(self.conv(self.stem(x)))).mean(axis=(1, 2))
        return self.dense(self.dropout(x, rngs=rngs))

    def training_logits(self, x, rngs):
        return self(x, rngs), None


@pytest.mark.parametrize(("shape", "parts", "axis"), [
    ((512, 512), 4, 1),
    ((512, 256), 4, 0),
    ((3, 3, 128, 256), 4, 3),
    ((3, 3, 128, 250), 4, 2),
    ((25088, 4), 8, 0),
    ((7, 9973), 4, None),
    ((256, 255), 4, None),
    ((65536,), 4, 0),
    ((512, 512), 1, None),
    ((), 4, None),
])
def test_large_arrays_are_split_along_their_largest_axis_that_divides(shape, parts, axis):
    assert split_axis(("params", "dense", "kernel"), shape, parts) == axis


def test_the_whole_state_has_a_place_but_statistics_stay_whole():
    mesh, kernel = AbstractMesh((2, 4), ("data", "fsdp")), jax.ShapeDtypeStruct((512, 512), np.float32)
    tree = {"params": {"layers": {0: kernel}}, "stats": {"a": kernel}, "opt_state": ({"mu": kernel},),
            "ema": {"params": {"stats": kernel}, "stats": {"a": kernel}}, "step": jax.ShapeDtypeStruct((), np.int32)}
    for stacked, spec in ((False, (None, "fsdp")), (True, (None, None, "fsdp"))):
        runs = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((3, *leaf.shape), leaf.dtype), tree) if stacked else tree
        found = jax.tree.map(lambda sharding: sharding.spec, layout_of(runs, mesh, stacked=stacked))
        parts = [found["params"]["layers"][0], found["opt_state"][0]["mu"], found["ema"]["params"]["stats"]]
        assert parts == [PartitionSpec(*spec)] * 3
        assert [found["stats"]["a"], found["ema"]["stats"]["a"], found["step"]] == [PartitionSpec()] * 3


@pytest.mark.parametrize(("data", "fsdp", "devices", "processes", "expected"), [
    (None, 1, 8, 1, (8, 1)),
    (None, 4, 8, 1, (2, 4)),
    (2, 2, 8, 1, (2, 2)),
    (4, 2, 8, 2, (4, 2)),
    (2, 2, 8, 2, "train.mesh.data = 2 with train.mesh.fsdp = 2 is impossible on 8 devices: .* exactly 8"),
    (None, 3, 8, 1, "train.mesh.data = None with train.mesh.fsdp = 3 is impossible on 8 devices: .* exactly 8"),
    (2, 2, 2, 1, "of at most 2"),
    (None, 4, 2, 1, "of exactly 2"),
])
def test_the_devices_form_the_mesh_asked_for_or_it_is_refused(data, fsdp, devices, processes, expected):
    config = cfg.MeshConfig(data, fsdp)
    if isinstance(expected, tuple):
        assert mesh_shape(config, devices, processes) == expected
    else:
        with pytest.raises(ConfigError, match=expected):
            mesh_shape(config, devices, processes)


def test_impossible_meshes_are_refused():
    with pytest.raises(ConfigError, match=r"train\.mesh\.fsdp = 0"):
        cfg.MeshConfig(fsdp=0)
    with pytest.raises(ConfigError, match=r"train\.mesh\.data = 0"):
        cfg.MeshConfig(data=0)


def test_the_table_names_every_parameter_and_counts_the_state():
    lines = describe_sharding(Net(), OPTIM, TRAIN, FROZEN).splitlines()
    assert lines[0].split() == ["conv/kernel", "3", "x", "3", "x", "16", "x", "16", "float32", "whole", "9,216"]
    assert len(lines) == 6 + 1 + 4 + 2
    parameters = 4 * (9 * 16 * 16 + 9 * 3 * 16 + 32 + 16 * 4 + 4)
    assert lines[7].split() == ["params", "6", "arrays", "of", f"{parameters:,}", f"{parameters:,}"]
    state = init_state(Net(), make_optimizer(OPTIM, 1), OPTIM, 0, FROZEN)
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert lines[-1].endswith(f"the state takes {total:,} bytes on each")


def test_dry_runs_print_the_table_and_train_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--dry-run", "--model.name", "lenet", "--model.image_size", "16", "16"]) == 0
    assert "1 (data) x 1 (fsdp) devices; the state takes" in capsys.readouterr().out
    assert main(["detector", "train", "--dry-run", "--recipe", "compact"]) == 0
    assert "mask/" in capsys.readouterr().out
    assert main(["train", "--dry-run", "--train.mesh.fsdp", "1000"]) == 2
    assert "train.mesh.fsdp = 1000 is impossible on" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("config", [cfg.ClassifierConfig(), cfg.DetectorConfig()])
def test_the_devices_are_no_part_of_a_run_s_identity(config):
    elsewhere = replace(config, train=replace(config.train, mesh=cfg.MeshConfig(data=8, fsdp=8), profile=True))
    assert portable(elsewhere) == portable(config)
    assert cfg.from_dict(type(config), portable(elsewhere)).train == config.train


def classifier(train, workdir, stream=None, **options):
    net, stream = Net(), stream or stream_of_images()
    return fit(net, stream, LOSS, optim=OPTIM, train=train, workdir=workdir, frozen=FROZEN,
               evaluate=evaluator(net, IMAGES, LABELS, head="softmax", batch_size=16), **options)


def stream_of_images():
    return DeviceStream(IMAGES, LABELS, [str(i) for i in range(20)], batch_size=8, seed=0)


def detector(config, workdir):
    cells = smear_arrays(draw(8, (60, 80), seed=1), config.model.class_names, config.model.canvas)
    model = build_detector(config.model)
    return fit(model, DetectionStream(cells, 8, 0), detection_loss(config), optim=config.optim, train=config.train,
               workdir=workdir, evaluate=detector_evaluator(model, cells, batch_size=8))


def lines_of(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def bytes_per_device(mesh_config):
    """Of the state before and after a step on each device, and as the table says."""
    mesh, optimizer, train = training_mesh(mesh_config), make_optimizer(OPTIM, 4), replace(TRAIN, mesh=mesh_config)
    state = init_state(Net(), optimizer, OPTIM, 0, FROZEN)
    places = layout_of(state, mesh)
    step = make_step(split(Net())[0], optimizer, LOSS, OPTIM, FROZEN, places)
    stream = stream_of_images()
    counts = []
    state = jax.device_put(state, places)
    for _ in range(2):
        counts.append({})
        for leaf in jax.tree.leaves(state):
            for piece in leaf.addressable_shards:
                counts[-1][piece.device.id] = counts[-1].get(piece.device.id, 0) + piece.data.nbytes
        state, _ = step(state, stream.resident, shard(next(stream), mesh))
    says = describe_sharding(Net(), OPTIM, train, FROZEN).rpartition("takes ")[2].partition(" ")[0]
    return [sorted(count.values()) for count in counts], int(says.replace(",", ""))


def resumed(folder):
    """Begin on 2 x 4 devices, stop, go on with one, stop, and end on 4 x 2."""
    import signal

    class Stopping(DeviceStream):
        def __next__(self):
            if self._position in (1, 2):
                signal.raise_signal(signal.SIGTERM)
            return super().__next__()

    for mesh in (cfg.MeshConfig(fsdp=4), cfg.MeshConfig(data=1), cfg.MeshConfig(fsdp=2)):
        begun = folder.exists()
        stream = Stopping(IMAGES, LABELS, [str(i) for i in range(20)], batch_size=8, seed=0)
        result = classifier(replace(TRAIN, mesh=mesh), folder, stream, resume=begun)
    return result.step, lines_of(folder)


def program(kind, folder, meshes, values):
    """What this file prints as a program, for each mesh."""
    # Compilation takes longer than everything computed here.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    done = subprocess.run([sys.executable, __file__, kind, str(folder), json.dumps(meshes), json.dumps(values)],
                          capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_alike(one, other, tolerance):
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        names = {name for name in a if any(word in name for word in ("loss", "norm", "accuracy", "iou"))}
        assert names
        for name in names:
            assert b[name] == pytest.approx(a[name], rel=tolerance, abs=tolerance / 10), (name, a["step"])


@pytest.fixture(scope="module", params=[
    [(1, 1), (8, 1), (2, 4)],
    pytest.param([(1, 1), (2, 1), (4, 1), (4, 2)], marks=pytest.mark.slow),
])
def classifiers(request, tmp_path_factory):
    """What runs on each of some meshes leave."""
    return {"meshes": request.param, **program("classifier", tmp_path_factory.mktemp("meshes"), request.param, {})}


def test_a_classifier_trains_alike_on_every_mesh(classifiers):
    """Augmentation, mixup, dropout, batch norm over the global batch, moving average, frozen parameters, early
    stopping, evaluation: to float32 rounding."""
    one, *others = classifiers["lines"]
    assert [line["step"] for line in one] == [1, 2, 2, 3, 4, 4]
    for other in others:
        assert_alike(one, other, 2e-4)


def test_the_state_is_split_in_memory(classifiers):
    split_bytes = 4 * (9 * 16 * 16 * 4 + 9 * 3 * 16 * 2 + 16 * 4 * 4)  # params, EMA; two moments of what is trained
    ((whole,), _), _ = classifiers["bytes"][0]
    for (data, fsdp), ((before, after), table) in zip(classifiers["meshes"], classifiers["bytes"], strict=True):
        assert before == after == [whole - split_bytes * (fsdp - 1) // fsdp] * data * fsdp
        assert table == before[0]


def test_a_checkpoint_goes_on_with_other_devices_and_another_mesh(classifiers):
    step, lines = classifiers["resumed"]
    assert step == 4
    assert_alike(classifiers["lines"][0], lines, 2e-4)


@pytest.mark.slow
def test_a_mask_rcnn_trains_alike_on_every_mesh(tiny_detector, tmp_path):
    """Augmentation, sampling, both stages, batch norm over the global batch, evaluation."""
    meshes = [(1, 1), (2, 1), (4, 1), (8, 1), (4, 2), (2, 4)]
    train = cfg.LoopConfig(epochs=2, batch_size=8, log_every=1)
    values = cfg.to_dict(cfg.DetectorConfig(model=tiny_detector, optim=OPTIM, train=train))
    one, *others = program("detector", tmp_path, meshes, values)["lines"]
    assert [line["step"] for line in one] == [1, 1, 2, 2]
    for other in others:
        assert_alike(one, other, 1e-3)


if __name__ == "__main__":
    layout.SPLIT_FROM = TINY
    kind, folder, shapes, values = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3]), json.loads(sys.argv[4])
    meshes = [cfg.MeshConfig(*shape) for shape in shapes]
    out = {"lines": []}
    for number, mesh in enumerate(meshes):
        workdir = folder / str(number)
        if kind == "classifier":
            classifier(replace(TRAIN, mesh=mesh), workdir)
        else:
            config = cfg.from_dict(cfg.DetectorConfig, values)
            detector(replace(config, train=replace(config.train, mesh=mesh)), workdir)
        out["lines"].append(lines_of(workdir))
    if kind == "classifier":
        out |= {"bytes": [bytes_per_device(mesh) for mesh in meshes], "resumed": resumed(folder / "resumed")}
    print(json.dumps(out))
