"""Table 10 and the table of leaking splits."""

from wbcjax.evaluation.results import row
from wbcjax.report import tables
from wbcjax.report.from_results import draw_results
from wbcjax.report.html import read_index
from wbcjax.report.literature import PUBLISHED, UNSHARED
from wbcjax.report.split_figure import split_accuracies


def result(experiment, rows):
    return {"experiment": experiment, "rows": rows}


def accuracy(model, value, split="TEST", metric="accuracy", roi="color", **keys):
    return row(model=model, input="roi", roi=roi, split=split, metric=metric, value=value, **keys)


def texts(table):
    return [[cell.text for cell in line] for line in table.rows]


def test_table_10_has_other_papers_methods_and_the_papers_networks():
    rows = [accuracy("capsule", 0.8, low=0.7, high=0.9), accuracy("svm", 0.85), accuracy("svm", 0.9, roi="oracle"),
            accuracy("svm", 0.75, split="TRAIN, folds by original"), accuracy("svm", 0.7, split=UNSHARED),
            accuracy("svm", 0.6, metric="balanced_accuracy")]
    own = [accuracy("custom1", 0.89, paper=0.88), accuracy("lenet", 0.5),
           accuracy("custom1", 0.1, split="TRAIN, fold 0 of 5", variant="recipe")]
    built = {t.key: t for t in tables.build_tables([result("table10_literature", rows), result("table9", own)])}
    table = built["table10"]
    assert [(c.group, c.heading) for c in table.columns] == [
        ("", "method"), ("TEST", "Colour ROI"), ("TEST", "True boxes"), ("Colour ROI", "balanced"),
        ("Colour ROI", "cells not in TRAIN"), ("Colour ROI", "folds of TRAIN"), ("", "as published")]
    assert texts(table)[:3] == [
        ["Features, support vector machine", "85.0", "90.0", "60.0", "70.0", "75.0", "–"],
        ["Capsule network", "80.0", "–", "–", "–", "–", "–"],
        ["Custom CNN 1", "89.0", "–", "–", "–", "–", "–"]]
    assert table.rows[1][1].interval == "70.0–90.0"
    assert len(table.rows) == 3 + len(PUBLISHED) and texts(table)[3][-1] == "99.0"
    assert {line[0].text for line in built["table9-TEST"].rows} == {"LeNet", "Custom CNN 1"}
    assert f"table9-{UNSHARED}" not in built


def leaking(fold_by, value, shared):
    common = dict(model="custom1", input="roi", roi="color", split="pooled", seed=0, fold_by=fold_by, folds_judged=1)
    return [row(**common, metric="accuracy", value=value, low=value - 0.01, high=value + 0.01),
            row(**common, metric="balanced_accuracy", value=value),
            *(row(**common, metric="images", part=p, value=v) for p, v in (("trained on", 9955.2), ("held out", 2489))),
            *(row(**common, metric="originals", part=p, value=v)
              for p, v in (("trained on", 348), ("held out", 342), ("both", shared)))]


def test_leaking_splits_stand_in_their_own_table_alone():
    built = tables.build_tables([result("leakage", [*leaking("file", 0.985, 342), *leaking("original", 0.88, 0)])])
    assert [table.key for table in built] == ["leakage"]
    assert texts(built[0]) == [
        ["at random, files", "1", "9,955", "2,489", "342", "342", "98.5", "98.5"],
        ["by true original", "1", "9,955", "2,489", "342", "0", "88.0", "88.0"]]
    assert built[0].rows[0][6].interval == "97.5–99.5"


def test_the_figure_of_leaking_splits(tmp_path):
    results = [result("leakage", [*leaking("file", 0.985, 342), *leaking("original", 0.88, 0)])]
    path, = draw_results(results, tmp_path)
    assert path.read_bytes().startswith(b"\x89PNG") and read_index(tmp_path)[0]["file"] == "leakage.png"
    rows = [{**row, "experiment": "leakage"} for row in results[0]["rows"]]
    assert split_accuracies(rows[:7], tmp_path / "one.png").read_bytes() != path.read_bytes()


def test_without_such_rows_there_are_no_such_tables():
    keys = {table.key for table in tables.build_tables([result("table9", [accuracy("custom1", 0.9)])])}
    assert not keys & {"table10", "leakage"}
