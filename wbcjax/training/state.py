"""The training state, one pytree of plain arrays, and the jitted step that advances it.

Modules appear only while the step is traced: the state holds their arrays in nested dicts, which JAX flattens in C++,
so one call costs little Python and the state goes to a checkpoint as it is.
"""

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import use_abstract_mesh
from jaxtyping import Array, Float

from wbcjax.config import OptimConfig
from wbcjax.errors import ConfigError

State = dict[str, Any]
"""params, stats (batch norm), opt_state (of the params to train), ema (of params and stats, or empty), step, key.

The key is its plain data: arrays of keys cannot be placed on the devices of other processes."""

StepFn = Callable[[State, Any, Any], tuple[State, dict[str, Array]]]
"""(state, resident data, batch) -> (state, metrics)."""

LossFn = Callable[[nnx.Module, Any, Any, Array], tuple[Float[Array, ""], dict[str, Array]]]
"""(model, resident data, batch, key) -> (loss, metrics); augmentation belongs to it, so it runs under jit."""


def split(model: nnx.Module) -> tuple[nnx.GraphDef, dict, dict]:
    """The model's structure, its parameters and its batch statistics, the latter two as nested dicts of arrays."""
    graphdef, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    return graphdef, nnx.to_pure_dict(params), nnx.to_pure_dict(stats)


def merge(graphdef: nnx.GraphDef, params: dict, stats: dict, *, training: bool) -> nnx.Module:
    """The model again, in training or evaluation mode."""
    model = nnx.merge(graphdef, params, stats)
    if training:
        model.train()
    else:
        model.eval()
    return model


def is_below(path: Iterable[Any], name: str) -> bool:
    """Whether the parameter at ``path`` lies below ``name``, the beginning of a path, of whole components."""
    return "/".join([*map(str, path), ""]).startswith(f"{name}/")


def check_paths(params: dict, names: Iterable[str], purpose: str) -> None:
    """Refuse beginnings of paths that fit no parameter.

    Args:
      purpose: what is done to the parameters below them, for the message.

    Raises:
      ConfigError: naming the first such beginning, and where paths do begin.
    """
    paths = nnx.traversals.flatten_mapping(params).keys()
    for name in names:
        if not any(is_below(path, name) for path in paths):
            known = sorted({str(path[0]) for path in paths})
            raise ConfigError(f"no parameter to {purpose} below {name!r}: paths here begin with {', '.join(known)}")


def partition(params: dict, frozen: tuple[str, ...]) -> tuple[dict, dict]:
    """The parameters to train, and those that keep their values, as two nested dicts; ``join`` undoes it.

    Args:
      frozen: beginnings of paths, such as ``"backbone/layer1"``, of whole components: this one spares ``layer10``.

    Raises:
      ConfigError: if a beginning fits no parameter, or nothing is left to train.
    """
    if not frozen:
        return params, {}
    check_paths(params, frozen, "freeze")
    flat = nnx.traversals.flatten_mapping(params)
    fixed = {path: value for path, value in flat.items() if any(is_below(path, name) for name in frozen)}
    trained = {path: value for path, value in flat.items() if path not in fixed}
    if not trained:
        raise ConfigError(f"freezing {', '.join(frozen)} leaves no parameter to train; freeze fewer")
    return nnx.traversals.unflatten_mapping(trained), nnx.traversals.unflatten_mapping(fixed)


def join(params: dict, others: dict) -> dict:
    """One nested dict of both; where both have an array, that of ``others``."""
    flatten = nnx.traversals.flatten_mapping
    return nnx.traversals.unflatten_mapping({**flatten(params), **flatten(others)})


def init_state(
    model: nnx.Module,
    optimizer: optax.GradientTransformation,
    config: OptimConfig,
    seed: int,
    frozen: tuple[str, ...] = (),
) -> State:
    """A fresh state of ``model``, whose own arrays it copies: the step donates its input, and so destroys it.

    Raises:
      ConfigError: as ``partition`` does.
    """
    _, params, stats = jax.tree.map(jnp.copy, split(model))
    ema = {"params": params, "stats": stats} if config.ema_decay else {}
    return {
        "params": params,
        "stats": stats,
        "opt_state": optimizer.init(partition(params, frozen)[0]),
        # Another copy: no buffer may be donated twice.
        "ema": jax.tree.map(jnp.copy, ema),
        "step": jnp.zeros((), jnp.int32),
        "key": jax.random.key_data(jax.random.key(seed)),
    }


def eval_weights(state: State) -> tuple[dict, dict]:
    """The (params, stats) to evaluate with: the moving average where there is one."""
    return (state["ema"]["params"], state["ema"]["stats"]) if state["ema"] else (state["params"], state["stats"])


def step_function(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    loss_fn: LossFn,
    config: OptimConfig,
    frozen: tuple[str, ...] = (),
    layout: State | None = None,
) -> StepFn:
    """One training step as a pure function, to be compiled.

    The metrics are ``loss``, ``gradient_norm`` and ``parameter_norm`` after the step, and those of ``loss_fn``. Only
    parameters that are trained have a gradient, an update and a part in the norms; those at ``frozen`` paths stay bit
    for bit what they are.

    Everything random derives from the state's key and step, so a resumed run repeats exactly.

    Args:
      layout: the sharding of each array of the state (``layout.layout_of``). Where some are split, each device has all
        parameters while it computes on its images, and the gradients of its part afterwards.
    """
    is_split = layout is not None and layout["step"].mesh.shape["fsdp"] > 1

    def whole(params):
        return jax.lax.with_sharding_constraint(params, layout["step"]) if is_split else params

    def in_parts(grads):
        return jax.lax.with_sharding_constraint(grads, partition(layout["params"], frozen)[0]) if is_split else grads

    def step(state: State, resident: Any, batch: Any) -> tuple[State, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])
        trained, fixed = partition(state["params"], frozen)

        def objective(trained):
            model = merge(graphdef, whole(join(trained, fixed)), state["stats"], training=True)
            loss, metrics = loss_fn(model, resident, batch, key)
            return loss, (metrics, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        with contextlib.nullcontext() if layout is None else use_abstract_mesh(layout["step"].mesh.abstract_mesh):
            (loss, (metrics, stats)), grads = jax.value_and_grad(objective, has_aux=True)(trained)
        grads = in_parts(grads)
        updates, opt_state = optimizer.update(grads, state["opt_state"], trained)
        trained = optax.apply_updates(trained, updates)
        params = join(trained, fixed)
        ema = state["ema"]
        if config.ema_decay:
            # Young averages forget faster, so that the initial weights do not linger; one update counts once.
            count = state["step"] // config.accumulate
            decay = jnp.minimum(config.ema_decay, (1 + count) / (10 + count))
            decay = jnp.where((state["step"] + 1) % config.accumulate == 0, decay, 1.0)
            current = {"params": params, "stats": stats}
            ema = jax.tree.map(lambda average, new: average * decay + new * (1 - decay), ema, current)
            ema["params"] = join(ema["params"], fixed)  # an average of equal numbers may be off by a rounding error
        new = {
            "params": params,
            "stats": stats,
            "opt_state": opt_state,
            "ema": ema,
            "step": state["step"] + 1,
            "key": state["key"],
        }
        norms = {"gradient_norm": optax.tree.norm(grads), "parameter_norm": optax.tree.norm(trained)}
        return new, {"loss": loss, **norms, **metrics}

    return step


def make_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    loss_fn: LossFn,
    config: OptimConfig,
    frozen: tuple[str, ...] = (),
    layout: State | None = None,
) -> StepFn:
    """The jitted ``step_function``; it is given its state for good: the buffers are used again.

    With a ``layout`` the new state lies like that, and the metrics are whole on each device.
    """
    outputs = None if layout is None else (layout, layout["step"])
    step = step_function(graphdef, optimizer, loss_fn, config, frozen, layout)
    return jax.jit(step, donate_argnums=0, out_shardings=outputs)
