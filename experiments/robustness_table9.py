"""Robustness of every network of Table 9: Gaussian noise and eleven corruptions, on TEST.

    python experiments/robustness_table9.py --data.root ROOT
    python experiments/robustness_table9.py --data.root ROOT --inputs color --vgg16 FILE   # weights at hand

α from 0 to 0.5 with five noise seeds, MedMNIST-C's corruptions at five levels, all after cropping.
Networks are judged on a share of the files, 110 passes each; VGG16, ResNet50 and InceptionV3 on crops alone.
Uses the runs of ``table9_classification.py``, and trains what is missing. About an hour on a crowded CPU core.
"""

import sys
from dataclasses import dataclass
from typing import Literal

from wbcjax import cli
from wbcjax.cli.experiment import Networks


@dataclass
class RobustnessTable9(Networks):
    """The networks of Table 9 under noise and corruptions."""

    inputs: tuple[Literal["whole", "color", "mask_rcnn", "oracle"], ...] = ("color", "whole")
    protocols: tuple[Literal["frozen", "fine-tuned"], ...] = ("fine-tuned",)
    share: float = 0.25
    """Share of the TEST files for LeNet and the custom CNNs on crops; a quarter of it on whole images."""
    large_share: float = 0.03125
    """Share for VGG16, ResNet50 and InceptionV3: about one file an original."""

    name = "robustness_table9"

    def study(self) -> None:
        from wbcjax.pipeline.robustness import Candidate, robustness_study
        from wbcjax.pipeline.transfer_presets import NETWORKS
        from wbcjax.report.robustness import corruption_grid

        candidates = []
        for config in self.configs():
            if config.model.name not in NETWORKS:
                candidates.append(Candidate(config, share=self.share / (1 if config.input == "roi" else 4)))
            elif config.input == "roi":
                candidates.append(Candidate(config, share=self.large_share))
        rows = robustness_study(candidates, experiment=self.name, runs=self.runs, results=self.results,
                                notes=self.notes())
        corruption_grid(rows, self.figures / "robustness_corruptions.png")


if __name__ == "__main__":
    sys.exit(cli.script(RobustnessTable9, "robustness_table9.py"))
