"""Robustness of classifiers: Gaussian noise and the corruptions of microscopes, against their clean accuracy.

Noise comes after cropping, as in the paper's section 4.4; ``pipeline.roi_noise`` is about noise before it.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from wbcjax import config as cfg
from wbcjax.data.corruptions import CORRUPTIONS, LEVELS
from wbcjax.errors import ConfigError
from wbcjax.evaluation.corruption import corruption_sweep
from wbcjax.evaluation.noise import noise_sweep
from wbcjax.evaluation.results import row, write_results
from wbcjax.evaluation.uncertainty import Interval, bootstrap, bootstrap_mean, groups_of
from wbcjax.pipeline.inputs import Inputs, thinned, train_and_validation
from wbcjax.pipeline.rows import Rows, noise_predictor
from wbcjax.pipeline.runs import load_run
from wbcjax.pipeline.studies import (
    Progress,
    Splits,
    ensure_trained,
    proven_fingerprint,
    run_labels,
)
from wbcjax.pipeline.workdir import portable
from wbcjax.training import data_mesh
from wbcjax.typing import Bool, Float

PAPER_ALPHAS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35)
"""Over which the paper sweeps, and over which the mean retention is taken."""
NOISE = cfg.NoiseConfig(alphas=(0.0, *PAPER_ALPHAS, 0.4, 0.45, 0.5), seeds=5)


@dataclass(frozen=True)
class Candidate:
    """One line of the study: a trained network, and what is done to its input or its answers."""

    config: cfg.ClassifierConfig
    variant: str | None = None
    """Name beside that of the network; None for its plain self."""
    share: float = 1.0
    """Share of each original's files, evenly spaced: slow networks are judged on fewer."""
    wrap: Callable[[jax.tree_util.Partial], jax.tree_util.Partial] | None = None
    """What stands around the network's function from images in [0, 1] to logits, such as a denoiser."""


def ensemble(predictors: Sequence[jax.tree_util.Partial]) -> jax.tree_util.Partial:
    """The logarithm of the mean of several networks' probabilities, as one predictor."""
    return jax.tree_util.Partial(_mean_probabilities, tuple(predictors))


def _mean_probabilities(predictors: tuple[jax.tree_util.Partial, ...], images: jax.Array) -> jax.Array:
    return jnp.log(sum(jax.nn.softmax(predict(images)) for predict in predictors) / len(predictors))


def robustness_study(
    candidates: Sequence[Candidate],
    *,
    noise: cfg.NoiseConfig = NOISE,
    experiment: str,
    runs: Path,
    results: Path,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
) -> Rows:
    """Accuracy of each candidate at every noise level (several noise seeds) and under every corruption: on TEST, or on
    the fold of TRAIN that its config holds out.

    Raises:
      ConfigError: if the noise levels leave out 0, which retention is relative to.
    """
    if 0.0 not in noise.alphas:
        raise ConfigError(f"noise.alphas = {noise.alphas} is impossible here: expected 0 among them, for the clean "
                          "accuracy")
    started = time.perf_counter()
    splits, rows = Splits(), []
    for number, candidate in enumerate(candidates, 1):
        config = candidate.config
        model, _ = load_run(ensure_trained(config, runs, splits))
        predict = noise_predictor(model, config.test_views)
        predict = predict if candidate.wrap is None else candidate.wrap(predict)
        if config.fold is None:
            split, judged = "TEST", splits.get(config, "TEST")
        else:
            split = f"TRAIN, fold {config.fold} of {config.folds}"
            _, judged = train_and_validation(config, splits.get(config, "TRAIN"))
        judged = thinned(judged, candidate.share)
        common = {"model": config.model.name, "input": config.input, "split": split, "seed": config.train.seed,
                  "images": len(judged), **run_labels(config, model)}
        if candidate.variant is not None:
            common["variant"] = candidate.variant
        rows += candidate_rows(predict, judged, noise, **common)
        if progress is not None:
            progress(number, len(candidates))
    write_results(
        results / f"{experiment}.json",
        experiment=experiment,
        config={"runs": [portable(candidate.config) for candidate in candidates], "noise": cfg.to_dict(noise)},
        rows=rows,
        seeds=list(range(noise.seeds)),
        data_fingerprint=proven_fingerprint(candidates[0].config.data),
        wall_time=time.perf_counter() - started,
        notes=notes,
    )
    return rows


def candidate_rows(predict: jax.tree_util.Partial, test: Inputs, noise: cfg.NoiseConfig, **common) -> Rows:
    """Every row of one candidate: by noise level, by corruption and level, and the means that sum these up."""
    mesh = data_mesh()
    sweep = functools.partial(_correct, test, predict, batch_size=64 * mesh.size,
                              sharding=NamedSharding(mesh, PartitionSpec("data")), key=jax.random.key(0))
    noisy = sweep(noise_sweep, alphas=noise.alphas, seeds=noise.seeds)
    corrupted = sweep(corruption_sweep)
    clean = noisy[noise.alphas.index(0.0)].mean(axis=0)  # no seed changes an image without noise

    accuracy, retention = (functools.partial(_mean_over_originals, test, against=against) for against in (None, clean))
    rows = []
    for alpha, correct in zip(noise.alphas, noisy, strict=True):
        at = {**common, "alpha": alpha}
        rows.append(row(**at, metric="noise_accuracy", **accuracy(correct.mean(axis=0))._asdict()))
        rows.append(row(**at, metric="noise_seed_std", value=correct.mean(axis=-1).std()))
        rows.append(row(**at, metric="noise_retention", **retention(correct.mean(axis=0))._asdict()))
    swept = [k for k, alpha in enumerate(noise.alphas) if alpha in PAPER_ALPHAS]
    if swept:
        rows.append(row(**common, metric="mean_retention", **retention(noisy[swept].mean(axis=(0, 1)))._asdict()))
    for kind, by_level in zip(CORRUPTIONS, corrupted, strict=True):
        rows += [row(**common, metric="corruption_accuracy", corruption=kind, level=level, **accuracy(hits)._asdict())
                 for level, hits in zip(LEVELS, by_level.astype(np.float64), strict=True)]
        rows.append(row(**common, metric="corruption_retention", corruption=kind,
                        **retention(by_level.mean(axis=0))._asdict()))
    rows.append(row(**common, metric="mean_corruption_accuracy", **accuracy(corrupted.mean(axis=(0, 1)))._asdict()))
    return rows


def _correct(test: Inputs, predict: jax.tree_util.Partial, sweep: Callable, **options) -> Bool[np.ndarray, "*grid n"]:
    return sweep(predict, np.asarray(test.images), **options) == test.labels


def _mean_over_originals(
    test: Inputs, hits: Float[np.ndarray, "n"], *, against: Float[np.ndarray, "n"] | None
) -> Interval:
    """Mean of ``hits`` over the images, or its ratio to the mean of ``against``, with its interval over originals."""
    if against is None:
        return bootstrap_mean(hits, test.sources, test.labels)
    original = groups_of(test.sources)
    _, first = np.unique(original, return_index=True)
    sums = np.stack([np.bincount(original, weights=values) for values in (hits, against)], axis=-1)
    return bootstrap(sums, lambda totals: totals[..., 0] / np.maximum(totals[..., 1], 1e-12),
                     classes=test.labels[first])
