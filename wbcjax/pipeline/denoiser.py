"""A denoiser in front of a classifier: the obvious answer to noise, to compare training with noise against.

It is trained like every other network, on crops of TRAIN, and judged by the peak signal-to-noise ratio (PSNR) on a fold
of TRAIN that it did not see; what it is worth for classification is for the sweep over noise levels to say.
"""

import functools
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from wbcjax import config as cfg
from wbcjax.data.device import DeviceStream
from wbcjax.data.kaggle import kaggle
from wbcjax.evaluation.results import row, write_results
from wbcjax.evaluation.uncertainty import bootstrap_mean
from wbcjax.models.denoiser import Denoiser, build_denoiser
from wbcjax.pipeline.inputs import Inputs, classifier_inputs, data_root, thinned, train_and_validation
from wbcjax.pipeline.rows import Rows
from wbcjax.pipeline.studies import Interrupted, data_fingerprint
from wbcjax.pipeline.workdir import (
    check_workdir,
    finish,
    has_checkpoint,
    is_finished,
    portable,
    run_digest,
    stored_config,
    write_config,
)
from wbcjax.roi import EXPANDED
from wbcjax.training import fit, merge, split
from wbcjax.training.denoiser import denoising_loss, squared_errors
from wbcjax.training.weights import load_weights
from wbcjax.typing import Float

ALPHAS = (0.05, 0.2, 0.35)
"""Noise levels at which the PSNR is measured."""
WATCHED_ALPHA, WATCHED_SHARE = 0.2, 0.1
"""Noise level, and share of the held-out files, of the error that is noted while training."""

NOTES = (
    "psnr: decibels, mean over the images; of a crop with noise, and of the same after the denoiser, against the clean "
    "crop. Intervals are 95 %, bootstrapped over originals within class.",
)


def small_denoiser(data: cfg.DataConfig) -> cfg.DenoiserConfig:
    """What one CPU core trains in some minutes: a quarter of the files of each original, sixteen passes."""
    return cfg.DenoiserConfig(data=data, roi=EXPANDED, optim=cfg.OptimConfig(learning_rate=2e-3, weight_decay=0.0),
                              train=cfg.LoopConfig(epochs=16, batch_size=16), train_share=0.25)


def denoiser_folder(runs: Path, config: cfg.DenoiserConfig) -> Path:
    """Folder of a run: readable, and unique to its config and to the files that it is trained on."""
    files = kaggle(data_root(config.data), "TRAIN", strict=config.data.strict)
    digest = run_digest(config, data_fingerprint(files))
    return runs / f"denoiser-seed{config.train.seed}-fold{config.fold}-{digest}"


def denoiser_inputs(config: cfg.DenoiserConfig, *, progress: bool = False) -> tuple[Inputs, Inputs]:
    """The crops of TRAIN to train on, and all of those of the fold that is held out."""
    crops = cfg.ClassifierConfig(
        data=config.data, roi=config.roi, crop=config.crop, train_share=config.train_share, folds=config.folds,
        fold=config.fold, model=cfg.ModelConfig(name="custom1", image_size=config.image_size),
    )
    train, held_out = train_and_validation(crops, classifier_inputs(crops, "TRAIN", progress=progress))
    assert held_out is not None
    return train, held_out


def train_denoiser(
    config: cfg.DenoiserConfig, workdir: Path, *, resume: bool = False, inputs: tuple[Inputs, Inputs] | None = None
) -> bool:
    """Train, and write what ``runs.train_run`` writes.

    Args:
      inputs: those of ``denoiser_inputs``, where the caller has them already.

    Returns:
      True if the run is complete, False if it was interrupted (its checkpoint is saved).

    Raises:
      CheckpointError: if ``workdir`` holds a run of another config.
      ConfigError: if a batch is more than the training images.
    """
    check_workdir(workdir, config, resume=resume, begun=has_checkpoint(workdir))
    train, held_out = inputs or denoiser_inputs(config, progress=True)
    stream = DeviceStream(train.images, train.labels, train.names, batch_size=config.train.batch_size,
                          seed=config.train.seed)
    write_config(workdir, config)
    model = build_denoiser(config.model, config.train.seed)
    graphdef, *_ = split(model)
    watched = np.asarray(thinned(held_out, WATCHED_SHARE).images)

    def evaluate(params: dict, stats: dict) -> dict[str, float]:
        trained = merge(graphdef, params, stats, training=False)
        return {"loss": float(squared_errors(trained, watched, WATCHED_ALPHA)[1].mean())}

    started = time.perf_counter()
    result = fit(model, stream, denoising_loss(config.max_alpha), optim=config.optim, train=config.train,
                 workdir=workdir, evaluate=evaluate, resume=has_checkpoint(workdir), title="denoiser")
    return finish(workdir, config, result, wall_time=time.perf_counter() - started, class_names=train.class_names)


def ensure_denoiser(
    config: cfg.DenoiserConfig, runs: Path, inputs: tuple[Inputs, Inputs] | None = None
) -> Path:
    """Folder of the finished run of ``config``: reused, resumed or trained.

    Raises:
      Interrupted: if training was stopped by a signal.
    """
    folder = denoiser_folder(runs, config)
    if not is_finished(folder, config) and not train_denoiser(config, folder, resume=has_checkpoint(folder),
                                                              inputs=inputs):
        raise Interrupted(f"{folder}: interrupted and saved; the same command goes on from here")
    return folder


def load_denoiser(path: Path) -> Denoiser:
    """The trained denoiser of a run's folder or its weights file, in evaluation mode.

    Raises:
      CheckpointError: if there are no weights, or they are damaged or of no denoiser.
    """
    path, config = stored_config(cfg.DenoiserConfig, path)
    graphdef, *like = split(nnx.eval_shape(lambda: build_denoiser(config.model)))
    return merge(graphdef, *load_weights(path, tuple(like)), training=False)


def denoised(predict: jax.tree_util.Partial, denoiser: Denoiser) -> jax.tree_util.Partial:
    """``predict``, a function of images in [0, 1], of what the denoiser makes of them."""
    graphdef, params, stats = split(denoiser)
    return jax.tree_util.Partial(functools.partial(_in_turn, graphdef), params, stats, predict)


def _in_turn(
    graphdef: nnx.GraphDef, params: dict, stats: dict, predict: jax.tree_util.Partial, images: jax.Array
) -> jax.Array:
    return predict(merge(graphdef, params, stats, training=False)(images))


def denoiser_study(config: cfg.DenoiserConfig, *, experiment: str, runs: Path, results: Path) -> Rows:
    """Train the denoiser, and measure its PSNR on the held-out fold of TRAIN; writes ``results/<experiment>.json``."""
    started = time.perf_counter()
    inputs = denoiser_inputs(config, progress=True)
    denoiser = load_denoiser(ensure_denoiser(config, runs, inputs))
    rows = psnr_rows(denoiser, inputs[1], split=f"TRAIN, fold {config.fold} of {config.folds}",
                     seed=config.train.seed)
    write_results(
        results / f"{experiment}.json", experiment=experiment, config=portable(config), rows=rows,
        seeds=config.train.seed, wall_time=time.perf_counter() - started, notes=NOTES,
        data_fingerprint=data_fingerprint(kaggle(data_root(config.data), "TRAIN", strict=config.data.strict)),
    )
    return rows


def psnr_rows(denoiser: Denoiser, held_out: Inputs, **common) -> Rows:
    """PSNR of noisy and of denoised crops, at each of ``ALPHAS``."""
    rows = []
    for alpha in ALPHAS:
        errors = squared_errors(denoiser, np.asarray(held_out.images), alpha)
        for variant, error in zip(("noisy", "denoised"), errors, strict=True):
            interval = bootstrap_mean(psnr(error), held_out.sources, held_out.labels)
            rows.append(row(model="denoiser", input="roi", roi="color", metric="psnr", alpha=alpha, variant=variant,
                            **common, **interval._asdict()))
    return rows


def psnr(squared_error: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Peak signal-to-noise ratio of images in [0, 1] with these mean squared errors, in decibels."""
    return -10 * np.log10(squared_error)
