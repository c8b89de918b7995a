"""One training step and one inference of our classifiers, for both benchmarks of them."""

import functools

import jax
import optax
from flax import nnx

from wbcjax.config import OptimConfig
from wbcjax.training.optim import make_optimizer
from wbcjax.training.state import init_state, make_step, merge, split

OPTIM = OptimConfig(schedule="constant", warmup=0.0, clip_norm=None, ema_decay=None, learning_rate=1e-4)


def cross_entropy(model, resident, batch, key):
    logits = model(batch["image"], rngs=nnx.Rngs(key))
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), {}


def step_and_arguments(model, batch):
    """The jitted training step and its arguments, a fresh state first."""
    optimizer = make_optimizer(OPTIM, steps=1)
    step = make_step(split(model)[0], optimizer, cross_entropy, OPTIM)
    return step, (init_state(model, optimizer, OPTIM, seed=0), {}, batch)


def inference_and_arguments(model, batch):
    """The jitted prediction and its arguments."""
    graphdef, params, stats = split(model)
    predict = jax.jit(lambda params, stats, images: merge(graphdef, params, stats, training=False)(images))
    return predict, (params, stats, batch["image"])


def our_step(model, batch):
    """A function without arguments that trains one step, state kept inside."""
    step, (state, *rest) = step_and_arguments(model, batch)

    def call():
        nonlocal state
        state, metrics = step(state, *rest)
        return metrics["loss"]

    return call


def our_inference(model, batch):
    predict, args = inference_and_arguments(model, batch)
    return functools.partial(predict, *args)
