"""The loop: what it writes, resuming bit for bit, early stopping, signals, non-finite losses, one compilation."""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from wbcjax.config import NO_AUGMENT, OptimConfig, TrainConfig
from wbcjax.data.detection_stream import DetectionStream, fetch_instances
from wbcjax.data.device import DeviceStream
from wbcjax.data.grain_pipeline import grain_batches
from wbcjax.data.instances import DetectionArrays
from wbcjax.errors import CheckpointError, ConfigError, NonFiniteError
from wbcjax.training import Checkpoints, classification_loss, fit, loop, split
from wbcjax.training.early_stopping import EarlyStopping

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
LABELS = np.arange(12) % 3
NAMES = [f"cell_{i}.png" for i in range(12)]
TRAIN = TrainConfig(epochs=4, batch_size=4, log_every=2, label_smoothing=0.0, mixup=0.0)  # three steps an epoch
OPTIM = OptimConfig(learning_rate=0.01, ema_decay=0.9)
TIMES = ("images_per_second", "input_wait", "compile_seconds", "flops_per_second", "peak_share")


class Tiny(nnx.Module):
    """A linear layer with batch norm and dropout: everything that a step carries along, compiled in no time."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.norms = nnx.List([nnx.BatchNorm(48, rngs=rngs)])
        self.dropout = nnx.Dropout(0.3)
        self.dense = nnx.Linear(48, 3, rngs=rngs)

    def __call__(self, x, rngs=None):
        return self.dense(self.dropout(self.norms[0](x.reshape(len(x), -1)), rngs=rngs))

    def training_logits(self, x, rngs):
        return self(x, rngs), None


def device_stream():
    return DeviceStream(IMAGES, LABELS, NAMES, batch_size=4, seed=0)


def grain_stream():
    return grain_batches(list(IMAGES), LABELS, batch_size=4, seed=0)


def stopping_after(stream, batches, ask):
    """The stream, calling ``ask`` with its batch number ``batches``."""

    class Asking(type(stream)):
        def __next__(self):
            self.taken = getattr(self, "taken", 0) + 1
            if self.taken == batches:
                ask()
            return super().__next__()

    stream.__class__ = Asking
    return stream


def run(workdir, stream=None, *, train=TRAIN, optim=OPTIM, loss_fn=None, **options):
    loss_fn = loss_fn or classification_loss(NO_AUGMENT, train, num_classes=3)
    stream = device_stream() if stream is None else stream
    return fit(Tiny(), stream, loss_fn, optim=optim, train=train, workdir=workdir, **options)


def records(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def checkpoint(workdir):
    """Every array of the newest checkpoint, by name, as the loop saves them."""
    optimizer = loop.make_optimizer(OPTIM, TRAIN.epochs * 3)
    state = loop.init_state(Tiny(), optimizer, OPTIM, TRAIN.seed)
    loaded, _ = Checkpoints(workdir / "checkpoints").restore({**state, "kept": ()})
    return loaded


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def losses(*values):
    """An evaluation that gives these losses, one after another."""
    iterator = iter(values)
    return lambda params, stats: {"loss": next(iterator)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was never interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, run(workdir)


def test_a_run_ends_with_its_weights_metrics_and_checkpoint(whole):
    workdir, result = whole
    assert (result.step, result.interrupted) == (12, False)
    lines = records(workdir)
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 8, 9, 10, 12]
    assert lines[0]["epoch"] == pytest.approx(2 / 3)
    assert set(lines[0]) == {"step", "epoch", "loss", "accuracy", "gradient_norm", "parameter_norm", "learning_rate"}
    assert result.metrics == {k: lines[-1][k] for k in ("loss", "accuracy", "gradient_norm", "parameter_norm")}
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["12", "9"]
    assert_equal(checkpoint(workdir)["ema"], {"params": result.params, "stats": result.stats})


def test_speed_leaves_out_the_compilation(whole):
    workdir, _ = whole
    first, *others = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert first["compile_seconds"] > 0
    assert 4 / first["images_per_second"] < first["compile_seconds"]
    for line in others:
        assert "compile_seconds" not in line
        assert line["images_per_second"] > 0
        assert 0 <= line["input_wait"] <= 1
        # Forward, and the gradients of kernel and input: batch norm's parameters need the latter.
        assert line["flops_per_second"] == pytest.approx(3 * 2 * 48 * 3 * line["images_per_second"])
        assert line["peak_share"] > 0


def test_a_run_ends_with_a_line_of_its_speed(tmp_path, capsys):
    run(tmp_path, train=replace(TRAIN, epochs=1))
    *_, last = capsys.readouterr().err.splitlines()
    number = r"[\d,.]+(e-\d+)?"
    assert re.fullmatch(rf"train: {number} images/s  {number} GFLOP/s  {number}% of peak  {number}% input wait  "
                        rf"compiled in {number} s", last)


def test_the_model_given_is_left_as_it_was(tmp_path):
    model = Tiny()
    before = jax.tree.map(np.array, split(model)[1:])
    fit(model, device_stream(), classification_loss(NO_AUGMENT, TRAIN, num_classes=3), optim=OPTIM,
        train=replace(TRAIN, epochs=1), workdir=tmp_path)
    assert_equal(jax.tree.map(np.array, split(model)[1:]), before)


def test_training_learns(tmp_path):
    train = replace(TRAIN, epochs=40, checkpoint_every=40)
    result = run(tmp_path, train=train, optim=replace(OPTIM, learning_rate=0.05))
    assert result.metrics["loss"] < 0.5 < 0.9 < records(tmp_path)[0]["loss"]


@pytest.mark.parametrize("make_stream", [device_stream, grain_stream])
@pytest.mark.parametrize("steps", [3, 5])
def test_a_resumed_run_equals_one_that_never_stopped(tmp_path, make_stream, steps):
    """Parameters, statistics, moving average, optimiser, key, data order and metrics, bit for bit."""
    train = replace(TRAIN, epochs=3)
    run(tmp_path / "whole", make_stream(), train=train)
    ask = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    half = run(tmp_path / "half", stopping_after(make_stream(), steps, ask), train=train)
    assert (half.step, half.interrupted) == (steps, True)
    rest = run(tmp_path / "half", make_stream(), train=train, resume=True)
    assert (rest.step, rest.interrupted) == (9, False)
    assert records(tmp_path / "half") == records(tmp_path / "whole")
    assert_equal(checkpoint(tmp_path / "half"), checkpoint(tmp_path / "whole"))


def test_a_resumed_run_with_frozen_parameters_equals_one_that_never_stopped(tmp_path):
    train = replace(TRAIN, epochs=3, patience=5)
    options = {"train": train, "frozen": ("norms", "dense/bias")}
    whole = run(tmp_path / "whole", evaluate=losses(0.3, 0.2, 0.1), **options)
    ask = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    run(tmp_path / "half", stopping_after(device_stream(), 5, ask), evaluate=losses(0.3), **options)
    with pytest.raises(CheckpointError, match=r"another optimiser: opt_state .*dense\.bias"):
        run(tmp_path / "half", train=train, evaluate=losses(), resume=True)
    rest = run(tmp_path / "half", evaluate=losses(0.2, 0.1), resume=True, **options)
    assert_equal((rest.params, rest.stats), (whole.params, whole.stats))
    assert records(tmp_path / "half") == records(tmp_path / "whole")
    before = split(Tiny())[1]
    assert_equal(rest.params["norms"], before["norms"])
    assert_equal(rest.params["dense"]["bias"], before["dense"]["bias"])
    assert np.abs(rest.params["dense"]["kernel"] - before["dense"]["kernel"]).max() > 1e-3


def test_rates_slow_down_what_they_name_and_resume(tmp_path):
    """Also below frozen parameters; a run is resumed with the rates that it had."""
    options = {"train": replace(TRAIN, epochs=2), "frozen": ("dense/bias",)}
    rates = {"dense": 1e-3, "dense/bias": 0.5}
    whole = run(tmp_path / "whole", rates=rates, **options)
    ask = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    run(tmp_path / "half", stopping_after(device_stream(), 4, ask), rates=rates, **options)
    rest = run(tmp_path / "half", rates=rates, resume=True, **options)
    assert_equal((rest.params, rest.stats), (whole.params, whole.stats))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), whole.params, split(Tiny())[1])
    assert moved["dense"]["bias"] == 0 < moved["dense"]["kernel"] < 1e-4
    assert moved["norms"][0]["scale"] > 1e-3
    with pytest.raises(ConfigError, match="no parameter to give a rate below 'head': paths here begin with dense, no"):
        run(tmp_path / "none", rates={"dense": 0.5, "head": 0.5})


def test_resuming_after_a_crash_repeats_the_steps_since_the_last_checkpoint(whole, tmp_path):
    class Crash(Exception):
        pass

    def crash():
        raise Crash

    with pytest.raises(Crash):
        run(tmp_path, stopping_after(device_stream(), 9, crash))
    assert [line["step"] for line in records(tmp_path)][-1] == 8  # written after the checkpoint of step 6
    run(tmp_path, resume=True)
    assert records(tmp_path) == records(whole[0])
    assert_equal(checkpoint(tmp_path), checkpoint(whole[0]))


def test_resuming_a_run_that_is_over_returns_its_result(tmp_path):
    first = run(tmp_path, train=replace(TRAIN, epochs=1), evaluate=losses(0.7))
    again = run(tmp_path, train=replace(TRAIN, epochs=1), evaluate=losses(), resume=True)
    assert again.metrics == first.metrics
    assert again.metrics["valid_loss"] == 0.7
    assert (again.step, again.interrupted) == (3, False)
    assert_equal((again.params, again.stats), (first.params, first.stats))
    assert len(records(tmp_path)) == 3


def test_early_stopping_restores_the_best_weights(tmp_path):
    seen = []

    def evaluate(params, stats):
        seen.append(jax.tree.map(np.array, (params, stats)))
        return {"loss": [0.5, 0.3, 0.4, 0.35, 0.1][len(seen) - 1]}

    result = run(tmp_path, train=replace(TRAIN, epochs=5, patience=2), evaluate=evaluate)
    assert len(seen) == 4
    assert (result.step, result.interrupted) == (12, False)
    assert_equal(jax.tree.map(np.array, (result.params, result.stats)), seen[1])
    assert result.metrics["valid_loss"] == 0.3
    again = run(tmp_path, train=replace(TRAIN, epochs=5, patience=2), evaluate=losses(), resume=True)
    assert (again.step, again.interrupted, again.metrics) == (12, False, result.metrics)
    assert_equal((again.params, again.stats), (result.params, result.stats))


@pytest.mark.parametrize("checkpoint_every", [1, 3])
def test_early_stopping_is_remembered_over_an_interruption(tmp_path, checkpoint_every):
    train = replace(TRAIN, epochs=5, patience=2, checkpoint_every=checkpoint_every)
    whole = run(tmp_path / "whole", train=train, evaluate=losses(0.3, 0.4, 0.5))
    ask = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    run(tmp_path / "half", stopping_after(device_stream(), 7, ask), train=train, evaluate=losses(0.3, 0.4))
    rest = run(tmp_path / "half", train=train, evaluate=losses(0.5), resume=True)
    assert (rest.step, rest.metrics) == (9, whole.metrics)
    assert_equal((rest.params, rest.stats), (whole.params, whole.stats))


def test_without_patience_the_latest_weights_are_returned(tmp_path):
    result = run(tmp_path, train=replace(TRAIN, epochs=3, eval_every=2), evaluate=losses(0.1, 0.9))
    assert result.metrics["valid_loss"] == 0.9  # epoch 2, and the last in any case
    assert [line["epoch"] for line in records(tmp_path) if "valid_loss" in line] == [2, 3]


def test_early_stopping_keeps_copies():
    weights = ({"w": jnp.ones(2)}, {})
    kept = EarlyStopping(1, weights)
    kept.update({"valid_loss": 1.0}, weights)
    weights[0]["w"].delete()
    np.testing.assert_array_equal(kept.weights[0]["w"], [1, 1])
    assert not kept.exhausted
    kept.update({"valid_loss": 1.0}, ({"w": jnp.zeros(2)}, {}))  # as good is not better
    assert kept.exhausted
    np.testing.assert_array_equal(kept.weights[0]["w"], [1, 1])


def test_early_stopping_needs_a_validation_fold(tmp_path):
    with pytest.raises(ConfigError, match=r"train\.patience = 2 needs a validation fold"):
        run(tmp_path, train=replace(TRAIN, patience=2))


def test_a_folder_is_not_overwritten_and_not_resumed_when_empty(whole, tmp_path):
    before = (whole[0] / "metrics.jsonl").read_text()
    with pytest.raises(CheckpointError, match=r"holds a run already \(step 12\)"):
        run(whole[0])
    assert (whole[0] / "metrics.jsonl").read_text() == before
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        run(tmp_path, resume=True)


def test_another_model_is_refused(whole):
    class Wider(Tiny):
        def __init__(self):
            super().__init__()
            self.dense = nnx.Linear(48, 5, rngs=nnx.Rngs(0))

    with pytest.raises(CheckpointError, match=r"another model: params dense\.bias is \(3,\) there and \(5,\) here"):
        fit(Wider(), device_stream(), classification_loss(NO_AUGMENT, TRAIN, num_classes=5), optim=OPTIM, train=TRAIN,
            workdir=whole[0], resume=True)


@pytest.mark.parametrize("step", [4, 5, 6])
def test_a_loss_that_is_not_finite_names_step_quantity_and_files(tmp_path, step):
    """The step after a log line, one in the middle, and the last of an epoch, which must not reach a checkpoint."""
    plain = classification_loss(NO_AUGMENT, TRAIN, num_classes=3)
    stream = device_stream()
    names = [stream.names(next(stream)) for _ in range(step)][-1]
    bad = [name in names for name in NAMES]

    def loss_fn(model, resident, batch, key):
        loss, metrics = plain(model, resident, batch, key)
        return jnp.where(jnp.asarray(bad)[batch["index"]].all(), jnp.nan, loss), metrics

    with pytest.raises(NonFiniteError) as error:
        run(tmp_path, loss_fn=loss_fn)
    text = str(error.value)
    assert text.startswith(f"step {step}: loss is nan; the batch holds {', '.join(names)}.")
    assert Checkpoints(tmp_path / "checkpoints").latest == 3
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(checkpoint(tmp_path)))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_detection_batches_are_named_too(tmp_path):
    """The boxes of one image are not finite: the step is named that meets it, with the images of its batch."""
    boxes = np.zeros((12, 2, 4), np.float32)
    boxes[7] = np.nan
    slots = np.zeros((12, 2), np.int32)
    arrays = DetectionArrays(IMAGES, np.full((12, 2), 4, np.int32), np.ones(12, np.float32), boxes, slots, slots == 0,
                             np.zeros((12, 2, 112, 112), bool), tuple(NAMES))
    order = DetectionStream(arrays, batch_size=4, seed=0)
    batches = [order.names(next(order)) for _ in range(3)]
    step, names = next((i, n) for i, n in enumerate(batches, start=1) if NAMES[7] in n)

    def loss_fn(model, resident, batch, key):
        images, _, truth = fetch_instances(resident, batch)
        return model(images, rngs=nnx.Rngs(key)).mean() ** 2 + truth.boxes.sum(), {}

    with pytest.raises(NonFiniteError, match=f"step {step}: loss is nan; the batch holds {', '.join(names)}"):
        run(tmp_path, DetectionStream(arrays, batch_size=4, seed=0), loss_fn=loss_fn)


def test_a_rate_that_blows_up_the_parameters_is_noticed_before_the_checkpoint(tmp_path):
    optim = OptimConfig(name="sgd", learning_rate=1e38, schedule="constant", warmup=0.0, clip_norm=None)
    with pytest.raises(NonFiniteError, match="step 1: parameter_norm is inf; the batch holds cell_"):
        run(tmp_path, optim=optim)
    assert Checkpoints(tmp_path / "checkpoints").latest is None


def test_a_validation_loss_that_is_not_finite_is_named(tmp_path):
    with pytest.raises(NonFiniteError, match="step 3: valid_loss is nan; in the validation fold"):
        run(tmp_path, evaluate=losses(float("nan")))


def test_the_step_is_compiled_once(tmp_path, monkeypatch):
    """Over several epochs with evaluation and checkpoints, and after a resume; nothing but that is called."""
    steps, traces, compile_step = [], [], loop.compile_step
    plain = classification_loss(NO_AUGMENT, TRAIN, num_classes=3)

    def recording(*args):
        steps.append(compile_step(*args))
        return steps[-1]

    def loss_fn(*args):
        traces.append(len(steps))
        return plain(*args)

    monkeypatch.setattr(loop, "compile_step", recording)
    ask = lambda: signal.raise_signal(signal.SIGTERM)  # noqa: E731
    run(tmp_path, stopping_after(device_stream(), 7, ask), loss_fn=loss_fn, evaluate=losses(0.3, 0.2, 0.1))
    run(tmp_path, loss_fn=loss_fn, evaluate=losses(0.3, 0.2, 0.1), resume=True)
    assert traces == [0, 1]
    assert [type(step.call) for step in steps] == [jax.stages.Compiled] * 2


@pytest.mark.parametrize(("epochs", "batch_size"), [(1, 2), (2, 4)])
def test_a_profile_shows_steps_in_the_middle_of_the_first_epoch(tmp_path, monkeypatch, epochs, batch_size):
    """Three of six, or all there are; they are in no speed, and the numbers are those of any run."""
    traced, annotation = [], jax.profiler.StepTraceAnnotation

    def recording(name, step_num):
        traced.append(step_num)
        return annotation(name, step_num=step_num)

    monkeypatch.setattr(jax.profiler, "StepTraceAnnotation", recording)
    train = replace(TRAIN, epochs=epochs, batch_size=batch_size, profile=True)
    streams = [DeviceStream(IMAGES, LABELS, NAMES, batch_size=batch_size, seed=0) for _ in range(2)]
    run(tmp_path / "traced", streams[0], train=train)
    assert traced == ([1, 2, 3] if batch_size == 2 else [0, 1, 2])
    (file,) = (tmp_path / "traced" / "profile").rglob("*.xplane.pb")
    assert file.stat().st_size > 0
    lines = [json.loads(line) for line in (tmp_path / "traced" / "metrics.jsonl").read_text().splitlines()]
    slow = [line["step"] for line in lines if "images_per_second" not in line]
    assert slow == ([2, 4] if batch_size == 2 else [2, 3])
    assert "compile_seconds" in lines[0]
    run(tmp_path / "plain", streams[1], train=replace(train, profile=False))
    assert records(tmp_path / "traced") == records(tmp_path / "plain")
    assert not (tmp_path / "plain" / "profile").exists()


def test_a_second_interrupt_ends_at_once(tmp_path):
    # A program started in the background may ignore Ctrl-C; whatever was there must come back.
    signal.signal(signal.SIGINT, signal.default_int_handler)

    def twice():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stopping_after(device_stream(), 2, twice))
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_training_in_another_thread_leaves_signals_alone(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(run, tmp_path, train=replace(TRAIN, epochs=1)).result()
    assert result.step == 3


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_from_outside_saves_and_exits_with_0(tmp_path, number):
    """In a process of its own, in the middle of an epoch; the run then goes on to what it would have been."""
    program = textwrap.dedent(
        f"""
        import sys, time
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        import test_loop as t

        class Slow(t.DeviceStream):
            def __next__(self):
                if self._position == 4:
                    print("in the second epoch", flush=True)
                    time.sleep(20)
                return super().__next__()

        stream = Slow(t.IMAGES, t.LABELS, t.NAMES, batch_size=4, seed=0)
        result = t.run(Path({str(tmp_path)!r}), stream)
        print(result.step, result.interrupted)
        """
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                             env=os.environ | {"JAX_PLATFORMS": "cpu"})
    assert child.stdout.readline() == "in the second epoch\n"
    child.send_signal(number)
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert out == "5 True\n"
    assert "stopping after this step" in err
    run(tmp_path, resume=True)
    run(tmp_path / "whole")
    assert records(tmp_path) == records(tmp_path / "whole")
    assert_equal(checkpoint(tmp_path), checkpoint(tmp_path / "whole"))
