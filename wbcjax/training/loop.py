"""The training loop, used by every model: a linear script from the first batch to the last checkpoint."""

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from flax import nnx

from wbcjax.config import OptimConfig, TrainConfig
from wbcjax.errors import CheckpointError, NonFiniteError
from wbcjax.training.checkpoint import Checkpoints
from wbcjax.training.mesh import check_batch_size, data_mesh, replicate, shard
from wbcjax.training.optim import make_optimizer, make_schedule
from wbcjax.training.state import LossFn, eval_weights, init_state, make_step, split
from wbcjax.training.writers import ConsoleProgress, MetricsWriter


class Stream(Protocol):
    """Training batches without end, whose position can be saved: ``DeviceStream`` or a grain iterator."""

    resident: Any
    batch_size: int
    steps_per_epoch: int

    def __next__(self) -> Any: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...
    def names(self, batch: Any) -> list[str]: ...


Evaluate = Callable[[dict, dict], dict[str, float]]
"""(params, stats) -> metrics on the validation fold, among them ``loss``, which early stopping watches."""


@dataclass(frozen=True)
class FitResult:
    """What training leaves: weights for evaluation, and how it ended."""

    params: dict
    stats: dict
    step: int
    interrupted: bool
    metrics: dict[str, float]
    """The last line: training loss, and the validation metrics of the weights returned, as ``valid_…``."""


def fit(
    model: nnx.Module,
    stream: Stream,
    loss_fn: LossFn,
    *,
    optim: OptimConfig,
    train: TrainConfig,
    workdir: Path,
    evaluate: Evaluate | None = None,
    resume: bool = False,
    title: str = "train",
) -> FitResult:
    """Train ``model`` on ``stream`` for ``train.epochs`` epochs.

    Writes ``checkpoints/`` and ``metrics.jsonl`` under ``workdir``. Ctrl-C and SIGTERM finish the step, save, and
    return with ``interrupted`` set; ``resume`` continues from the newest checkpoint to results bit-identical to an
    uninterrupted run on the same devices.

    Raises:
      ConfigError: if the batch cannot be split over the devices.
      CheckpointError: if ``workdir`` holds checkpoints and ``resume`` is not set, or none and it is.
      NonFiniteError: as soon as loss or gradient is not finite; the last checkpoint is kept.
    """
    mesh = data_mesh()
    check_batch_size(stream.batch_size, mesh)
    total = train.epochs * stream.steps_per_epoch
    optimizer = make_optimizer(optim, total)
    schedule = make_schedule(optim, -(-total // optim.accumulate))
    graphdef, _, _ = split(model)
    step_fn = make_step(graphdef, optimizer, loss_fn, optim)
    checkpoints = Checkpoints(workdir / "checkpoints")
    if checkpoints.latest is not None and not resume:
        raise CheckpointError(f"{workdir} holds a run already (step {checkpoints.latest}); --resume continues it, or "
                              "give another folder")

    state = replicate(init_state(model, optimizer, optim, train.seed), mesh)
    best, waited, best_weights = math.inf, 0, None
    step = 0
    if resume:
        state, memory = checkpoints.restore(state)
        step, best, waited = int(state["step"]), memory["best"] or math.inf, memory["waited"]
        stream.set_state(memory["stream"])
        if memory["best"] is not None:
            best_weights = Checkpoints(workdir / "best").restore({"params": eval_weights(state)[0],
                                                                 "stats": eval_weights(state)[1]})[0]
    resident = replicate(stream.resident, mesh)
    writer = MetricsWriter(workdir, resume_step=step, tensorboard=train.tensorboard)
    progress = ConsoleProgress(title, total, step)
    last: dict[str, float] = {}

    def save(best: float, waited: int) -> None:
        memory = {"stream": stream.get_state(), "best": best if math.isfinite(best) else None, "waited": waited}
        checkpoints.save(step, state, memory)

    with _interruption() as stop, mesh:
        pending = None
        clock, clocked = time.perf_counter(), step
        while step < total and not stop.requested:
            host_batch = next(stream)
            state, metrics = step_fn(state, resident, shard(host_batch, mesh))
            step += 1
            # Look at the step before this one: it is done by now, so the device never waits for the host.
            if pending is not None:
                last = _checked(*pending, stream)
            pending = (step, metrics, host_batch)
            epoch_ends = step % stream.steps_per_epoch == 0
            epoch = step // stream.steps_per_epoch
            if step % train.log_every == 0 or epoch_ends or step == total:
                last, pending = _checked(*pending, stream), None
                now = time.perf_counter()
                rate = (step - clocked) * stream.batch_size / (now - clock)
                clock, clocked = now, step
                writer.write(step, {"epoch": step / stream.steps_per_epoch, **last, "images_per_second": rate,
                                    "learning_rate": float(schedule(step // optim.accumulate))})
                progress.update(step, f"loss {last['loss']:.4f}  {rate:,.0f} images/s")
            if not epoch_ends:
                continue
            if evaluate is not None and (epoch % train.eval_every == 0 or step == total):
                weights = eval_weights(state)
                valid = {f"valid_{name}": value for name, value in evaluate(*weights).items()}
                last |= valid
                writer.write(step, {"epoch": float(epoch), **valid})
                waited += 1
                if valid["valid_loss"] < best:
                    best, waited = valid["valid_loss"], 0
                    if train.patience is not None:
                        best_weights = {"params": jax.device_get(weights[0]), "stats": jax.device_get(weights[1])}
                        keeper = Checkpoints(workdir / "best")
                        keeper.save(step, best_weights, valid)
                        keeper.close()
                clock = time.perf_counter()
            progress.line(f"epoch {epoch}/{train.epochs}  "
                          + "  ".join(f"{name} {value:.4g}" for name, value in last.items()))
            if train.patience is not None and waited >= train.patience:
                progress.line(f"stopped early: no better validation loss for {waited} evaluations")
                break
            if epoch % train.checkpoint_every == 0 and step < total:
                save(best, waited)
                clock = time.perf_counter()
        if pending is not None:
            last |= _checked(*pending, stream)
        save(best, waited)
    checkpoints.close()
    writer.close()
    progress.close()
    params, stats = eval_weights(state)
    if best_weights is not None:
        params, stats = best_weights["params"], best_weights["stats"]
    return FitResult(params, stats, step, stop.requested, last)


def _checked(step: int, metrics: dict[str, jax.Array], batch: Any, stream: Stream) -> dict[str, float]:
    """Metrics as floats.

    Raises:
      NonFiniteError: naming step, quantity and files of the batch.
    """
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    for name, value in values.items():
        if not np.isfinite(value):
            raise NonFiniteError(
                f"step {step}: {name} is {value}; the batch holds {', '.join(stream.names(batch))}. Lower "
                "optim.learning_rate, set optim.clip_norm, or look at these files"
            )
    return values


@dataclass
class _Stop:
    requested: bool = False


@contextlib.contextmanager
def _interruption() -> Iterator[_Stop]:
    """Within the block, Ctrl-C and SIGTERM ask for an orderly end; a second Ctrl-C ends at once."""
    stop = _Stop()

    def ask(signum, frame):
        stop.requested = True
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    signals = (signal.SIGINT, signal.SIGTERM)
    try:
        before = {s: signal.signal(s, ask) for s in signals}
    except ValueError:  # signals belong to the main thread; a notebook's worker thread trains without
        yield stop
        return
    try:
        yield stop
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
