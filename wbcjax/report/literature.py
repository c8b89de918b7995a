"""The comparison with other papers: Table 10, their methods under one honest split, and what a leaking split adds.

Rows with ``fold_by`` are of the study of leaking splits and appear in its table alone.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from wbcjax.evaluation.results import LITERATURE
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
    in_input_order,
    in_model_order,
    input_kind,
    label,
    percent,
    unique,
)

UNSHARED = "TEST, cells not in TRAIN"
"""The split without the originals whose very cell is also in TRAIN."""
OWN = ("custom1", "custom2")
"""The paper's networks, for comparison."""
FOLDS = {
    "file": "at random, files",
    "file_number": "by the number in the file name",
    "original": "by true original",
}
"""How the held-out fifth is chosen, by ``fold_by``."""


class Published(NamedTuple):
    """An accuracy as its authors state it for this data, and how far it compares."""

    accuracy: float
    authors: str
    method: str
    split: str


PUBLISHED = (
    Published(0.99, "Saidani et al. 2024", "optimised CNN",
              "five classes, augmented, split not stated, doi 10.1038/s41598-024-52880-0"),
    Published(0.942, "Tavakoli et al. 2021", "features, support vector machine",
              "crops of BCCD, doi 10.1038/s41598-021-98599-0"),
    Published(0.916, "Yao et al. 2021", "deformable CNN, recall", "BCCD, doi 10.1080/21691401.2021.1879823"),
    Published(0.89, "Deng and Da 2023", "best of nine networks",
              "testing part of the 12,444 files, doi 10.32604/fdmp.2023.024836 (training 98, verification 97)"),
)
"""From abstracts and summaries of the papers. The figures of the paper's own Table 10 are not at hand."""


def is_literature(row: Row) -> bool:
    """Whether a row belongs to the tables of this module, and to no other."""
    return row["model"] in LITERATURE or "fold_by" in row


def literature_tables(rows: Sequence[Row]) -> Iterator[Table]:
    """The tables that the rows allow."""
    yield from _table10(rows)
    yield from _leakage(rows)


def _table10(rows: Sequence[Row]) -> Iterator[Table]:
    """Methods of other papers on TEST, the best of the paper's own networks below, and what papers state."""
    own = [row for row in rows
           if row["model"] in OWN and row["experiment"].startswith("table") and "variant" not in row]
    rows = [row for row in rows if row["model"] in LITERATURE]
    chosen = [row for row in rows if row["metric"] == "accuracy" and row["split"].startswith("TRAIN")]
    rows, own = ([row for row in part if row["split"].startswith("TEST") and "class_name" not in row
                  and row["metric"] in ("accuracy", "balanced_accuracy") and "alpha" not in row]
                 for part in (rows, own))
    if not rows:
        return
    kinds = in_input_order(rows)
    body = []
    for name in unique(map(label, [*in_model_order(rows), *in_model_order(own)])):
        same = [row for row in (*rows, *own) if label(row) == name]
        find = lambda metric, split, kind, same=same: combine(  # noqa: E731
            [row for row in same if (row["metric"], row["split"], input_kind(row)) == (metric, split, kind)],
            prefer="table")
        on_folds = combine([row for row in chosen if label(row) == name and input_kind(row) == kinds[0]])
        body.append((Cell(name, kind="label"), *(cell(find("accuracy", "TEST", kind)) for kind in kinds),
                     cell(find("balanced_accuracy", "TEST", kinds[0])), cell(find("accuracy", UNSHARED, kinds[0])),
                     cell(on_folds), Cell(DASH, kind="paper")))
    for paper in PUBLISHED:
        blank = [Cell(DASH)] * (len(kinds) + 3)
        body.append((Cell(f"{paper.authors}: {paper.method}", kind="label"), *blank,
                     Cell(percent(paper.accuracy), kind="paper")))
    columns = (Column("method"), *(Column(INPUT_NAMES.get(kind, kind), "TEST") for kind in kinds),
               Column("balanced", INPUT_NAMES.get(kinds[0], kinds[0])),
               Column("cells not in TRAIN", INPUT_NAMES.get(kinds[0], kinds[0])),
               Column("folds of TRAIN", INPUT_NAMES.get(kinds[0], kinds[0])), Column("as published"))
    splits = "; ".join(f"{paper.authors}: {paper.split}" for paper in PUBLISHED)
    note = ("Ours: official TRAIN and TEST, which share no original; intervals are 95 %, bootstrapped over originals "
            "within class. Folds of TRAIN: by original, where settings were chosen. As published: from abstracts "
            f"and summaries, by the splits of their authors: {splits}.")
    yield Table("table10", "Table 10. Methods of other papers under one split, accuracy in %", "classification",
                columns, tuple(body), (note,), experiments_of(rows))


def _leakage(rows: Sequence[Row]) -> Iterator[Table]:
    """One line a split: what is held out and trained on, and the accuracy."""
    rows = in_model_order(row for row in rows if "fold_by" in row)
    counts = (("images", "trained on", "files: trained on"), ("images", "held out", "files: held out"),
              ("originals", "held out", "originals: held out"), ("originals", "both", "originals: trained on too"))
    body = []
    for name, kind in unique((row["model"], row["fold_by"]) for row in rows):
        same = [row for row in rows if (row["model"], row["fold_by"]) == (name, kind)]
        find = lambda metric, part=None, same=same: combine(  # noqa: E731
            [row for row in same if row["metric"] == metric and row.get("part") == part])
        body.append((
            Cell(FOLDS[kind], kind="label"), Cell(f"{same[0]['folds_judged']}"),
            *(cell(find(metric, part), COUNT) for metric, part, _ in counts),
            cell(find("accuracy")), cell(find("balanced_accuracy")),
        ))
    if body:
        columns = (Column("a fifth is held out"), Column("folds"),
                   *(Column(name.split(": ")[1], name.split(": ")[0]) for *_, name in counts),
                   Column("accuracy, %"), Column("balanced, %"))
        note = ("One network, one recipe, the pooled files of TRAIN and TEST; counts are a fold's mean. Intervals are "
                "95 %, bootstrapped over the held-out originals within class. Under the first two splits these are "
                "trained on too, so the intervals are of further copies of known cells and say nothing of new ones.")
        yield Table("leakage", "What a leaking split adds to the accuracy", "classification", columns, tuple(body),
                    (note,), experiments_of(rows))
