"""Tables 4 and 5, and the whole-image column of Table 9: LeNet, custom CNN 1 and custom CNN 2 on whole images.

    python experiments/table4_5_custom_whole.py --data.root ROOT

| model   | input         | paper  | measured | wall time, 1 CPU core        |
|---------|---------------|--------|----------|------------------------------|
| lenet   | whole 160×208 | –      | 73.8 %   | about 8 min                  |
| custom1 | whole 160×208 | 80 %   | 88.9 %   | about 15 min, and its crops  |
| custom2 | whole 160×208 | 89.5 % | 88.5 %   | about 22 min, and its crops  |

Trained on all of TRAIN, evaluated once on all 2,487 images of TEST; the setting is ``wbcjax.recipe``.
"""

import sys
from dataclasses import dataclass

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class Whole(Experiment):
    """LeNet, custom CNN 1 and custom CNN 2 on whole images."""

    name = "table4_5_custom_whole"

    def study(self) -> None:
        from wbcjax.pipeline.presets import PRESETS
        from wbcjax.pipeline.studies import classification_study, with_seeds

        classification_study(with_seeds(PRESETS["paper"].configs(self.data, "whole"), self.seeds),
                             experiment=self.name, runs=self.runs, results=self.results)


if __name__ == "__main__":
    sys.exit(cli.script(Whole, "table4_5_custom_whole.py"))
