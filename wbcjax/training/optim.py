"""Optimisers and learning-rate schedules, from configuration to optax."""

import jax
import optax

from wbcjax.config import OptimConfig


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


def make_optimizer(config: OptimConfig, steps: int) -> optax.GradientTransformation:
    """The optimiser for ``steps`` batches.

    Weight decay spares biases and normalisation scales; adam has none. With ``accumulate`` > 1 the gradients of that
    many batches are averaged before one update, and the schedule counts updates.
    """
    schedule = make_schedule(config, steps)
    core = {
        "adam": lambda: optax.adam(schedule),
        "adamw": lambda: optax.adamw(schedule, weight_decay=config.weight_decay, mask=_is_matrix),
        "sgd": lambda: optax.chain(
            optax.add_decayed_weights(config.weight_decay, mask=_is_matrix), optax.sgd(schedule, 0.9, nesterov=True)
        ),
    }[config.name]()
    clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    optimizer = optax.chain(*clip, core)
    if config.accumulate == 1:
        return optimizer
    return optax.MultiSteps(optimizer, config.accumulate).gradient_transformation()
