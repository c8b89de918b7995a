"""Fit the confidence of a run on its folds, and keep it in a weights file."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from wbcjax import config as cfg
from wbcjax.config.base import require
from wbcjax.errors import CheckpointError, ConfigError
from wbcjax.evaluation.confidence import Confidence, fit_confidence
from wbcjax.pipeline.inputs import Inputs, classifier_inputs, train_and_validation
from wbcjax.pipeline.runs import class_names_of, load_run, pooled, predict_split
from wbcjax.pipeline.workdir import identity, weights_file, with_detector
from wbcjax.training import split
from wbcjax.training.weights import read_card, read_config, save_weights

KEY = "confidence"
"""Of the card in a weights file."""


def calibrate(
    run: Path | str,
    folds: Sequence[Path | str],
    out: Path | str,
    *,
    data: cfg.DataConfig | None = None,
    alpha: float = 0.05,
    detector: Path | str | None = None,
    inputs: Inputs | None = None,
) -> Confidence:
    """Write the weights of ``run`` anew, with what its folds say of its confidence; nothing is fitted on TEST.

    Each fold's network judges the originals that it was not trained on. The run itself was trained on all of them, so
    the promise of its sets holds as far as it errs on new cells like the folds' networks.

    Args:
      run, folds: folders or weights files; the folds of the run's own config, each once and all of them.
      out: file to write, ``.safetensors``.
      data: where TRAIN is.
      alpha: the share of new cells whose set may miss their class.
      detector: weights or run of the Mask R-CNN that crops come from; the packaged one need not be given.
      inputs: TRAIN, where it is other than the published one (``inputs_of``).

    Raises:
      ConfigError: if ``alpha`` is impossible, ``out`` is there already or no ``.safetensors``, the folds are not those
        of the run, or cut by anything but originals, or the run's outputs are no probabilities of exclusive classes.
      CheckpointError: if weights are missing or damaged.
      DataError: as ``fit_confidence`` does.
    """
    run, out = Path(run), Path(out)
    require(0 < alpha < 1, "alpha", alpha, "a number between 0 and 1")
    if out.exists() or out.suffix != ".safetensors":
        raise ConfigError(f"{out}: {'there already' if out.exists() else 'no .safetensors'}; give a new file's name, "
                          "ending in .safetensors")
    model, config = load_run(run)
    if config.model.head != "softmax":
        raise ConfigError(f"{run}: model.head = {config.model.head!r}; temperature and sets need 'softmax'")
    networks = [load_run(Path(path)) for path in folds]
    check_folds(run, config, [(Path(path), held) for path, (_, held) in zip(folds, networks, strict=True)])
    here = with_detector(config, None if detector is None else Path(detector))
    here = replace(here, data=data or cfg.DataConfig())
    inputs = classifier_inputs(here, here.train_split, progress=True) if inputs is None else inputs
    parts = []
    for network, held in networks:
        held = replace(here, fold=held.fold)
        parts.append(predict_split(network, train_and_validation(held, inputs)[1], held))
    everything = pooled(parts)
    confidence = fit_confidence(everything.logits, everything.labels, everything.sources, alpha)
    weights = weights_file(run)
    card = {**read_card(weights), KEY: asdict(confidence), "class_names": class_names_of(run, config)}
    _, params, stats = split(model)
    save_weights(out, params, stats, read_config(weights), card=card)
    return confidence


def check_folds(run: Path, config: cfg.ClassifierConfig, folds: Sequence[tuple[Path, cfg.ClassifierConfig]]) -> None:
    """Refuse runs that are not the folds of ``config``.

    Raises:
      ConfigError: naming the first run that is none, or the folds that are missing.
    """
    if config.fold is not None:
        raise ConfigError(f"{run}: trained without fold {config.fold} alone; give the run that was trained on all of "
                          "TRAIN, and its folds after it")
    for path, held in folds:
        if held.fold_by != "original":
            raise ConfigError(f"{path}: fold_by = {held.fold_by!r}; copies of cells that it has seen promise nothing "
                              "for new ones: cut by 'original'")
        if held.fold is None or identity(replace(held, fold=None)) != identity(config):
            raise ConfigError(f"{path}: no fold of {run}: train it with the same config and --fold")
    given = sorted(held.fold for _, held in folds)
    if given != list(range(config.folds)):
        raise ConfigError(f"{run} has the folds 0..{config.folds - 1}, and given were {given}: give each once")


def confidence_of(run: Path) -> Confidence | None:
    """What ``calibrate`` wrote into the weights of a run; None without.

    Raises:
      CheckpointError: if it is damaged.
    """
    weights = weights_file(run)
    values = read_card(weights).get(KEY)
    if values is None:
        return None
    try:
        return Confidence(**values)
    except (TypeError, ConfigError) as error:
        raise CheckpointError(f"{weights}: its confidence is damaged ({error}); calibrate again") from error
