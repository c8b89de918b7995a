"""The folder of a training run, whatever it trains: what lies there, whose run it is, and how it ends."""

import hashlib
import importlib.util
import json
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import TypeVar

import jax

from wbcjax import config as cfg
from wbcjax.errors import CheckpointError, ConfigError
from wbcjax.files import write_text
from wbcjax.training.distributed import wait_for_all
from wbcjax.training.loop import FitResult
from wbcjax.training.weights import WEIGHTS, read_config, save_weights

CONFIG = "config.json"
SUMMARY = "summary.json"
PACKAGED = Path(str(resources.files("wbcjax") / "weights" / "compact-wbc.safetensors"))
"""Weights of the compact detector of white cells that comes with the package."""

Config = cfg.ClassifierConfig | cfg.DetectorConfig | cfg.DenoiserConfig
C = TypeVar("C", cfg.ClassifierConfig, cfg.DetectorConfig, cfg.DenoiserConfig)
USES = {
    cfg.DetectorConfig: ("detector", "`wbcjax detect` takes them"),
    cfg.DenoiserConfig: ("denoiser", "wbcjax.pipeline.denoiser.load_denoiser takes them"),
    cfg.ClassifierConfig: ("classifier", "`wbcjax predict` takes them"),
}
"""What each kind of run trains, and who takes its weights."""


def portable(config: Config) -> dict:
    """The config as JSON without the folders and the devices of one machine: what identifies a run."""
    values = _without_machine(config)
    if getattr(config, "weights", None) is not None:
        values["weights"] = _label_of_weights(config)
    if "detector" in values:
        crops_by_it = values["roi_source"] == "mask_rcnn"
        values["detector"] = _label_of(detector_weights(config)) if crops_by_it else None
    return values


def identity(config: Config) -> dict:
    """``portable`` without what has its default, so that a field that a new version adds renames no finished run, and
    without the test-time views, which do not change what is trained."""
    return _without_views(_changed(portable(config), cfg.to_dict(type(config)())))


def run_digest(config: Config, files: str) -> str:
    """Twelve hex digits that a run's folder ends in: another config's or other files' (their fingerprint) differ."""
    stated = json.dumps([identity(config), files], sort_keys=True)
    return hashlib.sha256(stated.encode()).hexdigest()[:12]


def _without_views(values: dict) -> dict:
    return {name: value for name, value in values.items() if name != "test_views"}


def _changed(values: dict, defaults: dict) -> dict:
    pairs = {name: (value, defaults.get(name)) for name, value in values.items()}
    nested = {name: _changed(value, default) if isinstance(value, dict) and isinstance(default, dict) else value
              for name, (value, default) in pairs.items()}
    return {name: value for name, value in nested.items() if value != {} and value != pairs[name][1]}


def detector_weights(config: cfg.ClassifierConfig) -> Path:
    """The weights file of the Mask R-CNN that the crops of ``config`` come from.

    A stored config names them by their content; of these the packaged ones are found again.

    Raises:
      CheckpointError: if they are not at hand.
    """
    path = PACKAGED if config.detector is None else config.detector.expanduser()
    path = path / WEIGHTS if path.is_dir() else path
    if path.is_file():
        return path
    if PACKAGED.is_file() and path.name == _label_of(PACKAGED):
        return PACKAGED
    raise CheckpointError(f"{path}: no such weights of a detector, which the crops come from; give its file or folder "
                          "with --detector")


def with_detector(config: cfg.ClassifierConfig, detector: Path | None) -> cfg.ClassifierConfig:
    """A stored config with the file or folder of the Mask R-CNN that it names by content; None leaves it.

    Raises:
      CheckpointError: if the weights there are missing, or others than those that the run's crops come from.
      ConfigError: if the run crops by none.
    """
    if detector is None:
        return config
    if config.input != "roi" or config.roi_source != "mask_rcnn":
        source = "whole images" if config.input == "whole" else f"crops with roi_source = {config.roi_source!r}"
        raise ConfigError(f"detector = {detector}, but the run takes {source}; leave it out")
    found = replace(config, detector=detector)
    weights, stored = detector_weights(found), str(config.detector)
    if file_digest(weights)[:12] != stored.rpartition("@")[2]:
        raise CheckpointError(f"{weights}: not the detector that the run's crops come from ({stored}); give that one")
    return found


def _label_of_weights(config: Config) -> str:
    """File name of the weights that training starts from; of a classifier with their content, or their published
    name. A stored config holds that label already."""
    weights = config.weights.expanduser()
    weights = weights / WEIGHTS if weights.is_dir() else weights
    if isinstance(config, cfg.DetectorConfig) or weights.is_absolute():
        return _label_of(weights) if isinstance(config, cfg.ClassifierConfig) and weights.is_file() else weights.name
    return _label_of(weights) if weights.is_file() else str(weights)


def _label_of(weights: Path) -> str:
    """File name and content in one word."""
    return f"{weights.name}@{file_digest(weights)[:12]}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_machine(config: Config) -> dict:
    values = cfg.to_dict(config)
    del values["data"]["root"], values["data"]["cache_dir"], values["train"]["mesh"], values["train"]["profile"]
    return values


def is_finished(workdir: Path, config: Config) -> bool:
    """Whether ``workdir`` holds the weights of this very config, whatever its test-time views; fields newer than they
    are had their defaults."""
    path = workdir / WEIGHTS
    if not path.is_file():
        return False
    try:
        stored = _without_machine(cfg.from_dict(type(config), read_config(path)))
        return _without_views(stored) == _without_views(portable(config))
    except ConfigError:  # a field that is no more, or a run of another kind
        return False


def has_checkpoint(workdir: Path) -> bool:
    """Whether there is a checkpoint to resume."""
    # Orbax gives what it has not finished writing a longer name.
    return any(folder.name.isdecimal() for folder in (workdir / "checkpoints").glob("*"))


def check_workdir(workdir: Path, config: Config, *, resume: bool, begun: bool) -> None:
    """Refuse, before anything is read or written, a folder that holds another run, or none to resume.

    Args:
      begun: whether the folder holds a run that can go on.

    Raises:
      CheckpointError: with what differs.
      ConfigError: if TensorBoard is asked for and not installed.
    """
    stored = workdir / CONFIG
    if stored.exists():
        try:
            there = json.loads(stored.read_text())
        except json.JSONDecodeError as error:
            raise CheckpointError(f"{stored}: damaged ({error}); delete {workdir}, or give another folder") from error
        if there != portable(config):
            raise CheckpointError(f"{workdir} holds a run of another config ({_difference(there, portable(config))}); "
                                  "give another folder, or delete this one")
    if resume and not begun:
        raise CheckpointError(f"{workdir}: no checkpoint here to resume; start without --resume, or check the folder")
    if not resume and begun:
        raise CheckpointError(f"{workdir} holds a run already; --resume continues it, or give another folder")
    if config.train.tensorboard and importlib.util.find_spec("tensorboardX") is None:
        raise ConfigError("train.tensorboard needs a package: pip install 'wbcjax[tensorboard]', or leave it off")


def write_config(workdir: Path, config: Config) -> None:
    """Note whose run the folder holds."""
    if jax.process_index():
        return
    write_text(workdir / CONFIG, json.dumps(portable(config), indent=1, sort_keys=True))


def finish(
    workdir: Path, config: Config, result: FitResult, *, wall_time: float, class_names: tuple[str, ...]
) -> bool:
    """Write the summary and the weights of a run that ``fit`` has completed.

    Returns:
      False, having written nothing, if it was interrupted.
    """
    if result.interrupted:
        return False
    if jax.process_index() == 0:
        _write_result(workdir, config, result, wall_time, class_names)
    wait_for_all(f"{workdir} is finished")
    return True


def _write_result(
    workdir: Path, config: Config, result: FitResult, wall_time: float, class_names: tuple[str, ...]
) -> None:
    summary = {"steps": result.step, "wall_time": wall_time, **result.metrics, "class_names": class_names}
    write_text(workdir / SUMMARY, json.dumps(summary, indent=1))
    # Last: a run with weights is finished, and takes the names of its classes from the summary.
    save_weights(workdir / WEIGHTS, result.params, result.stats, portable(config))


def weights_file(path: Path) -> Path:
    """The weights of a run's folder, or the file itself."""
    return path / WEIGHTS if path.is_dir() else path


def stored_config(cls: type[C], path: Path) -> tuple[Path, C]:
    """The weights file of ``path``, a run's folder or the file itself, and the config in it.

    Raises:
      CheckpointError: if there are no weights, or they are damaged or of another kind or version.
    """
    path = weights_file(path)
    values = read_config(path)
    kind = (cfg.DetectorConfig if "annotations" in values
            else cfg.DenoiserConfig if "max_alpha" in values else cfg.ClassifierConfig)
    if kind is not cls:
        raise CheckpointError("{}: the weights of a {}; {}".format(path, *USES[kind]))
    try:
        return path, cfg.from_dict(cls, values)
    except ConfigError as error:
        raise CheckpointError(f"{path}: written by another version ({error}); train again") from error


def _difference(there: dict, here: dict) -> str:
    """The first field in which two configs differ, for the message."""
    def flat(values: dict, prefix: str = "") -> dict:
        out = {}
        for name, value in values.items():
            out |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        return out

    there, here = flat(there), flat(here)
    name = next(n for n in here | there if here.get(n) != there.get(n))
    return f"{name} is {there.get(name)!r} there, {here.get(name)!r} here"
