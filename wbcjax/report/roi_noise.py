"""Noise before the ROI as tables and figures: localisers against the noise level, and the accuracy behind them.

A row of the chain has ``added``, where noise comes in, ``localiser``, and ``classifier``, which of several.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from wbcjax.report import style
from wbcjax.report.cells import (
    MODEL_NAMES,
    Cell,
    Column,
    Row,
    Table,
    cell,
    combine,
    experiments_of,
    label,
    percent,
    unique,
)

BEFORE = "before the ROI"


def roi_noise_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """IoU and share of missed images of each localiser, and accuracy of the chain, at each noise level."""
    used = [row for row in rows if row["metric"] == "noise_iou" and "alpha" in row]
    missed = {(label(row), row["alpha"]): row["value"] for row in rows
              if row["metric"] == "missed_share" and "added" not in row}
    alphas = sorted({row["alpha"] for row in used})
    body = []
    for name in unique(map(label, used)):
        of_name = [[row for row in used if label(row) == name and row["alpha"] == alpha] for alpha in alphas]
        body.append((Cell(name, kind="label"), *(cell(combine(same), "{:.3f}".format) for same in of_name)))
        shares = (missed.get((name, alpha), 0) for alpha in alphas)
        body.append((Cell(f"{name}, missed", kind="label"), *(Cell(f"{percent(share)} %") for share in shares)))
    levels = tuple(Column(f"α = {alpha:g}") for alpha in alphas)
    if body:
        yield Table("roi-noise", "Localisation in noisy images: IoU with the annotated boxes, detector test", "roi",
                    (Column("method"), *levels), tuple(body), experiments=experiments_of(used))
    used = [row for row in rows if row["metric"] == "chain_accuracy"]
    alphas, body = sorted({row["alpha"] for row in used}), []
    for network, place in unique((row["classifier"], place_name(row)) for row in used):
        of_place = [row for row in used if (row["classifier"], place_name(row)) == (network, place)]
        figures = (combine([row for row in of_place if row["alpha"] == alpha]) for alpha in alphas)
        body.append((Cell(network, kind="label"), Cell(place), *map(cell, figures)))
    if body:
        columns = (Column("network"), Column("noise"), *(Column(f"α = {alpha:g}") for alpha in alphas))
        name = MODEL_NAMES.get(used[0]["model"], used[0]["model"])
        yield Table("chain-noise", f"{name} on {used[0]['images']} files of TEST, noise before and after the ROI: "
                    "accuracy, %", "noise", columns, tuple(body), experiments=experiments_of(used))


def place_name(row: Row) -> str:
    """Where noise comes into the chain of a row, and what finds the cell there."""
    return f"{row['added']}: {localiser_name(row)}" if row["added"] == BEFORE else str(row["added"])


def localiser_name(row: Row) -> str:
    """Name of the localiser in a row of the chain: that of its own rows."""
    return label({"model": row["localiser"], **({"variant": row["variant"]} if "variant" in row else {})})


def looks(names: Sequence[str]) -> Mapping[str, tuple[str, str]]:
    """Colour and marker of each localiser by name."""
    return {name: (style.SERIES[k % len(style.SERIES)], style.MARKERS[k % len(style.MARKERS)])
            for k, name in enumerate(names)}


@style.look()
def roi_noise_curves(rows: Sequence[Row], path: Path | str) -> Path:
    """IoU against the noise level, a curve a localiser, and the share of missed images where there are any; then the
    accuracy of the chain, a panel a network. Bands are 95 % intervals; of the chain that of noise after cropping alone.

    Raises:
      ValueError: without an IoU at a noise level.
    """
    iou = [row for row in rows if row["metric"] == "noise_iou" and "alpha" in row]
    if not iou:
        raise ValueError("roi_noise_curves needs noise_iou at some noise level")
    missed = [row for row in rows if row["metric"] == "missed_share" and "added" not in row]
    chain = [row for row in rows if row["metric"] == "chain_accuracy"]
    networks, known = unique(row["classifier"] for row in chain), looks(unique(map(label, iou)))
    shown = [("IoU with the annotated boxes", iou, 1)]
    if any(row["value"] for row in missed):
        shown.append(("Images without a box, %", missed, 100))
    figure, axes = style.new(1, len(shown) + len(networks), 0.4 + 3.7 * (len(shown) + len(networks)), 3.7)
    for ax, (title, part, unit) in zip(axes[0], shown, strict=False):
        for name, (color, marker) in known.items():
            _curve(ax, [row for row in part if label(row) == name], unit, color=color, marker=marker)
        ax.set(title=title, ylim=(0, unit))
    for ax, network in zip(axes[0, len(shown):], networks, strict=True):
        for place in unique(place_name(row) for row in chain):
            part = [row for row in chain if (row["classifier"], place_name(row)) == (network, place)]
            if part and part[0]["added"] == BEFORE:
                color, marker = known[localiser_name(part[0])]
                # The bands of all places are alike: one of them does not hide the curves.
                _curve(ax, part, 100, band=False, color=color, marker=marker)
            elif part:
                after = part[0]["added"] == "after cropping"
                _curve(ax, part, 100, band=after, **_CLEAN_BOX[after])
        name = MODEL_NAMES.get(chain[0]["model"], chain[0]["model"])
        ax.set(title=f"Accuracy, %: {name}, {network}", ylim=(0, 100))
    for ax in axes.flat:
        ax.grid(axis="y")
        ax.set_xlabel("noise level α")
    figure.legend(handles=_handles(known, bool(chain)), loc="outside lower center", ncols=3)
    return style.save(figure, path)


_CLEAN_BOX = {True: {"color": style.INK, "linestyle": "--", "marker": None},
              False: {"color": style.MUTED, "linestyle": ":", "marker": None}}
"""Looks of the chain's curves with the clean file's box: noise after cropping, and before."""


def _curve(ax, rows: Sequence[Row], unit: int, *, band: bool = True, **line) -> None:
    rows = sorted(rows, key=lambda row: row["alpha"])
    alphas, values = [row["alpha"] for row in rows], [unit * row["value"] for row in rows]
    ax.plot(alphas, values, linewidth=1.5, markersize=4, **line)
    if band and all("low" in row for row in rows):
        low, high = ([unit * row[key] for row in rows] for key in ("low", "high"))
        ax.fill_between(alphas, low, high, color=line["color"], alpha=0.12, linewidth=0)


def _handles(known: Mapping[str, tuple[str, str]], chain: bool) -> list:
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, marker=marker, label=name) for name, (color, marker) in known.items()]
    names = {True: "noise after cropping", False: "noise before cropping, box of the clean file"}
    return handles + [Line2D([], [], label=names[after], **_CLEAN_BOX[after]) for after in names if chain]


@style.look()
def roi_noise_examples(
    pictures: Sequence[UInt8[np.ndarray, "alphas h w 3"]],
    found: Sequence[Mapping[str, Sequence[np.ndarray | None]]],
    crops: Sequence[Mapping[str, UInt8[np.ndarray, "alphas side side 3"]]],
    alphas: Sequence[float],
    path: Path | str,
    *,
    names: Sequence[str],
) -> Path:
    """For each image, at each noise level: the boxes that every localiser finds, and what some of them crop.

    Args:
      pictures: one image at each noise level, each.
      found: of each image the box, or None, at each level, by the localiser's name.
      crops: of each image the crops at each level, by the name of the localiser, one of those of ``found``.
      alphas: the noise level of each column.
      path: the PNG to write.
      names: all localisers, in the order of their colours.
    """
    known, rows = looks(names), 1 + len(crops[0])
    tile, ratio = 1.55, pictures[0].shape[1] / pictures[0].shape[2]
    heights = [ratio, *[0.62] * (rows - 1)] * len(pictures)
    figure, axes = style.new(len(heights), len(alphas), tile * len(alphas) + 0.4, tile * sum(heights) + 0.8,
                             height_ratios=heights)
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.02, hspace=0.02)
    for i, (picture, boxes, crop) in enumerate(zip(pictures, found, crops, strict=True)):
        for k, alpha in enumerate(alphas):
            ax = axes[rows * i, k]
            style.bare(ax, picture[k])
            for name, (color, _) in known.items():
                if boxes[name][k] is not None:
                    style.outline(ax, boxes[name][k], color, 1.3)
            if i == 0:
                ax.set_title(f"α = {alpha:g}", fontsize=8.5, fontweight="normal", pad=4)
            for j, (name, cut) in enumerate(crop.items(), 1):
                style.bare(axes[rows * i + j, k], cut[k])
                if k == 0:
                    wrapped = name.replace(" (", "\n(").replace(", ", ",\n")
                    axes[rows * i + j, k].set_ylabel(wrapped, fontsize=7.5, color=known[name][0])
    figure.legend(handles=_handles(known, False), loc="outside lower center", ncols=4)
    return style.save(figure, path, dpi=90)  # noise does not compress
