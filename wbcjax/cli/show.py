"""Result tables on standard output."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wbcjax.report.cells import Table

PIPE_WIDTH = 120
"""Columns where the output is no terminal: a file or a pipe does not fold."""


def show(tables: "Sequence[Table]") -> None:
    """Print result tables, at the terminal's width or at ``PIPE_WIDTH``."""
    from rich.console import Console

    from wbcjax.report.render import print_tables

    console = Console()
    if not console.is_terminal:
        console = Console(width=PIPE_WIDTH)
    print_tables(tables, console)
