"""The training state, one pytree of plain arrays, and the jitted step that advances it.

Modules appear only while the step is traced: the state holds their arrays in nested dicts, which JAX flattens in C++,
so one call costs little Python and the state goes to a checkpoint as it is.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Float

from wbcjax.config import OptimConfig

State = dict[str, Any]
"""params, stats (batch norm), opt_state, ema (of params and stats, or empty), step, key.

The key is its plain data: arrays of keys cannot be placed on the devices of other processes."""

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


def init_state(model: nnx.Module, optimizer: optax.GradientTransformation, config: OptimConfig, seed: int) -> State:
    """A fresh state of ``model``, whose own arrays it copies: the step donates its input, and so destroys it."""
    _, params, stats = jax.tree.map(jnp.copy, split(model))
    ema = {"params": params, "stats": stats} if config.ema_decay else {}
    return {
        "params": params,
        "stats": stats,
        "opt_state": optimizer.init(params),
        # Another copy: no buffer may be donated twice.
        "ema": jax.tree.map(jnp.copy, ema),
        "step": jnp.zeros((), jnp.int32),
        "key": jax.random.key_data(jax.random.key(seed)),
    }


def eval_weights(state: State) -> tuple[dict, dict]:
    """The (params, stats) to evaluate with: the moving average where there is one."""
    return (state["ema"]["params"], state["ema"]["stats"]) if state["ema"] else (state["params"], state["stats"])


def make_step(
    graphdef: nnx.GraphDef, optimizer: optax.GradientTransformation, loss_fn: LossFn, config: OptimConfig
) -> Callable[[State, Any, Any], tuple[State, dict[str, Array]]]:
    """The jitted step: (state, resident, batch) -> (state, metrics).

    The metrics are ``loss``, ``gradient_norm`` and ``parameter_norm`` after the step, and those of ``loss_fn``.

    The state is donated. Everything random derives from the state's key and step, so a resumed run repeats exactly.
    """

    def step(state: State, resident: Any, batch: Any) -> tuple[State, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.wrap_key_data(state["key"]), state["step"])

        def objective(params):
            model = merge(graphdef, params, state["stats"], training=True)
            loss, metrics = loss_fn(model, resident, batch, key)
            return loss, (metrics, nnx.to_pure_dict(nnx.state(model, nnx.BatchStat)))

        (loss, (metrics, stats)), grads = jax.value_and_grad(objective, has_aux=True)(state["params"])
        updates, opt_state = optimizer.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        ema = state["ema"]
        if config.ema_decay:
            # Young averages forget faster, so that the initial weights do not linger; one update counts once.
            count = state["step"] // config.accumulate
            decay = jnp.minimum(config.ema_decay, (1 + count) / (10 + count))
            decay = jnp.where((state["step"] + 1) % config.accumulate == 0, decay, 1.0)
            current = {"params": params, "stats": stats}
            ema = jax.tree.map(lambda average, new: average * decay + new * (1 - decay), ema, current)
        new = {
            "params": params,
            "stats": stats,
            "opt_state": opt_state,
            "ema": ema,
            "step": state["step"] + 1,
            "key": state["key"],
        }
        norms = {"gradient_norm": optax.tree.norm(grads), "parameter_norm": optax.tree.norm(params)}
        return new, {"loss": loss, **norms, **metrics}

    return jax.jit(step, donate_argnums=0)
