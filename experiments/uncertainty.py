"""How far the recommended network can be believed: calibration, prediction sets, abstention, one network and five.

    python experiments/uncertainty.py --data.root ROOT

Trains the network on all of TRAIN and on four fifths of it, five times; what each judges of its fifth fits temperature
and thresholds. TEST is only judged. Draws reliability diagrams and the risk–coverage curve.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class Uncertainty(Experiment):
    """The recommended network's certainty on TEST."""

    name = "uncertainty"
    figures: Path = Path("experiments/figures")
    """Folder of the figures."""

    def study(self) -> None:
        from wbcjax.pipeline.presets import recommended
        from wbcjax.pipeline.uncertainty import uncertainty_study
        from wbcjax.report.uncertainty_figures import draw_uncertainty

        rows = uncertainty_study(recommended(self.data), experiment=self.name, runs=self.runs, results=self.results)
        draw_uncertainty(rows, self.figures)


if __name__ == "__main__":
    sys.exit(cli.script(Uncertainty, "uncertainty.py"))
