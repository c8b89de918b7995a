"""The figure of leaking splits: accuracy by how the held-out fifth is chosen."""

from collections.abc import Sequence
from pathlib import Path

from wbcjax.report import style
from wbcjax.report.cells import Row, combine
from wbcjax.report.literature import FOLDS


@style.look()
def split_accuracies(rows: Sequence[Row], path: Path | str) -> Path:
    """One point a split with its 95 % interval, and how many of the held-out originals are trained on too.

    Args:
      rows: of one model, with ``fold_by`` and ``experiment``, as ``pipeline.leakage`` makes them.
      path: the PNG to write.
    """
    kinds = [kind for kind in FOLDS if any(row["fold_by"] == kind for row in rows)]
    figure, axes = style.new(1, 1, 6.4, 0.9 + 0.55 * len(kinds))
    ax = axes[0, 0]
    for place, kind in enumerate(kinds):
        same = [row for row in rows if row["fold_by"] == kind]
        found = {key: combine([row for row in same if (row["metric"], row.get("part")) == key])
                 for key in (("accuracy", None), ("originals", "both"), ("originals", "held out"))}
        value, low, high = (100 * found["accuracy", None][key] for key in ("value", "low", "high"))
        both, held = found["originals", "both"]["value"], found["originals", "held out"]["value"]
        color = style.SERIES[0] if kind == "original" else style.ORANGE
        ax.plot([low, high], [place, place], color=color, linewidth=2)
        ax.plot(value, place, marker="o", color=color, markersize=7)
        ax.annotate(f"{value:.1f} %", (value, place), (0, 7), textcoords="offset points", ha="center", color=color,
                    fontweight="bold")
        ax.annotate(f"{both:.0f} of {held:.0f} originals trained on too", (1.01, place),
                    xycoords=("axes fraction", "data"), va="center", color=style.MUTED)
    ax.set(yticks=range(len(kinds)), ylim=(len(kinds) - 0.5, -0.6), xlabel="accuracy on the held-out fifth, %")
    ax.set_yticklabels([FOLDS[kind] for kind in kinds])
    ax.grid(axis="x")
    return style.save(figure, path)
