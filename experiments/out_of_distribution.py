"""Does the recommended network notice what is none of its classes? Four scores on six kinds of foreign images.

    python experiments/out_of_distribution.py --data.root ROOT

Background, red cells, two cells, basophils, a simulated stain. Uses the network of uncertainty.py where it is there;
draws the foreign crops and the ROC.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class OutOfDistribution(Experiment):
    """Foreign images told from TEST's."""

    name = "out_of_distribution"
    figures: Path = Path("experiments/figures")
    """Folder of the figures."""

    def study(self) -> None:
        from wbcjax.pipeline.out_of_distribution import out_of_distribution_study
        from wbcjax.pipeline.presets import recommended
        from wbcjax.report.uncertainty_figures import draw_foreign, draw_roc

        rows, foreign = out_of_distribution_study(recommended(self.data), experiment=self.name, runs=self.runs,
                                                  results=self.results)
        draw_roc(rows, self.figures)
        draw_foreign({kind: found.images for kind, found in foreign.items()}, self.figures)


if __name__ == "__main__":
    sys.exit(cli.script(OutOfDistribution, "out_of_distribution.py"))
