"""Tables: every figure in its place, the choice among rows, and text that survives Markdown, HTML and the console."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rich.console import Console
from sklearn.metrics import confusion_matrix

from wbcjax.errors import DataError
from wbcjax.evaluation.results import row
from wbcjax.report import render, tables
from wbcjax.report.cells import Cell, Column, Table, combine, label
from wbcjax.typing import CLASS_NAMES


def result(experiment, rows, notes=()):
    device = {"kind": "cpu", "platform": "cpu", "count": 1, "processes": 1, "host_cpus": 2}
    return {"experiment": experiment, "rows": rows, "notes": list(notes), "device": device, "wall_time": 12.34,
            "code_version": "0.1.0+abc", "data_fingerprint": "0123456789abcdef", "config": {}, "seeds": [0],
            "versions": {}, "created": "2026-01-01"}


def accuracy(model, value, **keys):
    defaults = {"input": "whole", "split": "TEST", "metric": "accuracy"}
    return row(model=model, value=value, **defaults | keys)


def only(results, section):
    found = [table for table in tables.build_tables(results) if table.section == section]
    assert len(found) == 1
    return found[0]


def texts(table):
    return [[cell.text for cell in line] for line in table.rows]


def test_no_results_give_no_tables():
    assert tables.build_tables([]) == []
    assert render.readme_block([]) == "No results yet.\n"


def test_table_1_counts_classes_and_totals():
    rows = [row(model="color", input="whole", split=split, metric="images", class_name=name, value=count, paper=count)
            for split, counts in (("TRAIN", (2497, 2483)), ("TEST", (623, 620)))
            for name, count in zip(CLASS_NAMES, counts, strict=False)]
    table = only([result("table1_data", rows), result("other", rows)], "data")
    assert texts(table) == [["eosinophil", "2,497", "2,497", "623", "623"],
                            ["lymphocyte", "2,483", "2,483", "620", "620"],
                            ["total", "4,980", "4,980", "1,243", "1,243"]]
    rows += [row(model="data", input="whole", split="TEST", metric="originals", class_name=name, value=count)
             for name, count in zip(CLASS_NAMES, (13, 6), strict=False)]
    table = only([result("table1_data", rows)], "data")
    assert texts(table)[0] == ["eosinophil", "2,497", "2,497", "–", "623", "623", "13"]
    assert texts(table)[2][-1] == "19" and table.columns[-1] == Column("originals", "TEST")


def test_table_2_holds_our_variants_and_the_paper_once():
    rows = [row(model="color", input="whole", split="test", metric=metric, value=value, variant=variant, paper=paper)
            for variant, mean in (("faithful", 0.62), ("expanded", 0.835))
            for metric, value, paper in (("mean_iou", mean, 0.59), ("std_iou", 0.2, 0.1), ("missed", 2, None))]
    table = only([result("table2_color_roi", rows)], "roi")
    assert [column.heading for column in table.columns] == ["method", "set", "missed", "mean", "std"]
    assert texts(table) == [["Colour ROI (faithful)", "test", "2", "0.620", "0.200"],
                            ["Colour ROI (expanded)", "test", "2", "0.835", "0.200"],
                            ["Colour ROI, the paper's", "–", "–", "0.590", "0.100"]]
    assert table.rows[0][3].kind == "good"
    assert table.rows[0][4].kind == ""  # a larger spread is no success


def test_table_9_puts_ours_beside_the_papers():
    rows = [
        accuracy("custom2", 0.9, low=0.85, high=0.95, paper=0.895),
        accuracy("custom2", 0.91, input="roi", roi="color", paper=0.92),
        accuracy("custom2", 0.95, input="roi", roi="oracle", paper=0.92),
        accuracy("custom2", 0.93, input="roi", roi="mask_rcnn", paper=0.92),
        accuracy("lenet", 0.7),
        accuracy("lenet", 0.1, alpha=0.1),  # noise and single classes are no part of it
        row(model="lenet", input="whole", split="TEST", metric="accuracy", class_name="monocyte", value=0.2),
    ]
    table = next(t for t in tables.build_tables([result("table9", rows)]) if t.section == "classification")
    assert [c.heading for c in table.columns] == [
        "model", "ours", "paper", "Colour ROI", "Mask R-CNN ROI", "True boxes", "paper"]
    assert texts(table) == [["LeNet", "70.0", "–", "–", "–", "–", "–"],
                            ["Custom CNN 2", "90.0", "89.5", "91.0", "93.0", "95.0", "92.0"]]
    ours = table.rows[1]
    assert ours[1] == Cell("90.0", "85.0–95.0", "good")
    assert [cell.kind for cell in ours[3:6]] == ["", "good", ""]  # below the paper's; above; true boxes do not compete


def test_other_splits_have_tables_of_their_own_after_test():
    rows = [accuracy("lenet", 0.8, split="TRAIN folds"), accuracy("lenet", 0.7)]
    titles = [table.title for table in tables.build_tables([result("x", rows)])]
    assert titles == ["Table 9. Accuracy on TEST, %", "Accuracy on TRAIN folds, %"]


def test_unknown_keys_tell_settings_apart():
    frozen, tuned = accuracy("vgg16", 0.8, protocol="frozen"), accuracy("vgg16", 0.9, epochs=5)
    assert (label(frozen), label(tuned)) == ("VGG16 (frozen)", "VGG16 (epochs 5)")
    assert len(only([result("x", [frozen, tuned])], "classification").rows) == 2


def test_combine_prefers_the_tables_own_experiment_and_the_row_over_all_seeds():
    def of(experiment, value, **keys):
        return {"experiment": experiment, **accuracy("lenet", value, **keys)}

    assert combine([]) is None
    assert combine([of("a", 0.1), of("table9", 0.2)], prefer="table9") == {"value": 0.2}
    assert combine([of("b", 0.1), of("a", 0.2)], prefer="table9") == {"value": 0.2}
    assert combine([of("a", 0.1, seed=0), of("a", 0.3)]) == {"value": 0.3}
    seeds = [of("a", 0.25, seed=0, low=0.0, high=0.5, paper=0.5), of("a", 0.75, seed=1, low=0.5, high=1.0, paper=0.5)]
    assert combine(seeds) == {"value": 0.5, "low": 0.25, "high": 0.75, "paper": 0.5}


def confusion_rows(counts, **keys):
    return [row(model="custom1", input="whole", split="TEST", metric="confusion", true=CLASS_NAMES[i],
                predicted=CLASS_NAMES[j], value=int(counts[i, j]), **keys) for i, j in np.ndindex(*counts.shape)]


@given(hnp.arrays(np.int64, (30, 2), elements=st.integers(0, 3)))
def test_confusion_matrices_equal_scikit_learns(pairs):
    labels, predictions = pairs.T
    rows = confusion_rows(confusion_matrix(labels, predictions, labels=range(4)))
    table = only([result("table4_5", rows)], "confusion")
    for start, mode, totals in ((1, "true", np.bincount(labels, minlength=4)[:, None] * np.ones(4)),
                                (5, "pred", np.bincount(predictions, minlength=4)[None] * np.ones((4, 1)))):
        expected = confusion_matrix(labels, predictions, labels=range(4), normalize=mode)
        for i, j in np.ndindex(4, 4):
            shown = table.rows[i][start + j].text
            assert shown == (f"{100 * expected[i, j]:.1f}" if totals[i, j] else "–")


def test_confusions_are_found_by_the_name_of_their_run():
    rows = confusion_rows(np.eye(4, dtype=int), variant="one, two") + confusion_rows(np.eye(4, dtype=int))
    found = {table.key: table.title for table in tables.build_tables([result("x", rows)])}
    of_test = "whole images, 4 images of TEST"
    assert found == {"confusion-custom-cnn-1-one-two-whole-test": f"Custom CNN 1 (one, two), {of_test}",
                     "confusion-custom-cnn-1-whole-test": f"Tables 4 and 5. Custom CNN 1, {of_test}"}


def test_confusion_of_seeds_is_summed_and_never_of_two_experiments():
    counts = np.arange(16).reshape(4, 4)
    seeds = [{**r, "experiment": "a"} for seed in (0, 1) for r in confusion_rows(counts, seed=seed)]
    other = [{**r, "experiment": "b"} for r in confusion_rows(counts)]
    [(run, found, classes, used)] = tables.confusion_counts([*seeds, *other])
    assert run["model"] == "custom1" and classes == list(CLASS_NAMES) and len(used) == 32
    np.testing.assert_array_equal(found, 2 * counts)


def test_noise_table_has_the_papers_two_points_below_ours():
    rows = [accuracy("custom2", 0.9 - alpha, input="roi", roi="color", alpha=alpha, paper={0.05: 0.81}.get(alpha))
            for alpha in (0.1, 0.05)]
    table = only([result("fig12_noise", rows)], "noise")
    assert [column.heading for column in table.columns[2:]] == ["α = 0.05", "α = 0.1"]
    assert texts(table) == [["Custom CNN 2", "Colour ROI", "85.0", "80.0"],
                            ["Custom CNN 2, the paper's", "Colour ROI", "81.0", "–"]]


def test_measures_and_misread_originals():
    rows = [
        row(model="lenet", input="whole", split="TEST", metric="balanced_accuracy", value=0.5),
        row(model="lenet", input="whole", split="TEST", metric="missed", value=3),
        row(model="color", input="whole", split="TEST", metric="missed", value=9),
        row(model="lenet", input="whole", split="TEST", metric="f1", class_name="monocyte", value=0.25),
        *(row(model="lenet", input="whole", split="TEST", metric="source_accuracy", source=name, class_name="monocyte",
              value=value) for name, value in (("BloodImage_2", 0.1), ("BloodImage_1", 0.9))),
    ]
    found = {table.key: table for table in tables.build_tables([result("x", rows)])}
    assert texts(found["measures"]) == [["LeNet", "Whole images", "TEST", "50.0", "3", "25.0"]]
    assert texts(found["misread-TEST"]) == [["BloodImage_2", "monocyte", "10%"]]


def test_notes_stand_once_under_the_first_table_of_their_experiment():
    rows = [accuracy("lenet", 0.7), *confusion_rows(np.eye(4, dtype=int))]
    built = tables.build_tables([result("x", rows, ["Trained for 3 epochs."])])
    assert [table.notes.count("Trained for 3 epochs.") for table in built] == [1, 0]


NASTY = Table("nasty", "a | b", "data", (Column("<i>"), Column("x", "g|h")),
              ((Cell("<b>*x*", kind="label"), Cell("1", "0–2", "good")),), ("note_1 & more",))


def test_markdown_is_a_table_whatever_the_cells_hold():
    assert render.to_markdown(NASTY) == (
        "**a \\| b**\n\n| &lt;i&gt; | g\\|h: x |\n| :--- | ---: |\n| &lt;b&gt;\\*x\\* | **1** (0–2) |\n\n"
        "note\\_1 &amp; more\n")


def test_html_is_escaped_and_keeps_the_groups():
    html = render.to_html(NASTY)
    assert '<tr class="groups"><td colspan="1"></td><th colspan="1" scope="colgroup">g|h</th></tr>' in html
    assert '<th scope="row">&lt;b&gt;*x*</th><td class="good">1<small>0–2</small></td>' in html
    assert "note_1 &amp; more" in html and "<b>" not in html


def test_the_console_shows_every_cell_and_no_markup_is_read():
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    table = Table("k", "[red]title", "data", (Column("[bold]"), Column("y")), ((Cell("[i]"), Cell("1", "0–2")),))
    render.print_tables([table], console)
    shown = console.export_text()
    assert all(text in shown for text in ("[red]title", "[bold]", "[i]", "1 0–2"))


@pytest.mark.parametrize(("seconds", "text"), [(4.21, "4.2 s"), (95, "95.0 s"), (720, "12 min"), (11100, "3 h 05 min")])
def test_duration(seconds, text):
    assert render.duration(seconds) == text


def test_missing_and_damaged_results_are_named(tmp_path):
    with pytest.raises(DataError, match="no such folder of results"):
        tables.load_results(tmp_path / "none")
    (tmp_path / "bad.json").write_text(json.dumps({"rows": []}))
    with pytest.raises(DataError, match=r"bad\.json"):
        tables.load_results(tmp_path)
