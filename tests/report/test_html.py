"""The report: one well-formed, self-contained file, everything escaped, nothing half-written."""

import base64
import json
import re
from html.parser import HTMLParser

import pytest

from wbcjax.errors import DataError
from wbcjax.evaluation.results import row, write_results
from wbcjax.report import html, style

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Checker(HTMLParser):
    """Collects tags, ids and attributes, and fails on tags that do not close."""

    def __init__(self):
        super().__init__()
        self.stack, self.tags, self.attributes, self.text = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parse(path):
    checker = Checker()
    checker.feed(path.read_text(encoding="utf-8"))
    checker.close()
    assert checker.stack == []
    return checker


@pytest.fixture
def results(tmp_path):
    rows = [
        row(model="color", input="whole", split="test", metric="mean_iou", value=0.62, low=0.6, high=0.64, paper=0.59,
            variant="faithful"),
        row(model="custom2", input="roi", split="TEST", metric="accuracy", value=0.9, paper=0.92, roi="color"),
        row(model="custom2", input="roi", split="TEST", metric="accuracy", value=0.99, paper=0.92, roi="oracle"),
        row(model="custom2", input="roi", split="TEST", metric="accuracy", value=0.5, paper=0.81, roi="color",
            alpha=0.05),
    ]
    folder = tmp_path / "results"
    write_results(folder / "x.json", experiment="x", config={"note": "</pre><script>1</script>"}, rows=rows, seeds=0,
                  data_fingerprint="abc", wall_time=3.0, notes=["<i>note</i>"])
    return folder


@pytest.fixture
def figures_dir(tmp_path):
    figure, axes = style.new(1, 1, 2, 1)
    style.bare(axes[0, 0])
    path = style.save(figure, tmp_path / "figures" / "fig8.png")
    html.add_figure(path, "roi", "Figure 8 <b>", "A & B")
    return path.parent


def test_the_report_is_one_file_that_needs_no_other(results, figures_dir, tmp_path):
    out = html.write_report(results, figures_dir, tmp_path / "new" / "report.html")
    page = parse(out)
    sources = [value for name, value in page.attributes if name in ("src", "href", "action")]
    assert all(value.startswith(("data:image/png;base64,", "#")) for value in sources)
    assert not re.search(r"@import|url\(|<link|<script", out.read_text())
    image = next(value for value in sources if value.startswith("data:"))
    assert base64.b64decode(image.partition(",")[2]) == (figures_dir / "fig8.png").read_bytes()
    targets = {value[1:] for value in sources if value.startswith("#")}
    assert targets <= {value for name, value in page.attributes if name == "id"}
    assert [path.name for path in out.parent.iterdir()] == ["report.html"]


def test_everything_given_is_escaped(results, figures_dir, tmp_path):
    out = html.write_report(results, figures_dir, tmp_path / "r.html", config={"<script>": "$body & co"},
                            environment={"os": "</details>"}, title="<title>", notice="<u>synthetic</u>")
    page, text = parse(out), "".join(parse(out).text)
    assert not {"script", "i", "u"} & set(page.tags)
    for given in ("Figure 8 <b>", "A & B", "<u>synthetic</u>", "<i>note</i>", '"<script>": "$body & co"', "</details>",
                  "</pre><script>1</script>"):
        assert given in text


def test_sections_without_content_are_left_out(results, figures_dir, tmp_path):
    out = html.write_report(results, figures_dir, tmp_path / "r.html")
    ids = re.findall(r'<section id="(\w+)"', out.read_text())
    assert ids == ["summary", "roi", "classification", "noise", "runs"]


def test_an_empty_run_still_gives_a_report(tmp_path):
    (tmp_path / "results").mkdir()
    out = html.write_report(tmp_path / "results", tmp_path / "none", tmp_path / "r.html")
    assert "No results yet." in "".join(parse(out).text)


def test_tiles_compare_with_the_paper_without_true_boxes_or_noise(results, figures_dir, tmp_path):
    text = html.write_report(results, figures_dir, tmp_path / "r.html").read_text()
    tiles = re.findall(r'<div class="tile (\w+)"><b>(.*?)</b><span>(.*?)</span><strong>([\d.]+)', text)
    assert tiles == [("above", "Colour ROI", "mean IoU, faithful, test", "0.620"),
                     ("below", "Custom CNN 2", "ROI crops, Colour ROI, TEST", "90.0")]


def test_it_is_readable_in_the_dark_on_paper_and_on_a_phone(results, figures_dir, tmp_path):
    text = html.write_report(results, figures_dir, tmp_path / "r.html").read_text()
    assert all(part in text for part in ("prefers-color-scheme: dark", "@media print", 'name="viewport"'))


def test_an_entry_of_the_index_is_replaced_in_its_place(figures_dir):
    other = figures_dir / "other.png"
    other.write_bytes((figures_dir / "fig8.png").read_bytes())
    html.add_figure(other, "noise", "Figure 12")
    html.add_figure(figures_dir / "fig8.png", "roi", "again")
    entries = [(entry["file"], entry["title"]) for entry in html.read_index(figures_dir)]
    assert entries == [("fig8.png", "again"), ("other.png", "Figure 12")]


def test_a_missing_figure_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.png: no such figure"):
        html.add_figure(tmp_path / "none.png", "roi", "x")


@pytest.mark.parametrize("text", ["{", "{}", '[{"file": "a.png"}]',
                                  json.dumps([{"file": "a.png", "section": "x", "title": "", "caption": ""}])])
def test_a_damaged_index_is_refused(text, tmp_path):
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(DataError, match=r"index\.json: no "):
        html.read_index(tmp_path)


def test_an_error_leaves_the_last_report_as_it_was(results, figures_dir, tmp_path):
    out = html.write_report(results, figures_dir, tmp_path / "report.html")
    before = out.read_bytes()
    (figures_dir / "fig8.png").unlink()
    with pytest.raises(DataError, match=r"fig8.png: in the figure index but missing"):
        html.write_report(results, figures_dir, out)
    with pytest.raises(DataError, match="no such folder of results"):
        html.write_report(tmp_path / "none", figures_dir, out)
    assert out.read_bytes() == before
