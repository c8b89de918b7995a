"""The noise sweep: one jitted call a batch over all alphas and seeds, against plain loops.

    python benchmarks/noise_sweep.py [--write] [--force] [--rounds N] [--images N] [--size H W] [--model NAME]

``plain loop`` is what one writes first: for every alpha and seed, for every batch, NumPy noise, then the jitted
network. ``jitted loop`` draws and adds the noise on the device too, still one call for each alpha, seed and batch; it
draws the noise anew at every alpha. The network has random weights; the time does not depend on them. ``noise alone``
is the sweep with a network that costs nothing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from common import Case, arguments, interleave, report

from wbcjax.config import ModelConfig
from wbcjax.evaluation.noise import add_noise, gaussian, noise_sweep
from wbcjax.models import MODELS, build
from wbcjax.training import predict_function

ALPHAS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
SEEDS = 3
BATCH = 64


def plain_loop(predict, images, batch_size=BATCH):
    predictions = np.zeros((len(ALPHAS), SEEDS, len(images)), np.int32)
    for a, alpha in enumerate(ALPHAS):
        for seed in range(SEEDS):
            rng = np.random.default_rng(seed)
            for start in range(0, len(images), batch_size):
                batch = images[start : start + batch_size].astype(np.float32) / 255
                noise = rng.standard_normal(batch.shape, np.float32)
                noisy = np.clip(batch + np.float32(alpha) * noise, 0, 1)
                predictions[a, seed, start : start + batch_size] = np.argmax(predict(noisy), axis=-1)
    return predictions


@functools.partial(jax.jit, static_argnums=0)
def noisy_classes(predict, key, seed, index, images, alpha):
    clean = images.astype(jnp.float32) / 255
    noise = jax.vmap(lambda i: gaussian(key, seed, i, clean.shape[1:]))(index)
    return predict(add_noise(clean, noise, alpha)).argmax(axis=-1)


def jitted_loop(predict, images, key, batch_size=BATCH):
    predictions = np.zeros((len(ALPHAS), SEEDS, len(images)), np.int32)
    for a, alpha in enumerate(ALPHAS):
        for seed in range(SEEDS):
            for start in range(0, len(images), batch_size):
                part = slice(start, start + batch_size)
                index = np.arange(start, start + batch_size, dtype=np.int32)
                predictions[a, seed, part] = noisy_classes(predict, key, seed, index, images[part], alpha)
    return predictions


def main():
    parser = arguments(__doc__.splitlines()[0], rounds=5)
    parser.add_argument("--images", type=int, default=4 * BATCH, help=f"a multiple of {BATCH}")
    parser.add_argument("--size", type=int, nargs=2, default=(80, 80), metavar=("H", "W"))
    parser.add_argument("--model", default="custom2", choices=sorted(MODELS))
    options = parser.parse_args()
    if options.images < BATCH or options.images % BATCH:
        parser.error(f"--images {options.images}: give a multiple of {BATCH}, so that the plain loops compile once")
    size = tuple(options.size)
    images = np.random.default_rng(0).integers(0, 256, (options.images, *size, 3), dtype=np.uint8)
    key = jax.random.key(0)
    sweep = functools.partial(noise_sweep, alphas=ALPHAS, seeds=SEEDS, key=key, batch_size=BATCH)
    model = build(ModelConfig(name=options.model, image_size=size))
    networks = {
        options.model: jax.jit(predict_function(model)),
        "noise alone": jax.jit(lambda noisy: noisy[:, :4, 0, 0]),
    }
    cases = []
    for name, predict in networks.items():
        candidates = {
            "plain loop": functools.partial(plain_loop, predict, images),
            "jitted loop": functools.partial(jitted_loop, predict, images, key),
            "noise_sweep": functools.partial(sweep, predict, images),
        }
        timing = interleave(candidates, options.rounds)
        agree = np.mean(candidates["jitted loop"]() == candidates["noise_sweep"]())
        print(f"{name}: noise_sweep and the jitted loop agree on {agree:.2%} of the predictions")
        evaluations = len(ALPHAS) * SEEDS * len(images)
        case = f"{name}, {len(images)} images {size[0]}x{size[1]}, {len(ALPHAS)} alphas, {SEEDS} seeds"
        cases.append(Case(case, timing, "plain loop", evaluations))
    report("noise_sweep", cases, options)


if __name__ == "__main__":
    main()
