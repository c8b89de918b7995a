"""Calibration, prediction sets, abstention and foreign images in tables.

Rows are those of ``pipeline.uncertainty`` (key ``network``) and ``pipeline.out_of_distribution`` (key ``foreign``).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from wbcjax.report.cells import (
    COUNT,
    Cell,
    Column,
    Row,
    Table,
    cell,
    combine,
    experiments_of,
    in_class_order,
    percent,
    unique,
)

PLAIN = "{:.3f}".format
FORECASTS: dict[str, tuple[str, Callable[[float], str]]] = {
    "accuracy": ("accuracy, %", percent),
    "nll": ("NLL", PLAIN),
    "brier": ("Brier", PLAIN),
    "ece": ("ECE, %", percent),
    "adaptive_ece": ("adaptive ECE, %", percent),
    "chance_ece": ("by chance, %", percent),
    "aurc": ("AURC, %", percent),
}
"""Columns of the table of forecasts."""
SETS: dict[str, tuple[str, Callable[[float], str]]] = {
    "coverage": ("coverage, %", percent),
    "set_size": ("classes", "{:.2f}".format),
    "singletons": ("one class, %", percent),
}
SHOWN = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares kept in the table of abstention."""


def uncertainty_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """How far the probabilities can be believed, prediction sets, abstention, and foreign images."""
    judged = [row for row in rows if "network" in row]
    yield from _forecasts(judged, [row for row in rows if row["metric"] == "temperature"])
    yield from _sets([row for row in judged if "promise" in row])
    yield from _abstention([row for row in judged if row["metric"] in ("selective_accuracy", "accepted")])
    yield from _foreign([row for row in rows if "foreign" in row])


def _forecasts(rows: Sequence[Row], temperatures: Sequence[Row]) -> Iterator[Table]:
    rows = [row for row in rows if row["metric"] in FORECASTS]
    body = []
    for split in sorted(unique(row["split"] for row in rows), key=lambda name: name != "TEST"):
        for network, scaling in unique((row["network"], row["calibration"]) for row in rows if row["split"] == split):
            same = [row for row in rows
                    if (row["split"], row["network"], row["calibration"]) == (split, network, scaling)]
            scaled = combine(temperatures) if scaling == "temperature" else None
            figures = [cell(_of(same, metric), form) for metric, (_, form) in FORECASTS.items()]
            body.append((Cell(network, kind="label"), Cell(split), cell(scaled, PLAIN), *figures))
    if body:
        columns = (Column("network"), Column("split"), Column("temperature"),
                   *(Column(heading) for heading, _ in FORECASTS.values()))
        yield Table("calibration", "Calibration of the recommended network", "uncertainty", columns, tuple(body),
                    experiments=experiments_of(rows))


def _sets(rows: Sequence[Row]) -> Iterator[Table]:
    names = in_class_order(row["class_name"] for row in rows if "class_name" in row)
    body = []
    for key in unique((row["network"], row["promise"], row["score"]) for row in rows):
        same = [row for row in rows if (row["network"], row["promise"], row["score"]) == key]
        whole = [row for row in same if "class_name" not in row]
        by_class = [_of([row for row in same if row.get("class_name") == name], "coverage") for name in names]
        body.append((Cell(key[0], kind="label"), *map(Cell, key[1:]),
                     *(cell(_of(whole, metric), form) for metric, (_, form) in SETS.items()), *map(cell, by_class)))
    if body:
        columns = (Column("network"), Column("promise of 95 %"), Column("score"),
                   *(Column(heading) for heading, _ in SETS.values()), *(Column(name, "coverage, %") for name in names))
        note = "Over the originals of TEST. Classes: their mean number in a set. One class: share of such sets."
        yield Table("sets", "Prediction sets", "uncertainty", columns, tuple(body), (note,), experiments_of(rows))


def _abstention(rows: Sequence[Row]) -> Iterator[Table]:
    ranked = [row for row in rows if "kept" in row]
    body = []
    for key in unique((row["network"], row["calibration"]) for row in ranked):
        same = [row for row in ranked if (row["network"], row["calibration"]) == key]
        shown = [combine([row for row in same if row["kept"] == kept]) for kept in SHOWN]
        body.append((Cell(key[0], kind="label"), Cell(key[1]), *map(cell, shown)))
    notes = [
        f"With the confidence that nine tenths of the folds' images reach as threshold, {one['network']} accepts "
        f"{_text(_of(rows, 'accepted'))} % of TEST and reads {_text(combine([one]))} % of these right."
        for one in rows if one["metric"] == "selective_accuracy" and "threshold" in one
    ]
    if body:
        columns = (Column("network"), Column("calibration"),
                   *(Column(f"{kept:.0%}", "accuracy on the most certain, %") for kept in SHOWN))
        yield Table("abstention", "Abstention: accuracy on the most certain images of TEST", "uncertainty", columns,
                    tuple(body), tuple(notes), experiments_of(rows))


def _foreign(rows: Sequence[Row]) -> Iterator[Table]:
    scores = unique(row["score"] for row in rows if "score" in row)
    for number, against in enumerate(unique(row["against"] for row in rows if "against" in row)):
        body = []
        for kind in unique(row["foreign"] for row in rows):
            same = [row for row in rows if row["foreign"] == kind]
            told = [row for row in same if row.get("against") == against]
            figures = [_of([row for row in told if row["score"] == score], metric)
                       for metric in ("auroc", "fpr95") for score in scores]
            forms = [PLAIN] * len(scores) + [percent] * len(scores)
            body.append((Cell(kind, kind="label"), cell(_of(same, "images"), COUNT), *map(cell, figures, forms)))
        columns = (Column("foreign images"), Column("number"),
                   *(Column(score, group) for group in ("AUROC", "FPR at 95 %, %") for score in scores))
        yield Table(f"foreign-{number}", f"Foreign images told from {against}", "uncertainty", columns, tuple(body),
                    experiments=experiments_of(rows))


def _of(rows: Sequence[Row], metric: str) -> dict[str, float] | None:
    return combine([row for row in rows if row["metric"] == metric])


def _text(figure: Mapping[str, float] | None) -> str:
    made = cell(figure)
    return f"{made.text} ({made.interval})" if made.interval else made.text
