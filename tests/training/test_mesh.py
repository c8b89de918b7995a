"""One device and several give the same training; batches that cannot be shared are refused."""

import json
import os
import socket
import subprocess
import sys
import textwrap

import jax
import numpy as np
import pytest

from wbcjax.errors import ConfigError
from wbcjax.training.mesh import check_batch_size, data_mesh, replicate, shard

PROGRAM = textwrap.dedent(
    """
    import json, sys, tempfile
    from pathlib import Path
    import jax, numpy as np
    from flax import nnx
    from wbcjax.config import AugmentConfig, OptimConfig, TrainConfig
    from wbcjax.data.device import DeviceStream
    from wbcjax.training import classification_loss, evaluator, fit

    if len(sys.argv) > 2:
        jax.distributed.initialize(sys.argv[2], 2, int(sys.argv[3]))

    class Net(nnx.Module):  # batch norm is where devices would differ, if each took its own mean
        def __init__(self):
            rngs = nnx.Rngs(0)
            # No bias: batch norm cancels it, so its gradient is rounding noise, which Adam blows up to full steps.
            self.conv = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
            self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
            self.dropout = nnx.Dropout(0.2)
            self.dense = nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, x, rngs=None):
            return self.dense(self.dropout(nnx.relu(self.norm(self.conv(x))).mean(axis=(1, 2)), rngs=rngs))

        def training_logits(self, x, rngs):
            return self(x, rngs), None

    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (27, 8, 8, 3), dtype=np.uint8), np.arange(27) % 3
    stream = DeviceStream(images, labels, [str(i) for i in range(27)], batch_size=8, seed=0)
    train = TrainConfig(epochs=2, batch_size=8, log_every=1, mixup=0.2)
    net = Net()
    result = fit(net, stream, classification_loss(AugmentConfig(), train, num_classes=3),
                 optim=OptimConfig(learning_rate=0.01, ema_decay=0.9), train=train, workdir=Path(sys.argv[1]),
                 evaluate=evaluator(net, images, labels, head="softmax", batch_size=10))
    lines = [json.loads(line) for line in (Path(sys.argv[1]) / "metrics.jsonl").read_text().splitlines()]
    print(json.dumps({"devices": jax.device_count(), "lines": lines,
                      "mean": np.asarray(result.stats["norm"]["mean"]).tolist()}))
    """
)


def start_on(devices, workdir, *process):
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(workdir), *process], env=env, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def result_of(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return json.loads(out.splitlines()[-1])  # after what gloo prints


def test_one_and_four_devices_train_alike(tmp_path):
    """Augmentation, mixup, dropout, global batch norm statistics, evaluation: to float32 rounding."""
    one, four = map(result_of, [start_on(1, tmp_path / "one"), start_on(4, tmp_path / "four")])
    assert_alike(one, four)


@pytest.mark.slow
def test_two_processes_of_two_devices_train_like_one_device(tmp_path):
    """Each reads its share of a batch, both evaluate, and one writes the metrics."""
    one = result_of(start_on(1, tmp_path / "one"))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    pair = [start_on(2, tmp_path / "two", address, str(index)) for index in (0, 1)]
    for two in map(result_of, pair):
        assert_alike(one, two)


def assert_alike(one, four):
    assert (one["devices"], four["devices"]) == (1, 4)
    np.testing.assert_allclose(four["mean"], one["mean"], rtol=1e-4, atol=1e-5)
    assert len(one["lines"]) == len(four["lines"]) == 8
    for a, b in zip(one["lines"], four["lines"], strict=True):
        for name in a.keys() & {"loss", "gradient_norm", "parameter_norm", "valid_loss", "valid_accuracy"}:
            assert b[name] == pytest.approx(a[name], rel=2e-4), (name, a["step"])


def test_the_mesh_spans_all_devices():
    mesh = data_mesh()
    assert mesh.axis_names == ("data",)
    assert mesh.size == jax.device_count()


def test_a_batch_that_cannot_be_split_names_the_next_that_can():
    eight = jax.sharding.AbstractMesh((8,), ("data",))
    with pytest.raises(ConfigError, match=r"train\.batch_size = 33 cannot be split over 8 devices: .* e\.g\. 40"):
        check_batch_size(33, eight)
    check_batch_size(32, eight)


def test_replicating_and_sharding_keep_the_values():
    mesh = data_mesh()
    tree = {"a": np.arange(4 * mesh.size, dtype=np.float32), "b": [np.ones((mesh.size, 2), np.float32)]}
    for place in (replicate, shard):
        jax.tree.map(np.testing.assert_array_equal, place(tree, mesh), tree)
