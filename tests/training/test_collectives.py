"""What the devices exchange in a training step: sums, parameters that lie in parts, an image for mixup; no batch."""

import json
import os
import re
import subprocess
import sys
import types
from collections import Counter

import jax
import numpy as np
import pytest

from wbcjax import config as cfg
from wbcjax.data.detection_stream import DetectionStream
from wbcjax.data.device import DeviceStream
from wbcjax.data.instances import smear_arrays
from wbcjax.data.synthetic import draw
from wbcjax.models import build, layers
from wbcjax.models.mask_rcnn import build_detector
from wbcjax.training import classification_loss, layout, split
from wbcjax.training.detector import detection_loss
from wbcjax.training.mesh import replicate, shard, training_mesh
from wbcjax.training.optim import make_optimizer
from wbcjax.training.state import init_state, make_step

DEVICES, BATCH = 4, 32
OPTIM = cfg.OptimConfig(ema_decay=0.9)
COLLECTIVE = re.compile(r"= (.*?) (all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


def classifier():
    """Custom CNN 1 with every change of images that the recommended training makes, and mixup."""
    config = cfg.AugmentConfig(noise=0.45, noise_share=0.5, corruption=0.5)
    images = np.zeros((BATCH, 64, 64, 3), np.uint8)
    stream = DeviceStream(images, np.arange(BATCH) % 4, [""] * BATCH, batch_size=BATCH, seed=0)
    model = build(cfg.ModelConfig(name="custom1", image_size=(64, 64)), 0)
    return model, stream, classification_loss(config, cfg.TrainConfig(batch_size=BATCH, mixup=0.2), num_classes=4)


def detector(model_config):
    """A tiny Mask R-CNN."""
    cells = smear_arrays(draw(BATCH, (60, 80), seed=1), model_config.class_names, model_config.canvas)
    config = cfg.DetectorConfig(model=model_config)
    return build_detector(model_config), DetectionStream(cells, BATCH, 0), detection_loss(config)


def exchanged(model, stream, loss_fn, fsdp, runs):
    """Each collective of the compiled step, [kind, shapes, operation], and the shapes of the parameters.

    Args:
      runs: more than one for as many side by side, as those of several seeds.
    """
    mesh, optimizer = training_mesh(cfg.MeshConfig(fsdp=fsdp)), make_optimizer(OPTIM, 1)
    state, batch = init_state(model, optimizer, OPTIM, 0), next(stream)
    places = layout.layout_of(state, mesh)
    step = make_step(split(model)[0], optimizer, loss_fn, OPTIM, layout=places)
    if runs > 1:
        state, batch = jax.tree.map(lambda leaf: np.stack([leaf] * runs), (state, batch))
        step, places = jax.jit(jax.vmap(step, in_axes=(0, None, 0))), layout.layout_of(state, mesh, stacked=True)
    compiled = step.lower(jax.device_put(state, places), replicate(stream.resident, mesh),
                          shard(batch, mesh, int(runs > 1))).compile()
    found = [[match[2], match[1], line.partition('op_name="')[2].partition('"')[0]]
             for line in compiled.as_text().splitlines() if (match := COLLECTIVE.search(line))]
    return found, ["x".join(map(str, leaf.shape)) for leaf in jax.tree.leaves(state["params"])]


@pytest.fixture(scope="module")
def steps(tiny_detector):
    """Of each step, as this file prints them as a program."""
    flags = f"--xla_force_host_platform_device_count={DEVICES} --xla_backend_optimization_level=0"
    values = json.dumps(cfg.to_dict(cfg.DetectorConfig(model=tiny_detector)))
    done = subprocess.run([sys.executable, __file__, values], capture_output=True, text=True,
                          env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def is_neighbour(one):
    """Whether a collective moves one image, or its targets, to the next device."""
    kind, shapes, operation = one
    return kind == "collective-permute" and "roll" in operation and re.match(r"f32\[(2,)?1,", shapes) is not None


@pytest.mark.parametrize("kind", ["classifier", "detector"])
@pytest.mark.parametrize("step", ["cpu 1 1", "accelerator 1 1", "accelerator 1 2"])
def test_only_sums_are_exchanged_and_none_in_a_loop(steps, kind, step):
    found, _ = steps[f"{kind} {step}"]
    assert found
    assert [one for one in found if (one[0] != "all-reduce" and not is_neighbour(one)) or "while" in one[2]] == []


@pytest.mark.parametrize("kind", ["classifier", "detector"])
def test_of_a_split_state_parameters_alone_are_gathered(steps, kind):
    found, parameters = steps[f"{kind} accelerator 2 1"]
    gathered = Counter(one[1].partition("[")[2].partition("]")[0].replace(",", "x") for one in found
                       if one[0] == "all-gather")
    assert gathered and gathered <= Counter(parameters)
    assert all(one[0] in ("all-gather", "all-reduce") or is_neighbour(one) for one in found)
    assert not any("while" in one[2] for one in found)


if __name__ == "__main__":
    layout.SPLIT_FROM = 64
    config = cfg.from_dict(cfg.DetectorConfig, json.loads(sys.argv[1])).model
    out = {}
    for rules, fsdp, runs in (("cpu", 1, 1), ("accelerator", 1, 1), ("accelerator", 2, 1), ("accelerator", 1, 2)):
        if rules == "accelerator":  # its layers, partitioned and compiled for this machine's CPU all the same
            layers.jax = types.SimpleNamespace(**{**vars(jax), "default_backend": lambda: "tpu"})
        for kind, parts in (("classifier", classifier()), ("detector", detector(config))):
            out[f"{kind} {rules} {fsdp} {runs}"] = exchanged(*parts, fsdp, runs)
    print(json.dumps(out))
