"""The robustness study as a table and two figures: accuracy against noise, and under each corruption."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from wbcjax.report import style
from wbcjax.report.cells import (
    COUNT,
    INPUT_NAMES,
    Cell,
    Column,
    Row,
    Table,
    cell,
    combine,
    experiments_of,
    in_model_order,
    input_kind,
    label,
    unique,
)
from wbcjax.report.figures import Curve, noise_curves

ALPHAS = (0.0, 0.05, 0.2, 0.35, 0.5)
"""Noise levels that the table shows."""


def robustness_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """Clean accuracy and what is left of it under noise and corruptions, a line a network; TEST and each fold apart."""
    rows = in_model_order(row for row in rows if row["metric"] in METRICS)
    for split in sorted(unique(row["split"] for row in rows)):
        used = [row for row in rows if row["split"] == split]
        body = [_line(name, kind, same) for (name, kind), same in by_run(used).items()]
        columns = (Column("model"), Column("input"), Column("images"),
                   *(Column(f"α = {alpha:g}", "Accuracy") for alpha in ALPHAS),
                   Column("α = 0.05", "Share of the clean accuracy"), Column("α = 0.35", "Share of the clean accuracy"),
                   Column("mean, 0.05 to 0.35", "Share of the clean accuracy"), Column("corruptions"))
        note = ("Noise and corruptions are added to what the network sees, after cropping. Corruptions: mean accuracy "
                "over eleven kinds at five levels.")
        key = "robustness" if split == "TEST" else f"robustness-{split}"
        yield Table(key, f"Robustness to noise and corruptions on {split}, %", "noise", columns, tuple(body), (note,),
                    experiments_of(used))


def _line(name: str, kind: str, rows: Sequence[Row]) -> tuple[Cell, ...]:
    def figure(metric: str, **at) -> Cell:
        return cell(combine([row for row in rows if row["metric"] == metric and at.items() <= row.items()]))

    return (
        Cell(name, kind="label"), Cell(INPUT_NAMES.get(kind, kind)), Cell(COUNT(rows[0]["images"])),
        *(figure("noise_accuracy", alpha=alpha) for alpha in ALPHAS),
        *(figure("noise_retention", alpha=alpha) for alpha in (0.05, 0.35)), figure("mean_retention"),
        figure("mean_corruption_accuracy"),
    )


METRICS = ("noise_accuracy", "noise_retention", "mean_retention", "corruption_accuracy", "mean_corruption_accuracy")


def by_run(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by (label, kind of input) of the run they are of."""
    runs = unique((label(row), input_kind(row)) for row in rows)
    return {run: [row for row in rows if (label(row), input_kind(row)) == run] for run in runs}


def robustness_curves(rows: Sequence[Row], path: Path | str) -> Path:
    """Accuracy against the noise level α, a curve a network and a panel a kind of input."""
    panels: dict[str, list[Curve]] = {}
    noisy = in_model_order(row for row in rows if row["metric"] == "noise_accuracy")
    for (name, kind), same in by_run(noisy).items():
        same = sorted(same, key=lambda row: row["alpha"])
        values, low, high = (tuple(row[key] for row in same) for key in ("value", "low", "high"))
        panels.setdefault(INPUT_NAMES.get(kind, kind), []).append(
            Curve(name, tuple(float(row["alpha"]) for row in same), values, low, high))
    return noise_curves(panels, path)


@style.look()
def corruption_grid(rows: Sequence[Row], path: Path | str) -> Path:
    """Accuracy of every network under every corruption: the mean over the five levels, and the clean one first."""
    rows = in_model_order(rows)
    kinds = unique(row["corruption"] for row in rows if row["metric"] == "corruption_accuracy")
    runs = by_run([row for row in rows if row["metric"] in METRICS])
    shares = np.array([[_clean(same), *(_mean(same, kind) for kind in kinds)] for same in runs.values()])
    figure, axes = style.new(1, 1, 3.2 + 0.62 * shares.shape[1], 1.6 + 0.34 * len(runs))
    ax = axes[0, 0]
    ax.imshow(shares, cmap="Blues", vmin=0.25, vmax=1, aspect="auto")
    for i, j in np.ndindex(shares.shape):
        ax.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=8,
                color="white" if shares[i, j] > 0.75 else style.INK)
    ax.set_xticks(range(shares.shape[1]), ["clean", *(kind.replace("_", " ") for kind in kinds)], rotation=35,
                  ha="right", rotation_mode="anchor")
    inputs = [INPUT_NAMES.get(kind, kind) for _, kind in runs]
    ax.set_yticks(range(len(runs)), [f"{name}, {shown[:1].lower()}{shown[1:]}"
                                     for (name, _), shown in zip(runs, inputs, strict=True)])
    ax.axvline(0.5, color="white", linewidth=4)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_title("Accuracy on TEST under corruptions, %")
    return style.save(figure, path)


def _clean(rows: Sequence[Row]) -> float:
    return next(row["value"] for row in rows if row["metric"] == "noise_accuracy" and row["alpha"] == 0)


def _mean(rows: Sequence[Row], kind: str) -> float:
    return float(np.mean([row["value"] for row in rows if row["metric"] == "corruption_accuracy"
                          and row["corruption"] == kind]))
