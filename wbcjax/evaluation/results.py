"""The results files ``experiments/results/<experiment>.json``: tidy rows and what is needed to repeat them.

One figure of a table is one row::

    {"model": "custom2", "input": "roi", "split": "TEST", "metric": "accuracy", "value": 0.93, "low": 0.88,
     "high": 0.97, "paper": 0.92}

``low`` and ``high`` bound a 95 % interval; further keys (``variant``, ``roi``, ``alpha``, ``seed``,
``class_name``) tell rows apart. The README's tables and the report are generated from these files, so a row
that is not finite, names an unknown metric or stands twice is refused when it is written and when it is read.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from wbcjax.errors import DataError
from wbcjax.files import parse_json, write_text

Number = int | float | np.number | np.ndarray | jax.Array  # arrays of no axes

BACKBONES = ("vgg16", "vgg16_bn", "resnet18", "resnet34", "resnet50", "resnet101", "inception_v3", "compact")
HANDMADE = ("knn", "svm", "mlp")
LITERATURE = (*HANDMADE, "double_conv", "capsule")
"""Methods of other papers, rerun: classifiers of hand-made features, and networks."""
MODELS = ("lenet", "custom1", "custom2", *LITERATURE, *BACKBONES, "color",
          *(f"mask_rcnn_{backbone}" for backbone in BACKBONES), "denoiser", "data")
"""Who a figure belongs to; ``data`` is no model, but the data set itself."""

INPUTS = ("whole", "roi")
"""What the model sees. A localiser (``color``, ``mask_rcnn_*``) sees the whole image."""

METRICS: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("accuracy", "balanced_accuracy", "source_accuracy"), (0, 1)),
    **dict.fromkeys(("precision", "recall", "f1", "ece", "ap", "ap50", "ap75"), (0, 1)),
    **dict.fromkeys(("mean_iou", "min_iou", "max_iou", "median_iou", "iou_fraction"), (0, 1)),
    **dict.fromkeys(("mask_iou", "median_mask_iou"), (0, 1)),
    "std_iou": (0, 0.5),
    **dict.fromkeys(("missed_share", "noise_iou", "chain_accuracy"), (0, 1)),
    **dict.fromkeys(("noise_accuracy", "noise_seed_std", "corruption_accuracy", "mean_corruption_accuracy"), (0, 1)),
    **dict.fromkeys(("noise_retention", "mean_retention", "corruption_retention"), (0, math.inf)),
    "difference": (-1, 1),
    "psnr": (0, math.inf),
    **dict.fromkeys(("retention", "loss", "confusion", "missed", "images", "cells", "originals"), (0, math.inf)),
    **dict.fromkeys(("false_positives", "side_std"), (0, math.inf)),
    **dict.fromkeys(("ms_per_image", "images_per_s"), (0, math.inf)),
    **dict.fromkeys(("nll", "temperature", "set_size"), (0, math.inf)),
    "brier": (0, 2),
    **dict.fromkeys(("adaptive_ece", "chance_ece", "bin_accuracy", "coverage", "singletons"), (0, 1)),
    **dict.fromkeys(("aurc", "selective_accuracy", "accepted", "auroc", "fpr95", "true_positive_rate"), (0, 1)),
}
"""Every metric's name and range. ``retention``: accuracy with noise over accuracy without. ``confusion``:
images of class ``true`` predicted as class ``predicted``. ``missed``: images without a predicted box, or cells
without one (``unit``: image or cell). ``false_positives``: predicted boxes without a cell. ``ap…``: of boxes or
masks (``kind``), of one class (``class_name``) or the mean over them. ``mask_iou``: mean over the true masks.
``iou_fraction``: share of the images whose IoU lies between ``bin_low`` and ``bin_high``.
``noise_…`` of the robustness study: accuracy at noise level ``alpha`` over all noise seeds, its deviation between the
seeds, its share of the clean accuracy; ``mean_retention``: that share over the paper's seven levels. ``corruption_…``:
under one ``corruption``, at one ``level`` or the mean over the five.
``missed_share``: of the images, those without a predicted box. ``noise_iou``: mean IoU at noise level ``alpha``.
``chain_accuracy``: of ROI and classifier together, with noise ``added`` at some place.
``psnr``: peak signal-to-noise ratio, in decibels.
``difference``: of accuracy from that of the first variant.
``side_std``: deviation of a side of the published boxes, in pixels.
``source_accuracy``: accuracy on the copies of one original. ``originals``: how many, of the ``part`` named."""

PAPER: dict[tuple[str, str, str], float] = {
    ("vgg16", "whole", "accuracy"): 0.484,
    ("vgg16", "roi", "accuracy"): 0.64,
    ("resnet50", "whole", "accuracy"): 0.746,
    ("resnet50", "roi", "accuracy"): 0.84,
    ("inception_v3", "whole", "accuracy"): 0.43,
    ("inception_v3", "roi", "accuracy"): 0.55,
    ("custom1", "whole", "accuracy"): 0.80,
    ("custom1", "roi", "accuracy"): 0.88,
    ("custom2", "whole", "accuracy"): 0.895,
    ("custom2", "roi", "accuracy"): 0.92,
    ("color", "whole", "mean_iou"): 0.59,
    ("mask_rcnn_vgg16", "whole", "mean_iou"): 0.71,
    ("mask_rcnn_resnet50", "whole", "mean_iou"): 0.69,
}
"""The paper's numbers by (model, input, metric), all on its TEST data. The two Mask R-CNN figures follow the
order of its text, "on VGG16 and on ResNet50"."""

PAPER_NOISE: dict[float, float] = {0.05: 0.81, 0.35: 0.51}
"""The paper's accuracy of custom2 on ROI crops at the two ends of its noise sweep, by alpha."""

_FIELDS = ("model", "input", "split", "metric", "value", "low", "high", "paper")
_HEADER = ("experiment", "config", "seeds", "data_fingerprint", "wall_time", "notes", "code_version",
           "device", "versions", "created")


def row(
    *,
    model: str,
    input: str,
    split: str,
    metric: str,
    value: Number,
    low: Number | None = None,
    high: Number | None = None,
    paper: Number | None = None,
    **extra: Any,
) -> dict[str, Any]:
    """One row of a results file: what is None is left out, NumPy and JAX scalars become plain numbers.

    Raises:
      DataError: as ``write_results`` does, here already where the row is made.
    """
    given = dict(zip(_FIELDS, (model, input, split, metric, value, low, high, paper), strict=True)) | extra
    made = {key: _plain(item) for key, item in given.items() if item is not None}
    _check_row(made, f"row ({model}, {input}, {split}, {metric})")
    return made


def write_results(
    path: str | os.PathLike,
    *,
    experiment: str,
    config: Any,
    rows: Iterable[Mapping[str, Any]],
    seeds: int | Sequence[int],
    data_fingerprint: str,
    wall_time: int | float,
    notes: Sequence[str] = (),
) -> Path:
    """Write a results file, whole or not at all, in the order the rows are given.

    Adds the code version, device, versions of Python, JAX and Flax, and the time. With several processes only
    the first writes. An absolute path in ``config`` is recorded by its last part: the fingerprint identifies
    the data, not the folder it lay in.

    Args:
      config: the resolved config, a dataclass or a nested dict.
      wall_time: seconds the experiment took.
      notes: sentences for the reader, printed under the table.

    Raises:
      DataError: a row has an unknown model, input or metric, a value that is not finite or out of the
        metric's range or of its own interval, or differs from an earlier row in its numbers only.
    """
    path = Path(path)
    rows = [{key: _plain(item) for key, item in r.items()} for r in rows]
    _check_rows(rows, path)
    header = dict(
        experiment=experiment,
        config=_plain(config),
        seeds=[int(s) for s in ([seeds] if isinstance(seeds, int) else seeds)],
        data_fingerprint=data_fingerprint,
        wall_time=round(float(wall_time), 1),
        notes=list(notes),
        **environment(),
    )
    head = json.dumps(header, indent=2, allow_nan=False).removesuffix("\n}")
    # One line a row: easy to read and to compare.
    body = ",\n".join("    " + json.dumps(r, allow_nan=False) for r in rows)
    if jax.process_index() == 0:
        write_text(path, f'{head},\n  "rows": [\n{body}\n  ]\n}}\n')
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(str(path))  # nobody reads it before it is there
    return path


def read_results(path: str | os.PathLike) -> dict[str, Any]:
    """A results file as the dict that was written: ``experiment``, ``config``, ``rows``, ``seeds`` ….

    Raises:
      DataError: the file is missing, no JSON, lacks a part, or holds an invalid row.
    """
    path = Path(path)
    try:
        results = parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such results file; run the experiment that writes it") from error
    except ValueError as error:
        raise DataError(f"{path}: not a results file ({error}); run its experiment again") from error
    missing = [key for key in (*_HEADER, "rows") if not isinstance(results, dict) or key not in results]
    if missing:
        raise DataError(f"{path}: no results file, it lacks {', '.join(missing)}; run its experiment again")
    _check_rows(results["rows"], path)
    return results


def environment() -> dict[str, Any]:
    """Code version, device, library versions and time: what a measurement depends on besides its config."""
    device = jax.devices()[0]
    return {
        "code_version": code_version(),
        "device": {"kind": device.device_kind, "platform": device.platform, "count": jax.device_count(),
                   "processes": jax.process_count(), "host_cpus": os.cpu_count()},
        "versions": {"python": platform.python_version(),
                     **{name: importlib.metadata.version(name) for name in ("jax", "flax", "numpy")}},
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def code_version() -> str:
    """Version of the package, with the git commit when it runs from a checkout: ``0.1.0+1a2b3c4d5e6f``.

    ``-dirty`` is added when a file the results depend on (the package or ``experiments/*.py``) differs from
    the commit.
    """
    version = importlib.metadata.version("wbcjax")
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():  # installed somewhere: a repository further up would not be ours
        return version
    try:
        commit = _git(checkout, "rev-parse", "--short=12", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--", "wbcjax", "experiments/*.py")
    except (OSError, subprocess.SubprocessError):  # no git, or no commit yet
        return version
    return f"{version}+{commit}{'-dirty' if changed else ''}"


def _git(checkout: Path, *arguments: str) -> str:
    command = ["git", "-C", str(checkout), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def _plain(value: Any) -> Any:
    """The same value in JSON's types."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Path):
        return value.name if value.is_absolute() else str(value)
    if hasattr(value, "tolist"):  # NumPy and JAX scalars and arrays
        return value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _check_rows(rows: Any, path: Path) -> None:
    if not isinstance(rows, list):
        raise DataError(f"{path}: rows is {rows!r}, expected a list; run its experiment again")
    seen: dict[str, int] = {}
    for number, r in enumerate(rows):
        where = f"{path}: row {number}"
        _check_row(r, where)
        numbers = ("value", "low", "high", "paper")
        identity = json.dumps({key: r[key] for key in r if key not in numbers}, sort_keys=True)
        if identity in seen:
            raise DataError(f"{where} and row {seen[identity]} are both {identity}; add a key that differs")
        seen[identity] = number


def _check_row(r: Any, where: str) -> None:
    if not isinstance(r, Mapping):
        raise DataError(f"{where} is {r!r}: expected a table of fields; make rows with results.row")
    for name, known in (("model", MODELS), ("input", INPUTS), ("metric", tuple(METRICS))):
        if r.get(name) not in known:
            raise DataError(f"{where} has {name} = {r.get(name)!r}; known are {', '.join(known)}")
    if not isinstance(r.get("split"), str) or not r["split"]:
        raise DataError(f"{where} has split = {r.get('split')!r}; name the images measured, such as 'TEST'")
    if "value" not in r or ("low" in r) != ("high" in r):
        raise DataError(f"{where} has no value, or only one of low and high; give both or neither")
    for name, item in r.items():
        numeric = name in ("value", "low", "high", "paper")
        number = isinstance(item, int | float) and not isinstance(item, bool)
        # A whole number that no float can hold compares like one.
        if (numeric and not number) or (number and not abs(item) <= sys.float_info.max):
            raise DataError(f"{where} has {name} = {item!r}; expected a finite number")
        if not isinstance(item, int | float | str | bool):
            raise DataError(f"{where} has {name} = {item!r}; one row holds one figure: numbers and text only")
    minimum, maximum = METRICS[r["metric"]]
    value, slack = r["value"], 1e-6  # float32 sums may end a rounding error beyond the bound
    if not minimum - slack <= value <= maximum + slack:
        raise DataError(f"{where} has {r['metric']} = {value}; expected {minimum}..{maximum}, not percent")
    if "low" in r and not r["low"] - slack <= value <= r["high"] + slack:
        raise DataError(f"{where} has value {value} outside {r['low']}..{r['high']}; check their order")
