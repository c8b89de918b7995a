"""The figures that results files alone suffice for: confusion matrices and the noise curve."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wbcjax.report.cells import Row, combine, in_input_order, in_model_order, input_kind, label, unique
from wbcjax.report.figures import Curve, confusion_matrices, noise_curves
from wbcjax.report.html import add_figure
from wbcjax.report.split_figure import split_accuracies
from wbcjax.report.tables import confusion_counts, input_name


def draw_results(results: Sequence[Mapping[str, Any]], figures_dir: Path | str) -> list[Path]:
    """Draw every confusion matrix of TEST and the noise curve, and enter them in the folder's index.

    Args:
      results: as ``tables.load_results`` reads them.
      figures_dir: where the PNG files and their ``index.json`` lie.

    Returns:
      The files written, none for results that hold neither.
    """
    folder = Path(figures_dir)
    rows = [{**row, "experiment": result["experiment"]} for result in results for row in result["rows"]]
    drawn = []
    for number, (run, counts, classes, _) in enumerate(confusion_counts(rows)):
        if run["split"] != "TEST":
            continue
        title = f"{label(run)}, {input_name(run)}"
        path = folder / f"confusion_{number}_{run['model']}_{input_kind(run)}.png"
        drawn.append(confusion_matrices(counts, classes, path, title=title))
        add_figure(path, "confusion", f"Confusion matrix of {title}.", "Per cent of the row or column; images below.")
    splits = [row for row in rows if "fold_by" in row]
    if splits:
        path = split_accuracies(splits, folder / "leakage.png")
        drawn.append(path)
        add_figure(path, "classification", "What a leaking split adds to the accuracy.",
                   "The same network and files. Intervals are 95 %, bootstrapped over the held-out originals; orange "
                   "ones are of cells that were trained on.")
    panels = noise_panels(rows)
    if panels:
        path = noise_curves(panels, folder / "fig12_noise.png")
        drawn.append(path)
        add_figure(path, "noise", "Figure 12. Accuracy against the noise level α.",
                   "Bands are 95 % intervals, bootstrapped over originals within class; hollow points are the paper's.")
    return drawn


def noise_panels(rows: Sequence[Row]) -> dict[str, list[Curve]]:
    """The curves of the noise study, one panel a kind of input; rows need ``experiment`` beside their own keys."""
    rows = in_model_order(r for r in rows if r["metric"] == "accuracy" and "alpha" in r and "class_name" not in r)
    panels = {}
    for kind in in_input_order(rows):
        of_kind = [row for row in rows if input_kind(row) == kind]
        name = input_name(of_kind[0])
        curves = [_curve([row for row in of_kind if label(row) == run]) for run in unique(map(label, of_kind))]
        panels[name[:1].upper() + name[1:]] = curves
    return panels


def _curve(rows: Sequence[Row]) -> Curve:
    alphas = sorted({row["alpha"] for row in rows})
    figures = [combine([row for row in rows if row["alpha"] == alpha], prefer="fig12") for alpha in alphas]
    bounded = all("low" in figure for figure in figures)
    low, high = (tuple(figure[key] for figure in figures) if bounded else None for key in ("low", "high"))
    paper = {alpha: figure["paper"] for alpha, figure in zip(alphas, figures, strict=True) if "paper" in figure}
    values = tuple(figure["value"] for figure in figures)
    return Curve(label(rows[0]), tuple(map(float, alphas)), values, low, high, paper or None)
