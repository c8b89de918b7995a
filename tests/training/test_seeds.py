"""Several seeds side by side: each gets what it would get alone, and the whole resumes as one run does."""

import json
import signal
import sys
import types
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import AugmentConfig, OptimConfig, TrainConfig
from wbcjax.data.device import DeviceStream
from wbcjax.errors import CheckpointError, ConfigError, NonFiniteError
from wbcjax.training import Checkpoints, classification_loss, fit, seeds
from wbcjax.training.seeds import SeedStreams, fit_seeds
from wbcjax.training.writers import MetricsWriter

SEEDS = (0, 3, 5)
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3
NAMES = [f"cell_{i}.png" for i in range(12)]
TRAIN = TrainConfig(epochs=2, batch_size=4, log_every=2)  # three steps an epoch
OPTIM = OptimConfig(learning_rate=0.01, ema_decay=0.9)
LOSS = classification_loss(AugmentConfig(), TRAIN, num_classes=3)


class Net(nnx.Module):
    """Convolution, batch norm, dropout: everything that a step carries along, with other weights for each seed."""

    def __init__(self, seed):
        rngs = nnx.Rngs(seed)
        self.conv = nnx.Conv(3, 4, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.3)
        self.dense = nnx.Linear(4, 3, rngs=rngs)

    def training_logits(self, x, rngs):
        x = nnx.relu(self.norm(self.conv(x))).mean(axis=(1, 2))
        return self.dense(self.dropout(x, rngs=rngs)), None


def stream_of(seed):
    return DeviceStream(IMAGES, LABELS, NAMES, batch_size=4, seed=seed)


def stopping_at(batches):
    """A stream of the first seed that asks the process to stop at its batch of that number."""

    class Stopping(DeviceStream):
        def __next__(self):
            if self._position == batches - 1:
                signal.raise_signal(signal.SIGTERM)
            return super().__next__()

    return Stopping(IMAGES, LABELS, NAMES, batch_size=4, seed=SEEDS[0])


def run(workdir, *, streams=None, chosen=SEEDS, train=TRAIN, loss_fn=LOSS, **options):
    streams = [stream_of(seed) for seed in chosen] if streams is None else streams
    return fit_seeds([Net(seed) for seed in chosen], streams, loss_fn, optim=OPTIM, train=train, workdir=workdir,
                     seeds=chosen, **options)


def records(workdir, seed=None):
    """Lines of the metrics file without times, of one seed without its name."""
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    times = ("images_per_second", "input_wait", "compile_seconds", "flops_per_second", "peak_share")
    lines = [{k: v for k, v in line.items() if k not in times} for line in lines]
    return lines if seed is None else [{k: v for k, v in line.items() if k != "seed"} for line in lines
                                       if line["seed"] == seed]


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Folder and result of ``fit`` for each seed."""
    out = {}
    for seed in SEEDS:
        workdir = tmp_path_factory.mktemp("alone")
        result = fit(Net(seed), stream_of(seed), LOSS, optim=OPTIM, train=replace(TRAIN, seed=seed), workdir=workdir)
        out[seed] = workdir, result
    return out


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("together")
    return workdir, run(workdir)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="elsewhere seeds are batched, and round in another way")
def test_on_a_cpu_each_seed_gets_every_bit_that_it_would_get_alone(alone, together):
    workdir, results = together
    assert len(results) == len(SEEDS)
    for seed, result in zip(SEEDS, results, strict=True):
        folder, expected = alone[seed]
        assert_equal((result.params, result.stats), (expected.params, expected.stats))
        assert (result.step, result.interrupted, result.metrics) == (6, False, expected.metrics)
        assert records(workdir, seed) == records(folder)
    kernels = [np.asarray(result.params["dense"]["kernel"]) for result in results]
    assert not np.allclose(kernels[0], kernels[1], atol=1e-2)


def test_the_batched_step_of_accelerators_agrees_to_rounding(alone, tmp_path, monkeypatch):
    monkeypatch.setattr(seeds.jax, "default_backend", lambda: "gpu")
    for seed, result in zip(SEEDS, run(tmp_path), strict=True):
        expected = alone[seed][1]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), (result.params, result.stats),
                     (expected.params, expected.stats))
        assert result.metrics == pytest.approx(expected.metrics, rel=1e-3)


def test_there_is_a_line_a_seed_and_step(together):
    workdir, _ = together
    lines = records(workdir)
    assert [(line["step"], line["seed"]) for line in lines] == [(k, seed) for k in (2, 3, 4, 6) for seed in SEEDS]
    assert len({line["loss"] for line in lines}) == len(lines)


def test_tensorboard_tells_the_seeds_apart(tmp_path, monkeypatch):
    written = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            self.add_scalar = lambda name, value, step: written.append((name, value, step))

        def close(self):
            pass

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=SummaryWriter))
    writer = MetricsWriter(tmp_path, tensorboard=True)
    writer.write(2, {"seed": 3, "loss": 0.5})
    writer.close()
    assert written == [("seed3/loss", 0.5, 2)]


@pytest.mark.parametrize("steps", [2, 4])
def test_resumed_seeds_equal_those_that_never_stopped(together, tmp_path, steps):
    half = run(tmp_path, streams=[stopping_at(steps), *map(stream_of, SEEDS[1:])])
    assert [(result.step, result.interrupted) for result in half] == [(steps, True)] * 3
    rest = run(tmp_path, resume=True)
    assert records(tmp_path) == records(together[0])
    for result, expected in zip(rest, together[1], strict=True):
        assert_equal((result.params, result.stats), (expected.params, expected.stats))
        assert result.metrics == expected.metrics


def test_a_run_that_is_over_returns_its_results_and_is_not_overwritten(together):
    workdir, results = together
    with pytest.raises(CheckpointError, match=r"holds a run already \(step 6\)"):
        run(workdir)
    again = run(workdir, resume=True)
    assert [result.metrics for result in again] == [result.metrics for result in results]
    assert_equal([result.params for result in again], [result.params for result in results])


def test_the_checkpoint_of_other_seeds_is_refused(together):
    with pytest.raises(CheckpointError, match=r"is of the seeds \[0, 3, 5\], not \[0, 3, 6\]"):
        run(together[0], chosen=(0, 3, 6), resume=True)
    with pytest.raises(CheckpointError, match=r"another model: params conv\.kernel is \(3, 3, 3, 3, 4\) there and"):
        run(together[0], chosen=(0, 3), resume=True)


def test_one_seed_is_a_run_with_an_axis(alone, tmp_path):
    (result,) = run(tmp_path, chosen=(3,))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), result.params, alone[3][1].params)
    assert {line["seed"] for line in records(tmp_path)} == {3}


def test_frozen_parameters_and_rates_are_those_of_each_seed(tmp_path):
    results = run(tmp_path, train=replace(TRAIN, epochs=1), frozen=("conv",), rates={"norm": 1e-3})
    for seed, result in zip(SEEDS, results, strict=True):
        before = Net(seed)
        np.testing.assert_array_equal(result.params["conv"]["kernel"], before.conv.kernel[...])
        assert 0 < np.abs(result.params["norm"]["scale"] - before.norm.scale[...]).max() < 1e-4
        assert np.abs(result.params["dense"]["kernel"] - before.dense.kernel[...]).max() > 1e-4
    with pytest.raises(ConfigError, match="no parameter to give a rate below 'backbone'"):
        run(tmp_path / "none", rates={"backbone": 0.5})


def test_a_loss_that_is_not_finite_names_the_files_of_each_seed(tmp_path):
    def loss_fn(model, resident, batch, key):
        loss, metrics = LOSS(model, resident, batch, key)
        return jnp.where((batch["index"] == 7).any(), jnp.nan, loss), metrics

    order = [stream_of(seed) for seed in SEEDS]
    batches = [[next(stream)["index"] for stream in order] for _ in range(3)]
    step, parts = next((k, parts) for k, parts in enumerate(batches, 1) if any(7 in part for part in parts))
    seed, part = next((seed, part) for seed, part in zip(SEEDS, parts, strict=True) if 7 in part)
    with pytest.raises(NonFiniteError) as error:
        run(tmp_path, loss_fn=loss_fn)
    assert str(error.value).startswith(f"step {step}: loss is [")
    assert all(f"cell_{index}.png (seed {seed})" in str(error.value) for index in part)
    assert Checkpoints(tmp_path / "checkpoints").latest is None


def test_seeds_cannot_stop_early(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.patience = 2 is impossible for several seeds side by side"):
        run(tmp_path, train=replace(TRAIN, patience=2))


@pytest.mark.parametrize("chosen", [(), (1, 1)])
def test_seeds_are_some_and_differ(tmp_path, chosen):
    with pytest.raises(ConfigError, match="expected at least one seed, each once"):
        run(tmp_path, chosen=chosen)


def test_a_stream_is_missing(tmp_path):
    with pytest.raises(ConfigError, match="with 3 models and 2 streams is impossible"):
        run(tmp_path, streams=[stream_of(0), stream_of(3)])


@pytest.mark.parametrize("other", [
    DeviceStream(IMAGES.copy(), LABELS, NAMES, batch_size=4, seed=1),
    DeviceStream(IMAGES, LABELS, NAMES, batch_size=3, seed=1),
])
def test_streams_share_their_data(other):
    with pytest.raises(ConfigError, match="must share one data set, batch size and length"):
        SeedStreams([stream_of(0), other], (0, 1))


def test_streams_side_by_side_keep_their_positions():
    both, alone = SeedStreams([stream_of(0), stream_of(1)], (0, 1)), [stream_of(0), stream_of(1)]
    assert both.steps_per_epoch == 3
    for _ in range(4):
        batch = next(both)
        expected = [next(stream) for stream in alone]
        np.testing.assert_array_equal(batch["index"], [part["index"] for part in expected])
    assert both.names(batch) == [f"cell_{i}.png (seed {seed})" for seed in (0, 1) for i in expected[seed]["index"]]
    again = SeedStreams([stream_of(0), stream_of(1)], (0, 1))
    again.set_state(json.loads(json.dumps(both.get_state())))
    np.testing.assert_array_equal(next(again)["index"], next(both)["index"])
