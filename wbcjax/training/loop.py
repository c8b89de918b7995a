"""The training loop, used by every model: a linear script from the first batch to the last checkpoint."""

import functools
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from wbcjax.config import LoopConfig, OptimConfig
from wbcjax.errors import CheckpointError, ConfigError
from wbcjax.training.checkpoint import Checkpoints
from wbcjax.training.compilation import Compile, compile_step
from wbcjax.training.early_stopping import EarlyStopping
from wbcjax.training.interruption import interruption
from wbcjax.training.layout import gather, layout_of
from wbcjax.training.mesh import check_batch_size, replicate, shard, training_mesh
from wbcjax.training.meters import Metrics, Throughput, Watch, require_finite
from wbcjax.training.optim import make_optimizer, make_schedule
from wbcjax.training.peak import peak_together
from wbcjax.training.profile import Profile
from wbcjax.training.state import LossFn, State, check_paths, eval_weights, init_state, make_step, split
from wbcjax.training.writers import ConsoleProgress, MetricsWriter


@runtime_checkable
class Stream(Protocol):
    """Training batches without end, whose position can be saved: ``DeviceStream`` or ``GrainStream``."""

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
    """Asked to stop before the end; ``resume`` goes on."""
    metrics: dict[str, float]
    """Of the last training step and, as ``valid_…``, of the evaluation that chose the weights: the best with early
    stopping, else the latest."""


def fit(
    model: nnx.Module,
    stream: Stream,
    loss_fn: LossFn,
    *,
    optim: OptimConfig,
    train: LoopConfig,
    workdir: Path,
    evaluate: Evaluate | None = None,
    frozen: tuple[str, ...] = (),
    rates: Mapping[str, float] = {},
    resume: bool = False,
    title: str = "train",
) -> FitResult:
    """Train ``model`` on ``stream`` for ``train.epochs`` epochs; the model itself is left as it was.

    Writes ``checkpoints/`` and ``metrics.jsonl`` under ``workdir``. Ctrl-C and SIGTERM finish the step, save, and
    return with ``interrupted`` set; ``resume`` continues from the newest checkpoint to results bit-identical to an
    uninterrupted run on the same devices, and on others, or another ``train.mesh``, to the same but for rounding.
    Resuming a run that is over returns its result again.

    Parameters whose path begins with one of ``frozen`` (``"backbone/layer1"``) keep their values; see
    ``state.partition``. Those below one of ``rates`` learn at this factor times the rate; see ``optim.make_optimizer``.

    Raises:
      ConfigError: if the batch cannot be split over the devices, early stopping has nothing to watch, ``frozen``
        names no parameter or all of them, or ``rates`` names none or has a factor that is not positive.
      CheckpointError: if ``workdir`` holds checkpoints and ``resume`` is not set, or none and it is.
      NonFiniteError: as soon as loss, gradient or parameters are not finite; the last checkpoint is kept.
    """
    if train.patience is not None and evaluate is None:
        raise ConfigError(f"train.patience = {train.patience} needs a validation fold to watch: give evaluate, or None")
    graphdef, params, _ = split(model)
    check_paths(params, rates, "give a rate")
    optimizer = make_optimizer(optim, train.epochs * stream.steps_per_epoch, rates)
    mesh = training_mesh(train.mesh)
    state = init_state(model, optimizer, optim, train.seed, frozen)
    layout = layout_of(state, mesh)
    step = make_step(graphdef, optimizer, loss_fn, optim, frozen, layout)
    (result,) = advance(
        functools.partial(compile_step, step), jax.device_put(state, layout), stream, mesh,
        optim=optim, train=train, workdir=workdir, evaluate=evaluate, resume=resume, title=title,
    )
    return result


def advance(
    compile_for: Compile,
    state: State,
    stream: Stream,
    mesh: Mesh,
    *,
    optim: OptimConfig,
    train: LoopConfig,
    workdir: Path,
    seeds: tuple[int, ...] = (),
    evaluate: Evaluate | None = None,
    resume: bool,
    title: str,
) -> list[FitResult]:
    """The loop itself, of ``fit`` and of ``seeds.fit_seeds``: a step over the batches of a stream.

    Args:
      compile_for: makes the step, once, for the first batch.
      state: the initial one, on the devices of ``mesh``; the step may destroy it.
      seeds: of several runs side by side, for which every array of state, batch and metrics has an axis first, except
        that the stream's ``batch_size`` is that of each run. Without, there is one run and no such axis.

    Returns:
      One result a run.
    """
    check_batch_size(stream.batch_size, mesh)
    steps_per_epoch, total = stream.steps_per_epoch, train.epochs * stream.steps_per_epoch
    learning_rates = jax.vmap(make_schedule(optim, total))(jnp.arange(total) // optim.accumulate).tolist()
    runs, batch_axis, labels = max(len(seeds), 1), int(bool(seeds)), {"seed": list(seeds)} if seeds else {}
    kept = EarlyStopping(train.patience, eval_weights(state))
    watch = Watch(stream.names)
    throughput = Throughput(runs * stream.batch_size, functools.partial(peak_together, list(mesh.devices.flat)))
    step, compiled, speed = 0, None, {}

    with closing(Checkpoints(workdir / "checkpoints")) as checkpoints:
        if resume:
            saved, memory = checkpoints.restore({**state, "kept": kept.weights})
            kept.weights, kept.metrics, kept.waited = saved.pop("kept"), memory["valid"], memory["waited"]
            state, step, watch.last = saved, memory["step"], memory["last"]
            stream.set_state(memory["stream"])
        elif checkpoints.latest is not None:
            raise CheckpointError(f"{workdir} holds a run already (step {checkpoints.latest}); --resume continues it, "
                                  "or give another folder")

        def save() -> None:
            memory = {"step": step, "stream": stream.get_state(), "last": watch.last, "valid": kept.metrics,
                      "waited": kept.waited}
            checkpoints.save(step, {**state, "kept": kept.weights}, memory)

        resident = replicate(stream.resident, mesh)
        with (
            closing(MetricsWriter(workdir, resume_step=step, tensorboard=train.tensorboard)) as writer,
            closing(ConsoleProgress(title, total, step)) as progress,
            closing(Profile(workdir / "profile" if train.profile else None, steps_per_epoch)) as profile,
            interruption() as stop,
        ):
            throughput.restart()
            while step < total and not kept.exhausted and not stop.agreed(step % train.log_every == 0):
                batch = throughput.next(stream)
                arguments = state, resident, shard(batch, mesh, batch_axis)
                if compiled is None:
                    compiled = compile_for(*arguments)
                    throughput.compiled(compiled)
                state, metrics = profile.call(compiled.call, step, *arguments)
                step += 1
                watch.put(step, metrics, batch)
                throughput.restart() if profile.covers(step - 1) else throughput.count()
                epoch_ends = step % steps_per_epoch == 0
                if step % train.log_every == 0 or epoch_ends:
                    watch.flush()
                    rates = throughput.read()
                    speed |= rates
                    for line in by_run(labels | {"epoch": step / steps_per_epoch, **watch.last,
                                                 "learning_rate": learning_rates[step - 1], **rates}, runs):
                        writer.write(step, line)
                    progress.update(step, mean_of_runs(watch.last)["loss"], rates)
                if not epoch_ends:
                    continue
                epoch = step // steps_per_epoch
                valid = {}
                if evaluate is not None and (epoch % train.eval_every == 0 or step == total):
                    weights = eval_weights(state)
                    valid = {f"valid_{name}": value for name, value in evaluate(*gather(weights, mesh)).items()}
                    require_finite(step, valid, "in the validation fold")
                    kept.update(valid, weights)
                    writer.write(step, {"epoch": float(epoch), **valid})
                if epoch % train.checkpoint_every == 0:
                    save()
                progress.line(f"epoch {epoch}/{train.epochs}", step, mean_of_runs(watch.last) | valid, speed)
                speed = {}
                throughput.restart()
            watch.flush()
            save()
            if kept.exhausted:
                progress.note(f"stopped early: no better validation loss for {kept.waited} evaluations")
            progress.speed(throughput.overall())

    weights = gather(kept.weights or eval_weights(state), mesh)
    over = step == total or kept.exhausted
    return [FitResult(*(jax.tree.map(lambda leaf: leaf[k], weights) if seeds else weights), step,  # noqa: B023
                      interrupted=not over, metrics=metrics)
            for k, metrics in enumerate(by_run(watch.last | kept.metrics, runs))]


def by_run(metrics: dict[str, Any], runs: int) -> list[dict[str, Any]]:
    """The numbers of each run: its own of those that are given for each, and those that all have in common."""
    return [{name: value[k] if isinstance(value, list) else value for name, value in metrics.items()}
            for k in range(runs)]


def mean_of_runs(metrics: Metrics) -> dict[str, float]:
    """For people to read: one number of each name."""
    return {name: float(np.mean(value)) for name, value in metrics.items()}
