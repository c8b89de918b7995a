"""The generated parts of Markdown files: tables and single figures from the results files, between markers.

Each starts with one of these comments and ends with ``<!-- results:end -->``:

- ``<!-- results:begin -->``: all tables, as ``render.readme_block`` orders them;
- ``<!-- results:begin table1 foreign-* -->``: the tables of these keys (``Table.key``), where ``*`` is any text;
- ``<!-- results:value table1; total; TEST: ours -->``, inside a sentence: the cell of that table in the one row that
  holds every text in between, under that heading, which has its group before it as in the Markdown table. A text may
  name its own column: ``temperature = –``.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

from wbcjax.errors import DataError
from wbcjax.files import write_text
from wbcjax.report.cells import Cell, Table
from wbcjax.report.render import full_heading, markdown_cell, origin_table, readme_block, to_markdown
from wbcjax.report.tables import build_tables, load_results

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
NONE_YET = "no result yet"
"""What stands for a figure that the results do not give."""
_MARKED = re.compile(r"(<!-- results:(begin|value)\b(.*?)-->)(.*?)(<!-- results:end -->)", re.DOTALL)


def update_document(path: Path | str, results_dir: Path | str) -> bool:
    """Write tables and figures of the results files into the marked parts of a Markdown file; True if it changed.

    Everything outside the markers stays as it is, and the file is replaced whole or not at all. A table, or
    row of one, that the results do not give is said to be missing.

    Raises:
      DataError: if the file or a marker is missing, a results file is invalid, or the address of a figure is
        no single cell.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the Markdown file to update")
    text = path.read_text(encoding="utf-8")
    parts = len(_MARKED.findall(text))
    if not parts or text.count("<!-- results:") != 2 * parts:
        raise DataError(f"{path}: needs a line {BEGIN} and, below it, a line {END}, no pair inside another; add them")
    results = load_results(results_dir)
    tables = {table.key: table for table in (*build_tables(results), origin_table(results))}

    def filled(part: re.Match[str]) -> str:
        begin, kind, address, _, end = part.groups()
        if kind == "value":
            return begin + figure(address, tables, path) + end
        block = chosen_tables(address.split(), tables) if address.strip() else readme_block(results)
        return f"{begin}\n{block}{end}"

    updated = _MARKED.sub(filled, text)
    if updated != text:
        write_text(path, updated)
    return updated != text


def chosen_tables(keys: list[str], tables: Mapping[str, Table]) -> str:
    """The tables whose keys match, in the order of ``keys``; a line for each that matches none."""
    parts = []
    for pattern in keys:
        found = [table for key, table in tables.items() if fnmatchcase(key, pattern)]
        parts += map(to_markdown, found) if found else [f"No results yet: `{pattern}`.\n"]
    return "\n".join(parts)


def figure(address: str, tables: Mapping[str, Table], path: Path) -> str:
    """One cell as text, with its interval: that of the table, row texts and heading in ``address``.

    Raises:
      DataError: if the table has no such heading, or several such rows.
    """
    key, *texts = (" ".join(part.split()) for part in address.split(";"))
    heading = texts.pop() if texts else ""
    if key not in tables:
        return NONE_YET
    headings = [full_heading(column) for column in tables[key].columns]
    rows = [row for row in tables[key].rows if all(_holds(row, headings, text) for text in texts)]
    if heading not in headings or len(rows) > 1:
        raise DataError(f"{path}: results:value{address}is no single cell: {len(rows)} rows of {key} hold "
                        f"{texts}, and its headings are {headings}")
    if not rows:
        return NONE_YET
    return markdown_cell(replace(rows[0][headings.index(heading)], kind=""))


def _holds(row: tuple[Cell, ...], headings: list[str], text: str) -> bool:
    """Whether a cell has this text, or the cell of the column that it names."""
    heading, equals, value = text.rpartition(" = ")
    if equals and heading in headings:
        return row[headings.index(heading)].text == value
    return text in {cell.text for cell in row}
