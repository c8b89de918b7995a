"""Reliability, risk and coverage, and the ROC of foreign images, drawn from the rows of their studies."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from wbcjax.report import style
from wbcjax.report.cells import Row, unique
from wbcjax.report.html import add_figure
from wbcjax.typing import Images

TILES = 12
"""Crops of each kind in the figure of foreign images."""


def draw_uncertainty(rows: Sequence[Row], folder: Path) -> list[Path]:
    """The reliability diagrams and the risk–coverage curve, entered in the folder's index."""
    judged = [row for row in rows if "network" in row]
    diagrams = reliability_diagrams([r for r in judged if r["metric"] == "bin_accuracy"], folder / "reliability.png")
    add_figure(diagrams, "uncertainty", "Reliability of the recommended network on TEST",
               "Ten bins of equal mass; bars are 95 % intervals, bootstrapped over originals within class.")
    scaled = [row for row in judged if "kept" in row and row["calibration"] == "temperature"]
    curve = risk_coverage_curve(scaled, folder / "risk_coverage.png")
    add_figure(curve, "uncertainty", "Errors among the most certain images of TEST",
               "With the temperature of the folds. Bands are 95 % intervals, bootstrapped over originals within class.")
    return [diagrams, curve]


@style.look()
def reliability_diagrams(rows: Sequence[Row], path: Path) -> Path:
    """Accuracy against confidence in bins, a panel a network and calibration."""
    keys = unique((row["network"], row["calibration"]) for row in rows)
    figure, axes = style.new(1, len(keys), 0.5 + 2.7 * len(keys), 3.1, sharey=True)
    for ax, key in zip(axes[0], keys, strict=True):
        same = [row for row in rows if (row["network"], row["calibration"]) == key]
        x, y, low, high = (np.array([row[name] for row in same]) for name in ("confidence", "value", "low", "high"))
        ax.plot([0.25, 1], [0.25, 1], color=style.MUTED, linewidth=1, linestyle="--")
        ax.errorbar(x, y, [y - low, high - y], color=style.SERIES[0], marker="o", markersize=4, elinewidth=1)
        scaling = "as trained" if key[1] == "none" else "with temperature"
        ax.set_title(f"{key[0]},\n{scaling}")
        ax.set(xlabel="confidence", xlim=(0.25, 1.02), ylim=(0, 1.02))
        ax.grid()
    axes[0, 0].set_ylabel("accuracy")
    return style.save(figure, path)


@style.look()
def risk_coverage_curve(rows: Sequence[Row], path: Path) -> Path:
    """Share of errors among the images kept, against their share of all, a curve a network."""
    figure, axes = style.new(1, 1, 5.4, 3.5)
    ax = axes[0, 0]
    for number, network in enumerate(unique(row["network"] for row in rows)):
        same = sorted((row for row in rows if row["network"] == network), key=lambda row: row["kept"])
        kept, value, low, high = (100 * np.array([row[name] for row in same])
                                  for name in ("kept", "value", "low", "high"))
        color = style.SERIES[number]
        ax.fill_between(kept, 100 - high, 100 - low, color=color, alpha=0.13, linewidth=0)
        ax.plot(kept, 100 - value, color=color, marker=style.MARKERS[number], markersize=4, label=network)
    ax.axhline(1, color=style.MUTED, linewidth=1, linestyle=":", label="1 %")
    ax.set(xlabel="most certain images kept, %", ylabel="of these read wrong, %")
    ax.set_ylim(bottom=0)
    ax.grid(axis="y")
    ax.legend(loc="upper left")
    return style.save(figure, path)


@style.look()
def draw_roc(rows: Sequence[Row], folder: Path) -> Path:
    """The ROC of every score, a panel a kind of foreign images, entered in the folder's index."""
    rows = [row for row in rows if "score" in row]
    against = next(row["against"] for row in rows if row["metric"] == "true_positive_rate")
    rows = [row for row in rows if row["against"] == against]
    kinds, scores = (unique(row[key] for row in rows) for key in ("foreign", "score"))
    figure, axes = style.new(-(-len(kinds) // 3), min(3, len(kinds)), 9.2, 0.4 + 3 * -(-len(kinds) // 3), sharey=True)
    for ax in axes.flat[len(kinds):]:
        ax.set_axis_off()
    for ax, kind in zip(axes.flat, kinds, strict=False):
        for number, score in enumerate(scores):
            same = [row for row in rows if (row["foreign"], row["score"]) == (kind, score)]
            curve = sorted((row["false_positive_rate"], row["value"]) for row in same
                           if row["metric"] == "true_positive_rate")
            area = next(row["value"] for row in same if row["metric"] == "auroc")
            ax.step(*zip(*curve, strict=True), where="post", color=style.SERIES[number],
                    label=f"{score} {area:.3f}")
        ax.plot([0, 1], [0, 1], color=style.MUTED, linewidth=1, linestyle="--")
        ax.set_title(kind)
        ax.set(xlabel="foreign images accepted", xlim=(-0.01, 1), ylim=(0, 1.02))
        ax.grid()
        ax.legend(loc="lower right", fontsize=7.5)
    for ax in axes[:, 0]:
        ax.set_ylabel("TEST accepted")
    path = style.save(figure, folder / "out_of_distribution.png")
    add_figure(path, "uncertainty", "Foreign images accepted against TEST's accepted",
               f"Told from {against}; with each score its AUROC.")
    return path


@style.look()
def draw_foreign(kinds: Mapping[str, Images], folder: Path) -> Path:
    """The first crops of each kind of foreign images, entered in the folder's index."""
    figure, axes = style.new(len(kinds), TILES, 9.2, 0.98 * len(kinds))
    for line, (kind, images) in zip(axes, kinds.items(), strict=True):
        for k, ax in enumerate(line):
            style.bare(ax, images[k] if k < len(images) else None)
        # A title's middle belongs to the layout: of a long one it lies right of the crop. A blank keeps its height.
        line[0].set_title(" ", fontsize=8, pad=3)
        line[0].text(0, 1.04, f"{kind} ({len(images)})", transform=line[0].transAxes, fontsize=8, fontweight="bold",
                     in_layout=False)
    path = style.save(figure, folder / "foreign_images.png")
    add_figure(path, "uncertainty", "Foreign images, as the classifier sees them", "The first of each kind.")
    return path
