"""The paper's tables, ours beside the paper's with 95 % intervals, built from the rows of results files.

``build_tables`` turns results, as ``evaluation.results.read_results`` gives them, into ``Table`` values with
text in their cells; ``report.render`` prints them. A figure that no row states is a dash.

Keys of a row used here beside the common ones: ``variant`` (faithful, expanded), ``roi`` (color, mask_rcnn,
oracle), ``alpha``, ``seed``, ``class_name``, ``true`` and ``predicted`` (of ``confusion``), ``source`` (of
``source_accuracy``). Any other key tells settings apart and is shown in the row's label.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from wbcjax.errors import DataError
from wbcjax.evaluation.classification import normalize_columns, normalize_rows
from wbcjax.evaluation.results import read_results
from wbcjax.report.cells import (
    COUNT,
    DASH,
    INPUT_NAMES,
    Cell,
    Column,
    Row,
    Table,
    cell,
    combine,
    experiments_of,
    in_class_order,
    in_input_order,
    in_model_order,
    input_kind,
    label,
    paper_cell,
    percent,
    unique,
)
from wbcjax.report.literature import is_literature, literature_tables
from wbcjax.report.localisation import LOCALISERS, localisation_tables
from wbcjax.report.robustness import robustness_tables
from wbcjax.report.roi_noise import roi_noise_tables
from wbcjax.report.uncertainty import uncertainty_tables


def load_results(folder: Path | str) -> list[dict[str, Any]]:
    """Every results file (``*.json``) of a folder, by name.

    Raises:
      DataError: if the folder is missing, or a file in it is no valid results file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of results; run the experiments first, or name another")
    return [read_results(path) for path in sorted(folder.glob("*.json"))]


def build_tables(results: Sequence[Mapping[str, Any]]) -> list[Table]:
    """All tables that the results allow; the notes of an experiment stand under the first that shows it."""
    rows = [{**row, "experiment": result["experiment"]} for result in results for row in result["rows"]]
    builders = (_data, localisation_tables, _accuracy, literature_tables, _confusion, _measures, _noise,
                robustness_tables, roi_noise_tables, _misread)
    # A network judged with a temperature or in an ensemble is no rival in the other tables.
    others = [row for row in rows if "network" not in row]
    tables = [*(table for build in builders for table in build(others)), *uncertainty_tables(rows)]
    notes = {result["experiment"]: result.get("notes", ()) for result in results}
    done = []
    for table in tables:
        added = [note for experiment in table.experiments for note in notes.pop(experiment, ())]
        done.append(replace(table, notes=(*table.notes, *unique(added))))
    return done


def _data(rows: Sequence[Row]) -> Iterator[Table]:
    """Table 1: files of each class and split (metric ``images``), and the ``originals`` that they are copies of, in the
    experiments called ``table1…``."""
    rows = [row for row in rows if row["metric"] in ("images", "originals") and row["experiment"].startswith("table1")]
    splits = unique(row["split"] for row in rows)
    classes = unique(row.get("class_name", "all") for row in rows)
    kinds = {"ours": ("images", "value"), "paper": ("images", "paper"), "originals": ("originals", "value")}
    shown = [name for name, (metric, _) in kinds.items() if any(row["metric"] == metric for row in rows)]
    body = []
    for name in [*classes, None]:
        line = [Cell(name or "total", kind="label")]
        for split, kind in ((split, kind) for split in splits for kind in shown):
            metric, key = kinds[kind]
            chosen = [row for row in rows if row["split"] == split and row["metric"] == metric
                      and name in (None, row.get("class_name", "all"))]
            known = bool(chosen) and all(key in row for row in chosen)
            line.append(Cell(COUNT(sum(row[key] for row in chosen)) if known else DASH,
                             kind="paper" if kind == "paper" else ""))
        body.append(tuple(line))
    if rows:
        columns = (Column("class"), *(Column(kind, split) for split in splits for kind in shown))
        yield Table("table1", "Table 1. Images of the classification set", "data", columns, tuple(body),
                    experiments=experiments_of(rows))


def confusion_counts(
    rows: Sequence[Row],
) -> Iterator[tuple[Row, Int[np.ndarray, "c c"], list[str], list[Row]]]:
    """The confusion matrices in the rows, one for each model, setting, input and split.

    Yields:
      A row that stands for the run; counts of true (row) by predicted (column) class; the class names in that
      order; the rows used. Those of several seeds are summed; of several experiments the first is taken.
    """
    rows = in_model_order(row for row in rows if row["metric"] == "confusion" and "alpha" not in row)
    classes = in_class_order(row[side] for row in rows for side in ("true", "predicted"))
    runs: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        runs.setdefault((label(row), input_kind(row), row["split"]), []).append(row)
    for same in runs.values():
        first = min(row["experiment"] for row in same)
        same = [row for row in same if row["experiment"] == first]
        counts = np.zeros((len(classes), len(classes)), np.int64)
        for row in same:
            counts[classes.index(row["true"]), classes.index(row["predicted"])] += round(row["value"])
        yield same[0], counts, classes, same


def _confusion(rows: Sequence[Row]) -> Iterator[Table]:
    """Tables 4 to 7: for each model and input the confusion matrix by row and by column, side by side."""
    for number, (run, counts, classes, used) in enumerate(confusion_counts(rows)):
        body = []
        for i, name in enumerate(classes):
            shares = np.concatenate([normalize_rows(counts)[i], normalize_columns(counts)[i]])
            totals = [*[counts[i].sum()] * len(classes), *counts.sum(axis=0)]
            body.append((Cell(name, kind="label"), *(
                Cell(percent(share) if total else DASH, kind="strong" if j % len(classes) == i else "")
                for j, (share, total) in enumerate(zip(shares, totals, strict=True)))))
        paper = {"whole": "Tables 4 and 5. ", "roi": "Tables 6 and 7. "}[run["input"]]
        title = paper if run["model"] in ("custom1", "custom2") and "variant" not in run else ""
        title += f"{label(run)}, {input_name(run)}, {counts.sum():,} images of {run['split']}"
        groups = ("by row", "by column")
        columns = (Column("true class"), *(Column(name, group) for group in groups for name in classes))
        note = "In %. By row: of the images of each true class; by column: of the predictions of each class."
        key = re.sub("[^a-z0-9]+", "-", f"confusion {label(run)} {input_kind(run)} {run['split']}".lower())
        yield Table(key.strip("-"), title, "confusion", columns, tuple(body),
                    (note,) if number == 0 else (), experiments_of(used))


def input_name(row: Row) -> str:
    """What a classifier saw, inside a sentence: "whole images", "ROI crops (colour ROI)"."""
    if row["input"] == "whole":
        return "whole images"
    return f"ROI crops ({INPUT_NAMES.get(row['roi'], row['roi'])})" if "roi" in row else "ROI crops"


def _accuracy(rows: Sequence[Row]) -> Iterator[Table]:
    """Table 9: accuracy of every model on whole images and on crops, one table a split, TEST first."""
    rows = [row for row in rows if row["metric"] == "accuracy" and not row.keys() & {"alpha", "class_name"}]
    rows = in_model_order(row for row in rows if not is_literature(row))
    for split in official_first(row["split"] for row in rows):
        used = [row for row in rows if row["split"] == split]
        crops = [kind for kind in in_input_order(used) if kind != "whole"]
        body = []
        for name in unique(label(row) for row in used):
            of_model = [row for row in used if label(row) == name]
            whole, *on_crops = (combine([row for row in of_model if input_kind(row) == kind], prefer="table9")
                                for kind in ("whole", *crops))
            # Crops by the true boxes are a bound, no rival to the paper's own.
            ours = [cell(found, mark=kind != "oracle") for found, kind in zip(on_crops, crops, strict=True)]
            body.append((Cell(name, kind="label"), cell(whole), paper_cell([whole]), *ours,
                         paper_cell(on_crops)))
        crop_names = [INPUT_NAMES.get(kind, kind) for kind in crops]
        columns = (Column("model"), *(Column(name, "Whole images") for name in ("ours", "paper")),
                   *(Column(name, "ROI crops") for name in (*crop_names, "paper")))
        yield Table(f"table9-{split}", f"{'Table 9. ' if split == 'TEST' else ''}Accuracy on {split}, %",
                    "classification", columns, tuple(body),
                    ("Intervals are 95 %, bootstrapped over originals within class.",), experiments_of(used))


def _measures(rows: Sequence[Row]) -> Iterator[Table]:
    """Balanced accuracy, calibration error and the F1 of each class, of every model and input."""
    names = {"balanced_accuracy": "balanced, %", "ece": "ECE, %", "missed": "no ROI"}
    rows = [row for row in rows if not row["model"].startswith(LOCALISERS)
            and not row.keys() & {"alpha", "fold_by"}]
    scores = [row for row in rows if row["metric"] in names and "class_name" not in row]
    of_class = [row for row in rows if row["metric"] == "f1" and "class_name" in row]
    rows = in_model_order([*scores, *of_class])
    keys = [(metric, None) for metric in names if any(row["metric"] == metric for row in scores)]
    keys += [("f1", name) for name in in_class_order(row["class_name"] for row in of_class)]
    body = []
    for name, kind, split in unique((label(row), input_kind(row), row["split"]) for row in rows):
        same = [row for row in rows if (label(row), input_kind(row), row["split"]) == (name, kind, split)]
        figures = [combine([r for r in same if (r["metric"], r.get("class_name")) == key]) for key in keys]
        shown = Cell(INPUT_NAMES.get(kind, kind))
        forms = [COUNT if metric == "missed" else percent for metric, _ in keys]
        body.append((Cell(name, kind="label"), shown, Cell(split), *map(cell, figures, forms)))
    if body:
        columns = (Column("model"), Column("input"), Column("split"),
                   *(Column(name or names[m], "F1, %" if name else "") for m, name in keys))
        note = ("Balanced: accuracy averaged over the classes. ECE: expected calibration error. No ROI: images "
                "classified whole because no box was found.")
        yield Table("measures", "Further measures", "classification", columns, tuple(body), (note,),
                    experiments_of(rows))


def _noise(rows: Sequence[Row]) -> Iterator[Table]:
    """Figure 12 in numbers: accuracy at each noise level, the paper's below ours."""
    rows = [row for row in rows if row["metric"] == "accuracy" and "alpha" in row and "class_name" not in row]
    rows = in_model_order(rows)
    alphas = sorted({row["alpha"] for row in rows})
    body = []
    for name, kind, split in unique((label(row), input_kind(row), row["split"]) for row in rows):
        same = [row for row in rows if (label(row), input_kind(row), row["split"]) == (name, kind, split)]
        figures = [combine([r for r in same if r["alpha"] == alpha], prefer="fig12") for alpha in alphas]
        shown = INPUT_NAMES.get(kind, kind)
        body.append((Cell(name, kind="label"), Cell(shown), *map(cell, figures)))
        if any(figure and "paper" in figure for figure in figures):
            body.append((Cell(f"{name}, the paper's", kind="label"), Cell(shown, kind="paper"),
                         *(paper_cell([figure]) for figure in figures)))
    if body:
        columns = (Column("model"), Column("input"),
                   *(Column(f"α = {alpha:g}") for alpha in alphas))
        yield Table("noise", "Figure 12. Accuracy under additive Gaussian noise, %", "noise", columns,
                    tuple(body), experiments=experiments_of(rows))


def _misread(rows: Sequence[Row]) -> Iterator[Table]:
    """Originals of which a run misreads most copies: the share of copies that each run reads right, one table a
    split, TEST first."""
    rows = [row for row in rows if row["metric"] == "source_accuracy" and "source" in row]
    rows = in_model_order(row for row in rows if "alpha" not in row)
    for split in official_first(row["split"] for row in rows):
        used = [row for row in rows if row["split"] == split]
        bad = sorted({row["source"] for row in used if row["value"] < 0.5})
        runs = unique((label(row), input_kind(row)) for row in used)
        classes = {row["source"]: row["class_name"] for row in used if "class_name" in row}
        body = []
        for source in bad:
            of_source = [row for row in used if row["source"] == source]
            figures = [combine([r for r in of_source if (label(r), input_kind(r)) == run]) for run in runs]
            body.append((Cell(source, kind="label"), Cell(classes.get(source, DASH)),
                         *(cell(figure, "{:.0%}".format) for figure in figures)))
        if body:
            columns = (Column("original"), Column("class"),
                       *(Column(INPUT_NAMES.get(kind, kind), name) for name, kind in runs))
            where = "" if split == "TEST" else f" ({split})"
            yield Table(f"misread-{split}", f"Originals that a run mostly misreads{where}: share of copies read right",
                        "misread", columns, tuple(body), experiments=experiments_of(used))


def official_first(splits: Iterable[str]) -> list[str]:
    """The different splits by name, the official test set before all others."""
    return sorted(unique(splits), key=lambda name: (name != "TEST", name))
