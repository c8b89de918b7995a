"""Five-fold cross-validation over all 348 originals: the accuracy that TEST's four monocytes do not decide.

    python experiments/cross_validation.py --data.root ROOT
    python experiments/cross_validation.py --data.root ROOT --models custom1 inception_v3 --inputs color whole

TRAIN and TEST are pooled and cut into five folds; each is judged by a network that was trained on the other four. Draws
the originals that all networks misread.

| network, colour ROI | all files | the originals | balanced | wall time                    |
|---------------------|-----------|---------------|----------|------------------------------|
| custom1             | 88.5 %    | 89.7 %        | 88.5 %   | 48 min on a crowded CPU core |
"""

import sys
from dataclasses import dataclass, replace
from typing import Literal

from wbcjax import cli
from wbcjax.cli.experiment import Networks


@dataclass
class CrossValidation(Networks):
    """Networks judged on every original by folds that do not hold it."""

    models: tuple[Literal["lenet", "custom1", "custom2", "vgg16", "resnet50", "inception_v3"], ...] = ("custom1",)
    inputs: tuple[Literal["whole", "color", "mask_rcnn", "oracle"], ...] = ("color",)
    protocols: tuple[Literal["frozen", "fine-tuned"], ...] = ("fine-tuned",)
    name = "cross_validation"

    def study(self) -> None:
        from wbcjax.pipeline.cross_validation import FILES, cross_validation_study
        from wbcjax.pipeline.pictures import misread_by_all

        configs = [replace(config, train_split="ALL", fold=0) for config in self.configs()]
        rows = cross_validation_study(configs, experiment=self.name, runs=self.runs, results=self.results,
                                      notes=self.notes())
        misread_by_all(rows, FILES, self.data, self.figures / "misread_cross_validation.png")


if __name__ == "__main__":
    sys.exit(cli.script(CrossValidation, "cross_validation.py"))
