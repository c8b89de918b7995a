"""The figures of the paper as PNG files: distributions, matrices and curves here, pictures in ``pictures``.

Every function takes plain arrays or paths, writes one PNG in the common style and returns its path.
matplotlib is imported only when something is drawn.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from wbcjax.errors import DataError
from wbcjax.evaluation.classification import normalize_columns, normalize_rows
from wbcjax.report import style
from wbcjax.report.overlay import masked_detections
from wbcjax.report.pictures import detections, misread_originals, noise_examples, roi_steps

__all__ = [
    "Curve",
    "confusion_matrices",
    "detections",
    "iou_distribution",
    "masked_detections",
    "misread_originals",
    "noise_curves",
    "noise_examples",
    "read_metrics",
    "roi_steps",
    "training_curves",
]


@style.look()
def iou_distribution(
    values: Mapping[str, Float[np.ndarray, "n"]],
    path: Path | str,
    *,
    paper_mean: Mapping[str, float] | None = None,
    bins: int = 20,
) -> Path:
    """Fig. 8: how the IoU is distributed over the test images, one panel a method on a common axis.

    Args:
      values: method and the IoU of every image: 0 where no box was found, NaN (left out) where none is
        annotated.
      path: the PNG to write.
      paper_mean: the paper's mean of a method, marked by a dashed line.
      bins: number of equal bins over [0, 1].
    """
    if not values:
        raise ValueError("iou_distribution needs the values of at least one method")
    figure, axes = style.new(len(values), 1, 6.4, 0.55 + 1.75 * len(values), sharex=True, sharey=True)
    edges = np.linspace(0, 1, bins + 1)
    paper_mean = paper_mean or {}
    for i, (ax, (name, iou)) in enumerate(zip(axes[:, 0], values.items(), strict=True)):
        color = style.SERIES[i % len(style.SERIES)]
        iou = iou[~np.isnan(iou)]
        ax.hist(iou, bins=edges, color=color, alpha=0.85, edgecolor="white", linewidth=0.8)
        ax.grid(axis="y")
        ax.set_title(f"{name} ({len(iou)} images)")
        ax.set_ylabel("images")
        marks = []
        if len(iou):
            mean, median = float(np.mean(iou)), float(np.median(iou))
            marks += [(mean, f"mean {mean:.3f}", style.INK, "-"), (median, f"median {median:.3f}", style.INK, ":")]
        if name in paper_mean:
            marks.append((paper_mean[name], f"paper's mean {paper_mean[name]:.2f}", style.MUTED, "--"))
        for value, text, line_color, line in marks:
            ax.axvline(value, color=line_color, linewidth=1.4, linestyle=line, label=text)
        if marks:
            ax.legend(loc="upper left")
    axes[-1, 0].set(xlabel="IoU with the annotated box", xlim=(0, 1), xticks=np.linspace(0, 1, 11))
    return style.save(figure, path)


@style.look()
def confusion_matrices(
    counts: Int[np.ndarray, "classes classes"],
    class_names: Sequence[str],
    path: Path | str,
    *,
    title: str | None = None,
) -> Path:
    """Tables 4-7 as pictures: a confusion matrix by row (recall) and by column (precision), side by side.

    Args:
      counts: number of images of each true class (row) read as each class (column).
      class_names: names in label order.
      path: the PNG to write.
      title: what was classified, such as "custom2, ROI crops".
    """
    n = len(class_names)
    figure, axes = style.new(1, 2, 2 * (1.5 + 0.68 * n), 0.9 + 0.68 * n + (0.25 if title else 0))
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=10.5, fontweight="bold")
    kinds = (("By row: of each true class, read as", 1), ("By column: of each prediction, truly", 0))
    for ax, (heading, axis) in zip(axes[0], kinds, strict=True):
        share = normalize_rows(counts) if axis == 1 else normalize_columns(counts)
        totals = np.broadcast_to(counts.sum(axis=axis, keepdims=True), counts.shape)
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        ax.set_title(heading, fontsize=9, fontweight="normal", color=style.MUTED)
        ax.set(xticks=range(n), yticks=range(n), xlabel="predicted", ylabel="true")
        ax.set_xticklabels(class_names, rotation=30, ha="right", rotation_mode="anchor")
        ax.set_yticklabels(class_names)
        ax.tick_params(length=0)
        ax.set_xticks(np.arange(n + 1) - 0.5, minor=True)
        ax.set_yticks(np.arange(n + 1) - 0.5, minor=True)
        ax.grid(which="minor", color="white", linewidth=2)
        ax.tick_params(which="minor", length=0)
        ax.spines[:].set_visible(False)
        for i, j in np.ndindex(n, n):
            look = {"ha": "center", "va": "center", "color": "white" if share[i, j] > 0.55 else style.INK}
            ax.text(
                j,
                i - 0.1,
                f"{100 * share[i, j]:.1f}" if totals[i, j] else "–",
                fontsize=9.5,
                fontweight="bold" if i == j else "normal",
                **look,
            )
            ax.text(j, i + 0.24, f"{counts[i, j]:,}", fontsize=7, alpha=0.8, **look)
    return style.save(figure, path)


@dataclass(frozen=True)
class Curve:
    """Accuracy of one model against the noise level; values are fractions in [0, 1]."""

    label: str
    alphas: tuple[float, ...]
    values: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    paper: Mapping[float, float] | None = None
    """The paper's accuracy at the levels it reports."""


@style.look()
def noise_curves(panels: Mapping[str, Sequence[Curve]], path: Path | str) -> Path:
    """Fig. 12: accuracy against noise level α, 95 % intervals as bands, the paper's points hollow.

    Args:
      panels: title of each panel, such as "Whole images", and its curves; a label keeps its colour.
      path: the PNG to write.
    """
    from matplotlib.lines import Line2D

    if not any(panels.values()):
        raise ValueError("noise_curves needs at least one curve")
    hollow = {"markerfacecolor": "white", "linestyle": ":", "linewidth": 1.2, "markersize": 6}
    labels = list(dict.fromkeys(curve.label for curves in panels.values() for curve in curves))
    looks = {
        label: (style.SERIES[i % len(style.SERIES)], style.MARKERS[i % len(style.MARKERS)])
        for i, label in enumerate(labels)
    }
    width = 0.6 + 4.3 * len(panels)
    figure, axes = style.new(1, len(panels), width, 3.5, sharey=True)
    for ax, (title, curves) in zip(axes[0], panels.items(), strict=True):
        for curve in curves:
            color, marker = looks[curve.label]
            if curve.low is not None and curve.high is not None:
                ax.fill_between(
                    curve.alphas,
                    100 * np.array(curve.low),
                    100 * np.array(curve.high),
                    color=color,
                    alpha=0.13,
                    linewidth=0,
                )
            ax.plot(curve.alphas, 100 * np.array(curve.values), color=color, marker=marker)
            if curve.paper:
                points = [100 * v for v in curve.paper.values()]
                ax.plot(list(curve.paper), points, color=color, marker=marker, **hollow)
        ax.set_title(title)
        ax.set(xlabel="noise level α", ylim=(0, 100))
        ax.grid(axis="y")
    axes[0, 0].set_ylabel("accuracy, %")
    handles = [
        Line2D([], [], color=color, marker=marker, label=name) for name, (color, marker) in looks.items()
    ]
    if any(curve.paper for curves in panels.values() for curve in curves):
        handles.append(Line2D([], [], color=style.MUTED, marker="o", label="the paper's", **hollow))
    per_entry = 0.5 + 0.07 * max(map(len, labels))  # inches
    columns = int(np.clip(width / per_entry, 1, min(4, len(handles))))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return style.save(figure, path)


METRIC_NAMES = ("loss", "accuracy", "valid_loss", "valid_accuracy")


def read_metrics(path: Path | str) -> dict[str, Float[np.ndarray, "epochs 2"]]:
    """Read a metrics file (JSON lines) into one (epoch, value) array a metric, averaged within each epoch.

    A line is an object with ``epoch`` and any of ``loss``, ``accuracy``, ``valid_loss``, ``valid_accuracy``;
    other lines and keys are passed over. A last line cut short by an interruption is left out.

    Raises:
      DataError: if the file is missing, or a line before the last is no JSON.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such metrics file; train first, or give the run's metrics.jsonl")
    lines = path.read_text(encoding="utf-8").splitlines()
    values: dict[str, dict[float, list[float]]] = {name: {} for name in METRIC_NAMES}
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise DataError(f"{path}: line {number} is no JSON ({error.msg}); remove it") from error
        if isinstance(record, dict) and isinstance(record.get("epoch"), int | float):
            epoch = math.ceil(record["epoch"])  # a line within an epoch counts towards its end
            for name in METRIC_NAMES:
                if isinstance(record.get(name), int | float):
                    values[name].setdefault(epoch, []).append(record[name])
    return {
        name: np.array([[epoch, np.mean(seen)] for epoch, seen in sorted(by_epoch.items())], np.float64)
        for name, by_epoch in values.items()
        if by_epoch
    }


@style.look()
def training_curves(runs: Mapping[str, Path | str], path: Path | str) -> Path:
    """Loss and accuracy against the epoch: dashed on training batches, solid on the held-out fold.

    Args:
      runs: label of each run and its metrics file, as ``read_metrics`` takes it.
      path: the PNG to write.

    Raises:
      DataError: if a metrics file is missing or damaged.
    """
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    figure, axes = style.new(1, 2, 9.2, 3.5)
    dashes = (0, (3, 1.5))
    colors = [style.SERIES[i % len(style.SERIES)] for i in range(len(runs))]
    drawn = set()
    for color, source in zip(colors, runs.values(), strict=True):
        metrics = read_metrics(source)
        for name, points in metrics.items():
            held_out = name.startswith("valid_")
            drawn.add(held_out)
            ax, unit = (axes[0, 0], 1) if name.endswith("loss") else (axes[0, 1], 100)
            ax.plot(
                points[:, 0],
                unit * points[:, 1],
                color=color,
                marker="o" if len(points) == 1 else None,
                linestyle="-" if held_out else dashes,
                linewidth=1.6 if held_out else 1.2,
            )
    for ax, title in ((axes[0, 0], "Loss"), (axes[0, 1], "Accuracy, %")):
        ax.set_title(title)
        ax.set_xlabel("epoch")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(axis="y")
    axes[0, 0].set_ylim(bottom=0)
    axes[0, 1].set_ylim(0, 100)
    handles = [Line2D([], [], color=color, label=label) for color, label in zip(colors, runs, strict=True)]
    for held_out, label in ((False, "training"), (True, "held out")):
        if held_out in drawn:
            line = "-" if held_out else dashes
            handles.append(Line2D([], [], color=style.MUTED, label=label, linestyle=line))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=min(4, len(handles)))
    return style.save(figure, path)
