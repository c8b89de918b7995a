"""The report: one HTML file that holds every table and figure and needs nothing beside it.

``write_report`` reads the results files and a folder of figures. ``add_figure`` enters a figure of that
folder, with its section, title and caption, in the ``index.json`` beside the PNG files.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Literal, get_args

from wbcjax.errors import DataError
from wbcjax.files import write_text
from wbcjax.report.cells import INPUT_NAMES, MODEL_NAMES, combine, percent, setting
from wbcjax.report.render import origin_table, to_html
from wbcjax.report.tables import build_tables, load_results

Section = Literal["data", "roi", "classification", "confusion", "noise", "uncertainty", "training", "misread"]
SECTIONS = {
    "summary": "Summary", "data": "Data", "roi": "Localisation", "classification": "Classification",
    "confusion": "Confusion matrices", "noise": "Noise", "uncertainty": "Uncertainty",
    "training": "Training", "misread": "Misread originals", "runs": "Runs and configuration",
}
"""Key and heading of every section, in the report's order; one without content is left out."""

HEADLINES = (
    ("color", "whole", "mean_iou", "mean IoU"),
    ("mask_rcnn_vgg16", "whole", "mean_iou", "mean IoU"),
    ("mask_rcnn_resnet50", "whole", "mean_iou", "mean IoU"),
    ("custom1", "whole", "accuracy", "whole images"),
    ("custom1", "roi", "accuracy", "ROI crops"),
    ("custom2", "whole", "accuracy", "whole images"),
    ("custom2", "roi", "accuracy", "ROI crops"),
)
"""Model, input, metric and caption of the summary's tiles; every setting has a tile of its own."""

TEMPLATE = Path(__file__).parent / "templates" / "report.html"


def add_figure(path: Path, section: Section, title: str, caption: str = "") -> None:
    """Enter a PNG in the ``index.json`` of its folder, replacing its earlier entry.

    Args:
      path: the PNG, already written.
      section: where it stands in the report.
      title: its heading, such as "Figure 8. Distribution of the IoU".
      caption: what to see, in a sentence or two.

    Raises:
      DataError: if the PNG is missing or the index is damaged.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such figure; draw it before it is entered in the index")
    entry = {"file": path.name, "section": section, "title": title, "caption": caption}
    entries = read_index(path.parent)
    names = [known["file"] for known in entries]
    if path.name in names:
        entries[names.index(path.name)] = entry
    else:
        entries.append(entry)
    write_text(path.parent / "index.json", json.dumps(entries, indent=2, ensure_ascii=False) + "\n")


def read_index(figures_dir: Path) -> list[dict[str, str]]:
    """The figures of a folder in the order they were first entered; empty where there is no index.

    Raises:
      DataError: if the index is damaged.
    """
    path = figures_dir / "index.json"
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: no figure index ({error}); delete it and draw the figures again") from error
    keys = {"file", "section", "title", "caption"}
    good = isinstance(entries, list) and all(isinstance(e, dict) and e.keys() == keys for e in entries)
    if not good or not {entry["section"] for entry in entries} <= set(get_args(Section)):
        raise DataError(f"{path}: no list of figures with file, section, title and caption; delete it and "
                        "draw the figures again")
    return entries


def write_report(
    results_dir: Path | str,
    figures_dir: Path | str,
    out: Path | str,
    *,
    config: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    title: str = "White blood cells: localisation and classification",
    notice: str = "",
) -> Path:
    """Write the report as one HTML file, whole or not at all, and return its path.

    Args:
      results_dir: folder of results files; an empty one gives a report without tables.
      figures_dir: folder of PNG figures with their ``index.json``; may be absent.
      out: the HTML file to write.
      config: the resolved configuration of the pipeline, shown folded; each result shows its own too.
      environment: versions and device of the machine that writes the report.
      title: the page's heading.
      notice: a warning that stands first, such as that the smears are synthetic.

    Raises:
      DataError: if the results folder, a results file or a figure of the index is missing or damaged.
    """
    results, figures_dir, out = load_results(results_dir), Path(figures_dir), Path(out)
    bodies: dict[str, list[str]] = {key: [] for key in SECTIONS}
    bodies["summary"] = _summary(results)
    for table in build_tables(results):
        bodies[table.section].append(to_html(table))
    for entry in read_index(figures_dir):
        bodies[entry["section"]].append(_figure(figures_dir, entry))
    bodies["runs"] = _runs(results, config, environment)
    shown = {key: parts for key, parts in bodies.items() if parts}
    page = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        notice=f'<p class="notice">{escape(notice)}</p>' if notice else "",
        navigation="".join(f'<a href="#{key}">{SECTIONS[key]}</a>' for key in shown),
        body="\n".join(f'<section id="{key}"><h2>{SECTIONS[key]}</h2>\n{"".join(parts)}\n</section>'
                       for key, parts in shown.items()),
    )
    write_text(out, page)
    return out


def _summary(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The tiles: our headline figures beside the paper's, in every setting but crops by the true boxes."""
    rows = [{**row, "experiment": result["experiment"]} for result in results for row in result["rows"]]
    tiles = []
    for model, kind, metric, caption in HEADLINES:
        settings: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        for row in rows:
            known = (row["model"], row["input"], row["metric"]) == (model, kind, metric) and "paper" in row
            if known and not row.keys() & {"alpha", "class_name"} and row.get("roi") != "oracle":
                crops = INPUT_NAMES.get(row.get("roi", ""), "")
                settings.setdefault((setting(row), crops, row["split"]), []).append(row)
        form = percent if metric == "accuracy" else "{:.3f}".format
        unit = "<small> %</small>" if metric == "accuracy" else ""
        for details, group in settings.items():
            figure = combine(group)
            detail = ", ".join(part for part in (caption, *details) if part)
            interval = f"{form(figure['low'])} – {form(figure['high'])}" if "low" in figure else "&nbsp;"
            state = "above" if figure["value"] >= figure["paper"] else "below"
            tiles.append(
                f'<div class="tile {state}"><b>{escape(MODEL_NAMES[model])}</b><span>{escape(detail)}</span>'
                f'<strong>{form(figure["value"])}{unit}</strong><span>{interval}</span>'
                f'<em>paper {form(figure["paper"])}</em></div>'
            )
    if not tiles:
        return ["<p>No results yet.</p>"] if not results else []
    note = (
        "Small ranges are 95 % intervals. A green edge means at or above the paper's figure, an orange one below."
    )
    return [f'<div class="tiles">{"".join(tiles)}</div><p class="note">{note}</p>']


def _figure(folder: Path, entry: Mapping[str, str]) -> str:
    path = folder / entry["file"]
    if not path.is_file():
        raise DataError(f"{path}: in the figure index but missing; draw the figures again")
    png = path.read_bytes()
    width = round(0.75 * int.from_bytes(png[16:20], "big"))  # of the PNG header; smaller than its pixels, so sharp
    data = base64.b64encode(png).decode("ascii")
    caption = f" {escape(entry['caption'])}" if entry["caption"] else ""
    title = escape(entry["title"])
    return (
        f'<figure><img width="{width}" alt="{title}" src="data:image/png;base64,{data}">'
        f"<figcaption><b>{title}</b>{caption}</figcaption></figure>\n"
    )


def _runs(
    results: Sequence[Mapping[str, Any]],
    config: Mapping[str, Any] | None,
    environment: Mapping[str, Any] | None,
) -> list[str]:
    """Where each number comes from, and every configuration, folded."""
    parts = []
    if results:
        parts.append(to_html(origin_table(results)))
    folded = [("Configuration of this run", config), ("Environment", environment)]
    for result in results:
        shown = {key: result[key] for key in ("config", "seeds", "versions", "created")}
        folded.append((f"Configuration of {result['experiment']}", shown))
    for heading, values in folded:
        if values:
            text = json.dumps(values, indent=2, ensure_ascii=False, default=str)
            parts.append(f"<details><summary>{escape(heading)}</summary><pre>{escape(text)}</pre></details>")
    return parts
