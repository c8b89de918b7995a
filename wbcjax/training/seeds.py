"""Several runs that differ in their seed alone, side by side in one process that holds the data once."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from wbcjax.config import LoopConfig, OptimConfig
from wbcjax.errors import CheckpointError, ConfigError
from wbcjax.training.compilation import Compile, CompiledStep, compile_step
from wbcjax.training.layout import layout_of
from wbcjax.training.loop import FitResult, Stream, advance
from wbcjax.training.mesh import batch_sharding, training_mesh
from wbcjax.training.optim import make_optimizer
from wbcjax.training.state import LossFn, State, StepFn, check_paths, init_state, split, step_function


class SeedStreams:
    """The streams of several seeds as one: its batches are theirs, stacked."""

    def __init__(self, streams: Sequence[Stream], seeds: Sequence[int]):
        """Take one stream a seed, over the same resident data.

        Raises:
          ConfigError: if their data, batch sizes or lengths differ.
        """
        first = streams[0]
        if any(stream.batch_size != first.batch_size or stream.steps_per_epoch != first.steps_per_epoch
               or not _same(stream.resident, first.resident) for stream in streams):
            raise ConfigError("the streams of several seeds must share one data set, batch size and length: make each "
                              "of the same arrays, with a seed of its own")
        self.resident, self.batch_size, self.steps_per_epoch = first.resident, first.batch_size, first.steps_per_epoch
        self._streams, self._seeds = tuple(streams), tuple(seeds)

    def __next__(self) -> Any:
        """The next batch of each seed, stacked along a first axis."""
        return jax.tree.map(lambda *leaves: np.stack(leaves), *[next(stream) for stream in self._streams])

    def get_state(self) -> dict[str, Any]:
        """The position of each stream, and whose it is."""
        return {"seeds": list(self._seeds), "streams": [stream.get_state() for stream in self._streams]}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue after the batches at which ``state`` was taken.

        Raises:
          CheckpointError: if it is that of other seeds.
        """
        if state["seeds"] != list(self._seeds):
            raise CheckpointError(f"the checkpoint is of the seeds {state['seeds']}, not {list(self._seeds)}; give "
                                  "those in this order, or another folder")
        for stream, its_state in zip(self._streams, state["streams"], strict=True):
            stream.set_state(its_state)

    def names(self, batch: Any) -> list[str]:
        """File names of a batch, with the seed in whose batch each is."""
        return [f"{name} (seed {seed})"
                for stream, seed, part in zip(self._streams, self._seeds, _unstacked(batch), strict=True)
                for name in stream.names(part)]


def _same(one: Any, other: Any) -> bool:
    """Whether two trees hold the very same arrays."""
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        a is b for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def side_by_side(step: StepFn, layout: State, layouts: State) -> Compile:
    """The step of several runs, whose states, batches and metrics are stacked; resident data is common to all.

    It is given its states for good. On accelerators the runs are one batched computation. On a CPU, whose cores a
    single run keeps busy, they take turns with one compiled step, that of ``fit``, to the same bits: batched
    convolutions become grouped ones there, three to four times as slow, and a loop inside the program (``lax.map``)
    takes a third longer.

    Args:
      layout: of the state of one run, on the devices.
      layouts: of the stacked states.
    """
    whole = layout["step"]
    if jax.default_backend() != "cpu":
        batched = jax.vmap(step, in_axes=(0, None, 0))
        return functools.partial(compile_step, jax.jit(batched, donate_argnums=0, out_shardings=(layouts, whole)))
    step_of_one = jax.jit(step, donate_argnums=0, out_shardings=(layout, whole))

    def compile_in_turn(states: State, resident: Any, batches: Any) -> CompiledStep:
        runs = len(states["step"])
        stacked = jax.jit(_stacked, out_shardings=(layouts, whole))
        split_states = jax.jit(_unstacked, out_shardings=[layout] * runs)
        split_batches = jax.jit(_unstacked, out_shardings=[batch_sharding(whole.mesh)] * runs)
        one = compile_step(step_of_one, split_states(states)[0], resident, split_batches(batches)[0])

        def in_turn(states: State, resident: Any, batches: Any) -> tuple[State, dict[str, Array]]:
            pairs = zip(split_states(states), split_batches(batches), strict=True)
            return stacked([one.call(state, resident, batch) for state, batch in pairs])

        flops = one.flops and {kind: runs * count for kind, count in one.flops.items()}
        return replace(one, call=in_turn, flops=flops)

    return compile_in_turn


def _stacked(trees: Sequence[Any]) -> Any:
    """One tree whose arrays have an axis for ``trees`` first."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _unstacked(tree: Any) -> list[Any]:
    """What ``_stacked`` was given."""
    return [jax.tree.map(lambda leaf: leaf[k], tree) for k in range(len(jax.tree.leaves(tree)[0]))]  # noqa: B023


def fit_seeds(
    models: Sequence[nnx.Module],
    streams: Sequence[Stream],
    loss_fn: LossFn,
    *,
    optim: OptimConfig,
    train: LoopConfig,
    workdir: Path,
    seeds: Sequence[int],
    frozen: tuple[str, ...] = (),
    rates: Mapping[str, float] = {},
    resume: bool = False,
    title: str = "train",
) -> list[FitResult]:
    """``fit`` for each of ``seeds`` at once: as many runs with the results that each would have alone.

    Everything is as in ``fit``, with common checkpoints, and one line a seed in ``metrics.jsonl``, which names it;
    ``images_per_second`` there counts the images of all. ``train.seed`` is not used.

    Args:
      models: of one architecture, each with the initial weights of its seed.
      streams: over the same resident data, each in the order of its seed.
      seeds: of the random keys.

    Returns:
      One result a seed, in their order.

    Raises:
      ConfigError: as in ``fit``; if early stopping is asked for, which would end each run at a time of its own; or if
        the streams differ in more than their order.
      CheckpointError, NonFiniteError: as in ``fit``, and if the checkpoint is of other seeds.
    """
    if train.patience is not None:
        raise ConfigError(f"train.patience = {train.patience} is impossible for several seeds side by side, which end "
                          "together: expected None; train one seed at a time to stop early")
    if not len(models) == len(streams) == len(seeds) == len(set(seeds)) > 0:
        raise ConfigError(f"seeds = {tuple(seeds)} with {len(models)} models and {len(streams)} streams is impossible: "
                          "expected at least one seed, each once, with a model and a stream of its own")
    stream = SeedStreams(streams, seeds)
    graphdef, params, _ = split(models[0])
    check_paths(params, rates, "give a rate")
    optimizer = make_optimizer(optim, train.epochs * stream.steps_per_epoch, rates)
    states = [init_state(model, optimizer, optim, seed, frozen) for model, seed in zip(models, seeds, strict=True)]
    mesh, state = training_mesh(train.mesh), _stacked(states)
    layout, layouts = layout_of(states[0], mesh), layout_of(state, mesh, stacked=True)
    step = step_function(graphdef, optimizer, loss_fn, optim, frozen, layout)
    return advance(
        side_by_side(step, layout, layouts), jax.device_put(state, layouts), stream, mesh,
        optim=optim, train=train, workdir=workdir, seeds=tuple(seeds), resume=resume, title=title,
    )
