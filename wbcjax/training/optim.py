"""Optimisers and learning-rate schedules, from configuration to optax."""

import math
from collections.abc import Mapping, Sequence

import jax
import optax

from wbcjax.config import OptimConfig
from wbcjax.errors import ConfigError
from wbcjax.training.state import is_below


def make_schedule(config: OptimConfig, steps: int) -> optax.Schedule:
    """Learning rate by update: a linear rise over ``config.warmup``, then constant or a cosine to zero.

    ``steps`` counts batches, of which ``config.accumulate`` make one update.
    """
    updates = -(-steps // config.accumulate)
    warmup = round(config.warmup * updates)
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            0.0 if warmup else config.learning_rate, config.learning_rate, warmup, max(updates, warmup + 1)
        )
    rise = optax.linear_schedule(0.0 if warmup else config.learning_rate, config.learning_rate, max(warmup, 1))
    return optax.join_schedules([rise, optax.constant_schedule(config.learning_rate)], [warmup])


def _is_matrix(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def stage_rates(stage_names: Sequence[str], decay: float, prefix: str = "") -> dict[str, float]:
    """``rates`` for ``make_optimizer``: the last stage learns at ``decay`` times the full rate, each stage before it at
    ``decay`` times that of the next one. A decay of 1 needs none.

    Args:
      stage_names: where the paths of each stage's parameters start, first stage first.
      prefix: what goes before these names.
    """
    if decay == 1:
        return {}
    return {f"{prefix}{name}": decay ** (len(stage_names) - number) for number, name in enumerate(stage_names)}


def _scale_by_path(rates: Mapping[str, float]) -> optax.GradientTransformation:
    """Multiply updates by the factor of the longest beginning of their path; others stay as they are."""

    def scale(path, update):
        keys = [entry.key for entry in path]
        named = max((name for name in rates if is_below(keys, name)), key=len, default=None)
        return update if named is None else update * rates[named]

    return optax.stateless(lambda updates, params: jax.tree_util.tree_map_with_path(scale, updates))


def make_optimizer(config: OptimConfig, steps: int, rates: Mapping[str, float] = {}) -> optax.GradientTransformation:
    """The optimiser for ``steps`` batches.

    Weight decay spares biases and normalisation scales; adam has none. With ``accumulate`` > 1 the gradients of that
    many batches are averaged before one update, and the schedule counts updates.

    Args:
      rates: beginnings of parameter paths, of whole components as in ``state.partition``, to a factor on the learning
        rate, and with it on weight decay. The longest one counts; parameters below none learn at the full rate. Names
        below which nothing is trained do nothing here; ``fit`` refuses those of no parameter.

    Raises:
      ConfigError: if a factor is no positive number.
    """
    for name, factor in rates.items():
        if not 0 < factor < math.inf:
            raise ConfigError(f"rates[{name!r}] = {factor!r} is impossible: expected > 0; to keep parameters as they "
                              "are, freeze them")
    schedule = make_schedule(config, steps)
    core = {
        "adam": lambda: optax.adam(schedule),
        "adamw": lambda: optax.adamw(schedule, weight_decay=config.weight_decay, mask=_is_matrix),
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask=_is_matrix), optax.sgd(schedule, 0.9, nesterov=True)
        ),
    }[config.name]()
    clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    # Last, where an update is minus rate times what it is made of; no link without rates, for the state's structure.
    scale = [_scale_by_path(rates)] if rates else []
    optimizer = optax.chain(*clip, core, *scale)
    if config.accumulate == 1:
        return optimizer
    return optax.MultiSteps(optimizer, config.accumulate).gradient_transformation()
