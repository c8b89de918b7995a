"""The figure of settings changed one at a time."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from wbcjax.report import style
from wbcjax.report.cells import MODEL_NAMES, Row


@style.look()
def sensitivity_figure(rows: Sequence[Row], path: Path | str, *, base: str, choices: Mapping[str, str]) -> Path:
    """Accuracy of each variant, and its difference from the base, with intervals; one block a setting.

    Args:
      rows: of one model: ``accuracy`` and ``difference`` of variants called "setting: choice", and of the base.
      path: the PNG to write.
      base: the variant that all others differ from in one setting.
      choices: the base's own choice in each setting; an empty mapping names none.

    Raises:
      ValueError: if the base has no accuracy.
    """
    figures = {(row["variant"], row["metric"]): row for row in rows if "variant" in row}
    if (base, "accuracy") not in figures:
        raise ValueError(f"sensitivity_figure needs the accuracy of {base!r}")
    of_base, model = figures[base, "accuracy"], next(iter(rows))["model"]
    variants = [name for name, metric in figures if metric == "accuracy" and name != base]
    lines: list[tuple[float, str, str]] = [(0.0, base, base)]  # height, text, variant
    headings: list[tuple[float, str]] = []
    height, last = 0.5, ""
    for variant in variants:
        setting, _, choice = variant.rpartition(": ")
        if setting != last:
            height, last = height + 1.35, setting
            taken = f", recipe: {choices[setting]}" if setting in choices else ""
            headings.append((height - 0.75, f"{setting[:1].upper()}{setting[1:]}{taken}"))
        lines.append((height, choice, variant))
        height += 0.8
    figure, axes = style.new(1, 2, 9.2, 0.9 + 0.3 * height, sharey=True)
    panels = (("accuracy", "Accuracy, %", of_base["value"]), ("difference", "Difference from the recipe, points", 0))
    for ax, (metric, title, mark) in zip(axes[0], panels, strict=True):
        ax.axvline(100 * mark, color=style.MUTED, linewidth=1.2, linestyle="--", zorder=0)
        for y, _, variant in lines:
            found = figures.get((variant, metric))
            if found is None:
                continue
            color = style.INK if variant == base else style.SERIES[0]
            ax.plot([100 * found["low"], 100 * found["high"]], [y, y], color=color, linewidth=2.2, alpha=0.55,
                    solid_capstyle="butt")
            ax.plot(100 * found["value"], y, color=color, marker="D" if variant == base else "o")
            form = f"{100 * found['value']:+.1f}" if metric == "difference" else f"{100 * found['value']:.1f}"
            ax.annotate(form, (100 * found["high"], y), xytext=(5, 0), textcoords="offset points", va="center",
                        fontsize=8, color=color)
        ax.set_title(title)
        ax.grid(axis="x")
        ax.margins(x=0.1)
    first = axes[0, 0]
    first.set_yticks([y for y, _, _ in lines], [text for _, text, _ in lines])
    for y, text in headings:
        first.annotate(text, (0, y), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
                       va="center", fontsize=8, color=style.MUTED)
    first.set_ylim(height - 0.2, -0.7)
    first.tick_params(axis="y", length=0)
    axes[0, 1].tick_params(axis="y", length=0)
    split = of_base["split"]
    figure.suptitle(f"{MODEL_NAMES.get(model, model)}, {split}", x=0.01, ha="left", fontsize=9, color=style.MUTED)
    return style.save(figure, path)
