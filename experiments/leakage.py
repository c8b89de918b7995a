"""Why published accuracies of 99 % do not compare: one network under splits that leak and under one that does not.

    python experiments/leakage.py --data.root ROOT

The files of TRAIN and TEST are pooled and a fifth is held out: files at random, all files of some numbers (taken for
the originals, which they are not), or all files of some originals. Custom CNN 1 on crops of the colour ROI, by the
recipe of the other tables. Folds that leak are alike, so one of each kind is trained; of folds by original all five, as
they differ by which cells they hold. Those five are the runs of ``cross_validation.py``, reused where they are there.
"""

import sys
from dataclasses import dataclass, replace

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class Leakage(Experiment):
    """Custom CNN 1 under three splits of the same files."""

    leaking_folds: int = 1
    """How many folds of each leaking split are trained and judged."""
    original_folds: int = 5
    """How many of the folds by original."""
    epochs: int | None = None
    """Passes over the training files; None is the recipe's number."""
    name = "leakage"

    def study(self) -> None:
        from wbcjax.pipeline.leakage import leakage_study
        from wbcjax.pipeline.presets import PRESETS

        base = PRESETS["paper"].config("custom1", "roi", self.data)
        if self.epochs is not None:
            base = replace(base, train=replace(base.train, epochs=self.epochs))
        folds = {"file": self.leaking_folds, "file_number": self.leaking_folds, "original": self.original_folds}
        leakage_study(base, folds, experiment=self.name, runs=self.runs, results=self.results,
                      notes=(f"{base.train.epochs} epochs.",))


if __name__ == "__main__":
    sys.exit(cli.script(Leakage, "leakage.py"))
