"""``wbcjax reproduce`` and ``wbcjax report``."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wbcjax import config as cfg
from wbcjax.cli.show import show
from wbcjax.errors import ConfigError

if TYPE_CHECKING:
    from wbcjax.report.cells import Table

README = Path("README.md")
OTHERS = Path("MODEL_CARD.md"), Path("experiments/RESULTS.md")


@dataclass
class Reproduce:
    """The paper's tables and figures, end to end: data, colour ROI, training, evaluation, noise, report.

    Without options: the quick preset on synthetic smears, a few minutes on two cores. With --data.root ROOT --preset
    paper: the real experiments. What is done for the same config and data is reused.
    """

    preset: Literal["quick", "paper"] = "quick"
    """quick trains for seconds; paper is the recipe behind experiments/results."""
    data: cfg.DataConfig = field(default_factory=lambda: cfg.DataConfig(root=None))
    out: Path | None = None
    """Folder for results, figures, runs and report.html. None makes runs/reproduce-PRESET."""

    def run(self) -> int:
        from wbcjax.pipeline.presets import preset
        from wbcjax.pipeline.process import set_up_process
        from wbcjax.pipeline.reproduce import SYNTHETIC_NOTICE, reproduce
        from wbcjax.pipeline.studies import Interrupted
        from wbcjax.report.tables import build_tables

        if self.preset == "paper" and self.data.root is None:
            raise ConfigError("--preset paper needs the real data: give --data.root FOLDER; "
                              "`wbcjax data download FOLDER` gets it")
        set_up_process(self.data)
        try:
            outcome = reproduce(preset(self.preset), self.data, self.out or Path("runs") / f"reproduce-{self.preset}")
        except Interrupted as stopped:
            print(f"wbcjax: {stopped}", file=sys.stderr)
            return 0
        show([table for table in build_tables(outcome.results) if printed(table)])
        if outcome.synthetic:
            print(SYNTHETIC_NOTICE)
        print(f"Report: {outcome.report.absolute()}")
        return 0


def printed(table: "Table") -> bool:
    """Whether a table is the paper's; the report holds the others too."""
    return table.title.startswith(("Table", "Figure"))


@dataclass
class Report:
    """Write the HTML report of a folder of results files, or the tables of the README and its like."""

    results: Path = Path("experiments/results")
    """Folder of results files."""
    figures: Path | None = None
    """Folder of figures with their index; None takes the one beside the results, where there is one."""
    out: Path = Path("report.html")
    """The report to write."""
    readme: bool = False
    """Bring the tables and figures in Markdown files up to date instead."""
    documents: tuple[Path, ...] = ()
    """Those files, whose markers wbcjax/report/documents.py explains. None given: README.md and, where they are,
    MODEL_CARD.md and experiments/RESULTS.md."""

    def run(self) -> int:
        from wbcjax.report.documents import update_document
        from wbcjax.report.html import write_report

        if self.readme:
            for document in self.documents or (README, *filter(Path.is_file, OTHERS)):
                changed = update_document(document, self.results)
                print(f"{document}: {'tables updated' if changed else 'up to date'}")
            return 0
        figures = self.figures or self.results.parent / "figures"
        print(write_report(self.results, figures, self.out))
        return 0
