"""Markdown files whose tables and figures come from results files: what is chosen, what is kept, what is refused."""

from pathlib import Path

import pytest

from wbcjax.errors import DataError
from wbcjax.evaluation.results import row, write_results
from wbcjax.report.documents import BEGIN, END, NONE_YET, update_document


def accuracy(value, **keys):
    return row(value=value, **{"model": "lenet", "input": "whole", "split": "TEST", "metric": "accuracy"} | keys)


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    rows = [accuracy(0.7, low=0.6, high=0.8), accuracy(0.9, model="custom1", paper=0.8),
            accuracy(0.5, model="custom1", split="fold"),
            *(row(model="lenet", input="whole", split="TEST", metric="confusion", true=name, predicted=name, value=3)
              for name in ("monocyte", "neutrophil"))]
    write_results(folder / "table9.json", experiment="table9", config={}, rows=rows, seeds=0,
                  data_fingerprint="f" * 16, wall_time=1.0)
    return folder


def updated(tmp_path, results, text):
    path = tmp_path / "A.md"
    path.write_text(text)
    update_document(path, results)
    return path.read_text()


def test_the_block_is_replaced_and_the_rest_kept(tmp_path, results):
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n{BEGIN}\nstale\n{END}\ntail\n")
    assert update_document(path, results) is True
    text = path.read_text()
    assert text.startswith(f"# Title\n{BEGIN}\n**Table 9.") and text.endswith(f"{END}\ntail\n")
    assert "stale" not in text and "| LeNet | 70.0 (60.0–80.0) | – |" in text and text.count("<details>") == 1
    assert "| table9 |" in text  # where the numbers come from
    assert update_document(path, results) is False
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "results"]


def test_blocks_hold_the_tables_of_their_keys_in_that_order(tmp_path, results):
    text = updated(tmp_path, results, f"a\n<!-- results:begin origin table9-f* -->{END}\nb\n"
                                      f"<!-- results:begin confusion-* -->\nstale{END}\n")
    first, second = text.split("\nb\n")
    assert first.index("Where the numbers come from") < first.index("Accuracy on fold")
    assert "Accuracy on TEST" not in first and "confusion" not in first.lower().replace("results:begin", "")
    assert "6 images of TEST" in second and "stale" not in second and "<details>" not in second


def test_a_figure_stands_in_a_sentence_with_its_interval(tmp_path, results):
    sentence = "It reads <!-- results:value table9-TEST; {}; Whole\nimages: ours -->x" + END + " % right."
    text = updated(tmp_path, results, sentence.format("LeNet"))
    assert text == sentence.format("LeNet").replace("-->x", "-->70.0 (60.0–80.0)")
    assert "-->90.0<!--" in updated(tmp_path, results, sentence.format("Custom CNN 1"))  # without the table's bold
    assert "-->90.0<!--" in updated(tmp_path, results, sentence.format("80.0;Custom CNN 1"))
    assert "-->90.0<!--" in updated(tmp_path, results, sentence.format("Whole images: paper = 80.0"))


def test_what_has_no_results_yet_is_said(tmp_path, results):
    text = updated(tmp_path, results, f"<!-- results:begin table8 foreign-* -->{END}"
                                      f"<!-- results:value table8; a; b -->x{END}"
                                      f"<!-- results:value table9-TEST; AlexNet; Whole images: ours -->x{END}")
    assert "No results yet: `table8`.\n\nNo results yet: `foreign-*`.\n" in text
    assert f"b -->{NONE_YET}<!--" in text and f"ours -->{NONE_YET}<!--" in text


@pytest.mark.parametrize("address", ["table9-TEST; LeNet; ours", "table9-TEST; LeNet", "table9-TEST",
                                     "table9-TEST; Whole images: ours"])
def test_a_figure_that_no_single_cell_is_is_refused(address, tmp_path, results):
    with pytest.raises(DataError, match=r"A\.md: results:value .* is no single cell"):
        updated(tmp_path, results, f"<!-- results:value {address} -->x{END}")
    assert "-->x<!--" in (tmp_path / "A.md").read_text()


@pytest.mark.parametrize("text", ["no markers", BEGIN, END + BEGIN, BEGIN + BEGIN + END, BEGIN + END + END,
                                  f"{BEGIN}<!-- results:value a; b; c -->{END}{END}"])
def test_a_file_whose_markers_are_no_pairs_is_refused_and_kept(text, tmp_path, results):
    with pytest.raises(DataError, match=r"A\.md: needs a line"):
        updated(tmp_path, results, text)
    assert (tmp_path / "A.md").read_text() == text


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"B\.md: no such file"):
        update_document(tmp_path / "B.md", tmp_path)


@pytest.mark.parametrize("name", ["README.md", "MODEL_CARD.md", "experiments/RESULTS.md"])
def test_the_projects_own_files_are_what_its_results_give(name, tmp_path):
    root = Path(__file__).parents[2]
    text = (root / name).read_text()
    assert updated(tmp_path, root / "experiments" / "results", text) == text, "run wbcjax report --readme"
