"""What the scripts in ``experiments/`` share: their options."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from wbcjax import config as cfg
from wbcjax.cli.show import show


@dataclass
class Experiment:
    """Options of an experiment on the real data."""

    data: cfg.DataConfig = field(default_factory=cfg.DataConfig)
    runs: Path = Path("runs/reproduce-paper/runs")
    """Folder of the training runs, shared with ``wbcjax reproduce --preset paper``; finished ones are reused."""
    results: Path = Path("experiments/results")
    """Folder of the results file."""
    seeds: tuple[int, ...] = (0,)
    """One run a model and seed."""

    name = ""
    """Of the results file; a script sets it."""

    def run(self) -> int:
        """Run the study and print its tables; an interruption is saved, and no error."""
        from wbcjax.evaluation.results import read_results
        from wbcjax.pipeline.process import set_up_process
        from wbcjax.pipeline.studies import Interrupted
        from wbcjax.report.tables import build_tables

        set_up_process(self.data)
        try:
            self.study()
        except Interrupted as stopped:
            print(f"wbcjax: {stopped}", file=sys.stderr)
            return 0
        show(build_tables([read_results(self.results / f"{self.name}.json")]))
        return 0

    def study(self) -> None:
        """The experiment itself: writes the results file ``name``."""
        raise NotImplementedError(f"{type(self).__name__} defines no study")
