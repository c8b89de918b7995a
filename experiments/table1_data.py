"""Table 1: images of each class and split of the classification set, and the originals behind them.

    python experiments/table1_data.py --data.root ROOT

Reads names alone; a few seconds. The counts are the paper's: 9,957 images of TRAIN, 2,487 of TEST.
"""

import sys
from dataclasses import dataclass

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class Data(Experiment):
    """Counts of the classification set."""

    name = "table1_data"

    def study(self) -> None:
        from wbcjax.pipeline.counts import counts_study

        counts_study(self.data, experiment=self.name, results=self.results)


if __name__ == "__main__":
    sys.exit(cli.script(Data, "table1_data.py"))
