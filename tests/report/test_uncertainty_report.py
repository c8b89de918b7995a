"""Tables and figures of uncertainty from rows."""

import cv2
import numpy as np

from wbcjax.evaluation.results import row
from wbcjax.report import uncertainty_figures as figures
from wbcjax.report.tables import build_tables
from wbcjax.report.uncertainty import uncertainty_tables

RUN = {"model": "custom1", "input": "roi", "roi": "color", "seed": 0}


def made(metric, value, **keys):
    return row(**RUN, **{"split": "TEST", "metric": metric, "value": value} | keys) | {"experiment": "uncertainty"}


def judged(metric, value, network="one network", calibration="none", **keys):
    return made(metric, value, network=network, calibration=calibration, **keys)


def texts(table):
    return [[cell.text for cell in line] for line in table.rows]


def test_forecasts_and_the_temperature_where_it_is_used():
    rows = [made("temperature", 1.5, split="folds"), judged("accuracy", 0.9), judged("nll", 0.4),
            judged("accuracy", 0.9, calibration="temperature"), judged("ece", 0.021, calibration="temperature"),
            judged("accuracy", 0.8, split="folds")]
    table, = uncertainty_tables(rows)
    assert texts(table) == [
        ["one network", "TEST", "–", "90.0", "0.400", "–", "–", "–", "–", "–"],
        ["one network", "TEST", "1.500", "90.0", "–", "–", "2.1", "–", "–", "–"],
        ["one network", "folds", "–", "80.0", "–", "–", "–", "–", "–", "–"],
    ]


def test_they_are_in_no_other_table():
    rows = [judged("accuracy", 0.9), judged("ece", 0.1), judged("nll", 0.4)]
    result = {"experiment": "uncertainty", "rows": rows, "notes": ["A note."]}
    table, = build_tables([result])
    assert table.key == "calibration" and table.section == "uncertainty" and table.notes == ("A note.",)


def test_sets_and_abstention():
    key = {"promise": "a copy", "score": "LAC"}
    rows = [judged("coverage", 0.96, low=0.9, high=0.99, **key), judged("set_size", 1.25, **key),
            judged("coverage", 0.5, class_name="monocyte", **key),
            judged("selective_accuracy", 0.97, kept=0.9), judged("selective_accuracy", 0.9, kept=1.0),
            judged("accepted", 0.88, threshold="of the folds"),
            judged("selective_accuracy", 0.95, threshold="of the folds", low=0.9, high=0.98)]
    sets, abstention = uncertainty_tables(rows)
    assert texts(sets) == [["one network", "a copy", "LAC", "96.0", "1.25", "–", "50.0"]]
    assert sets.rows[0][3].interval == "90.0–99.0"
    assert texts(abstention) == [["one network", "none", "–", "–", "–", "–", "97.0", "90.0"]]
    assert abstention.notes == ("With the confidence that nine tenths of the folds' images reach as threshold, one "
                                "network accepts 88.0 % of TEST and reads 95.0 (90.0–98.0) % of these right.",)


def foreign_rows():
    rows = [made("images", 76, foreign="background")]
    for against, value in (("originals", 0.9), ("files", 0.8)):
        key = {"foreign": "background", "score": "energy", "against": against}
        rows += [made("auroc", value, **key), made("fpr95", 0.25, **key)]
    curve = {"foreign": "background", "score": "energy", "against": "originals"}
    return rows + [made("true_positive_rate", y, false_positive_rate=x, **curve) for x, y in ((0, 0.5), (1, 1))]


def test_foreign_images():
    first, second = uncertainty_tables(foreign_rows())
    assert texts(first) == [["background", "76", "0.900", "25.0"]]
    assert texts(second) == [["background", "76", "0.800", "25.0"]]
    assert "originals" in first.title and "files" in second.title


def test_figures_are_drawn_and_indexed(tmp_path):
    rows = [judged("bin_accuracy", 0.5 + k / 10, bin=k, confidence=0.4 + k / 10, share=0.2, low=0.4, high=1.0,
                   calibration=c) for c in ("none", "temperature") for k in range(5)]
    rows += [judged("selective_accuracy", 1 - kept / 10, kept=kept, low=0.8, high=1.0, calibration="temperature")
             for kept in (0.5, 1.0)]
    drawn = [*figures.draw_uncertainty(rows, tmp_path), figures.draw_roc(foreign_rows(), tmp_path),
             figures.draw_foreign({"a": np.zeros((3, 8, 8, 3), np.uint8), "b": np.zeros((13, 8, 8, 3), np.uint8)},
                                  tmp_path)]
    index = (tmp_path / "index.json").read_text()
    for path in drawn:
        image = cv2.imread(str(path))
        assert image is not None and image.std() > 5  # something is drawn
        assert path.name in index
