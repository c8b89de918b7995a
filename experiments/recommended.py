"""The recommended classifier on TEST: accuracy, calibration error and confusions, which MODEL_CARD.md quotes.

    python experiments/recommended.py --data.root ROOT

Custom CNN 1 on colour-ROI crops of 96×96, trained on all of TRAIN with noise and corruptions, evaluated on all 2,487
images (``wbcjax.pipeline.presets.recommended``). About ten minutes on one CPU core; seconds where the run is there.
"""

import sys
from dataclasses import dataclass

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class Recommended(Experiment):
    """The recommended classifier on TEST."""

    name = "recommended"

    def study(self) -> None:
        from wbcjax.pipeline.presets import recommended
        from wbcjax.pipeline.studies import classification_study, with_seeds

        classification_study(with_seeds([recommended(self.data)], self.seeds), experiment=self.name,
                             variant="recommended", runs=self.runs, results=self.results)


if __name__ == "__main__":
    sys.exit(cli.script(Recommended, "recommended.py"))
