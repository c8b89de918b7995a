"""Tables as text: for the console (rich), for Markdown (the README), and for HTML (the report)."""

from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from typing import TYPE_CHECKING, Any

from wbcjax.report.cells import Cell, Column, Table
from wbcjax.report.tables import build_tables

if TYPE_CHECKING:
    from rich.console import Console


def print_tables(tables: Sequence[Table], console: "Console | None" = None) -> None:
    """Print the tables to the console, ours bold green where it reaches the paper's, the paper's dim."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = console or Console()
    styles = {"good": "bold green", "paper": "dim", "strong": "bold", "label": "bold", "": ""}
    for table in tables:
        grid = RichTable(
            title=Text(table.title),
            title_justify="left",
            title_style="bold",
            caption=Text("\n".join(table.notes)) if table.notes else None,
            caption_justify="left",
        )
        grouped = any(column.group for column in table.columns)
        for i, column in enumerate(table.columns):
            first = i == 0 or table.columns[i - 1].group != column.group
            group = column.group if first else ""
            heading = Text(f"{group}\n{column.heading}" if grouped else column.heading)
            grid.add_column(heading, justify="right" if i else "left", no_wrap=i == 0, overflow="fold")
        for row in table.rows:
            texts = []
            for cell in row:
                text = Text(cell.text, style=styles[cell.kind])
                if cell.interval:
                    text.append(f" {cell.interval}", style="not bold dim")
                texts.append(text)
            grid.add_row(*texts)
        console.print(grid)
        console.print()


def to_markdown(table: Table) -> str:
    """One table in GitHub's Markdown under a bold title; ours is bold where it reaches the paper's."""
    headings = [full_heading(column) for column in table.columns]
    lines = [
        f"**{_plain(table.title)}**",
        "",
        _line(map(_plain, headings)),
        _line([":---", *["---:"] * (len(headings) - 1)]),
    ]
    lines += [_line(map(markdown_cell, row)) for row in table.rows]
    if table.notes:
        lines += ["", " ".join(map(_plain, table.notes))]
    return "\n".join(lines) + "\n"


def full_heading(column: Column) -> str:
    """A column's heading with its group before it."""
    return f"{column.group}: {column.heading}" if column.group else column.heading


def to_html(table: Table) -> str:
    """One table as an HTML ``<table>`` inside its own scrolling frame; every text is escaped."""
    groups = [(name, len(list(members))) for name, members in groupby(table.columns, key=lambda c: c.group)]
    grouped = any(name for name, _ in groups)
    lines = [
        f'<div class="table" id="{escape(table.key)}"><h3>{escape(table.title)}</h3>',
        '<div class="scroll"><table><thead>',
    ]
    if grouped:
        cells = (
            f'<th colspan="{span}" scope="colgroup">{escape(name)}</th>'
            if name
            else f'<td colspan="{span}"></td>'
            for name, span in groups
        )
        lines.append(f'<tr class="groups">{"".join(cells)}</tr>')
    lines.append(
        "<tr>" + "".join(f'<th scope="col">{escape(c.heading)}</th>' for c in table.columns) + "</tr>"
    )
    lines.append("</thead><tbody>")
    lines += ["<tr>" + "".join(map(_html_cell, row)) + "</tr>" for row in table.rows]
    lines.append("</tbody></table></div>")
    if table.notes:
        lines.append(f'<p class="note">{escape(" ".join(table.notes))}</p>')
    lines.append("</div>")
    return "\n".join(lines)


def readme_block(results: Sequence[Mapping[str, Any]]) -> str:
    """The README's generated part: all tables but that of single originals, the confusion matrices folded."""
    if not results:
        return "No results yet.\n"
    tables = build_tables(results)
    parts = [to_markdown(table) for table in tables if table.section not in ("confusion", "misread")]
    folded = [to_markdown(table) for table in tables if table.section == "confusion"]
    if folded:
        parts.append("\n".join(["<details><summary>Confusion matrices</summary>\n", *folded, "</details>\n"]))
    return "\n".join([*parts, to_markdown(origin_table(results))])


def origin_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """Where the numbers come from: device, wall time, code version and data fingerprint of each result."""
    rows = []
    for result in results:
        device = result["device"]
        on_cpu = device["platform"] == "cpu"
        facts = (f"{device['host_cpus']} CPU cores" if on_cpu else f"{device['count']} {device['kind']}",
                 duration(result["wall_time"]), result["code_version"], str(result["data_fingerprint"])[:12])
        rows.append((Cell(result["experiment"], kind="label"), *map(Cell, facts)))
    columns = tuple(map(Column, ("results", "device", "wall time", "code", "data")))
    return Table("origin", "Where the numbers come from", "runs", columns, tuple(rows))


def duration(seconds: float | int) -> str:
    """Seconds as ``4.2 s``, ``12 min`` or ``3 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def _plain(text: str) -> str:
    """Text with what Markdown would read as a table edge, markup or HTML made harmless."""
    escaped = escape(" ".join(text.split()), quote=False)
    return "".join("\\" + c if c in "\\|*_`[]" else c for c in escaped)


def _line(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def markdown_cell(cell: Cell) -> str:
    """One entry in Markdown, with its interval in brackets."""
    text = f"**{_plain(cell.text)}**" if cell.kind in ("good", "strong") else _plain(cell.text)
    return f"{text} ({_plain(cell.interval)})" if cell.interval else text


def _html_cell(cell: Cell) -> str:
    if cell.kind == "label":
        return f'<th scope="row">{escape(cell.text)}</th>'
    interval = f"<small>{escape(cell.interval)}</small>" if cell.interval else ""
    kind = f' class="{cell.kind}"' if cell.kind else ""
    return f"<td{kind}>{escape(cell.text)}{interval}</td>"
