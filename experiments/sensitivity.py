"""How much hangs on what the paper does not state: input size, crop, head, optimiser, ROI box.

    python experiments/sensitivity.py --data.root ROOT

Custom CNN 1 on colour-ROI crops, one setting changed at a time; two of the five folds of TRAIN, grouped by original,
five epochs on half of the files. TEST is not read. Twenty trainings, about 17 minutes on one CPU core.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class Sensitivity(Experiment):
    """Settings changed one at a time, compared on folds of TRAIN."""

    name = "sensitivity"
    model: Literal["custom1", "custom2"] = "custom1"
    epochs: int = 5
    figures: Path = Path("experiments/figures")
    """Folder of the figure."""

    def study(self) -> None:
        from wbcjax.pipeline.sensitivity import base_config, sensitivity_study

        base = base_config(self.model, self.data, epochs=self.epochs, seed=self.seeds[0])
        sensitivity_study(base, experiment=self.name, runs=self.runs, results=self.results, figures=self.figures)


if __name__ == "__main__":
    sys.exit(cli.script(Sensitivity, "sensitivity.py"))
