"""Robustness of every network of Table 9 and of the recommended one: Gaussian noise and eleven corruptions, on TEST.

    python experiments/robustness.py --data.root ROOT
    python experiments/robustness.py --data.root ROOT --vgg16 random --inception_v3 FILE   # weights at hand

α from 0 to 0.5 with five noise seeds, MedMNIST-C's corruptions at five levels; noise and corruption come after cropping.
The networks of ImageNet size are judged on every eighth file. Also the plain custom CNN 1 behind a denoiser, and the mean
of the five fold networks of the recommended setting. Uses the runs of the other experiments, and trains what is missing.
"""

import sys
from dataclasses import dataclass, replace
from typing import Literal

from wbcjax import cli
from wbcjax.cli.experiment import Networks


@dataclass
class Robustness(Networks):
    """Networks, remedies and the recommended setting under noise and corruptions."""

    inputs: tuple[Literal["whole", "color", "mask_rcnn", "oracle"], ...] = ("color", "whole")
    protocols: tuple[Literal["frozen", "fine-tuned"], ...] = ("fine-tuned",)
    share: float = 0.125
    """Share of the TEST files on which VGG16, ResNet50 and InceptionV3 are judged; the others are on all."""

    name = "robustness"

    def study(self) -> None:
        from wbcjax.pipeline.denoiser import denoised, ensure_denoiser, load_denoiser, small_denoiser
        from wbcjax.pipeline.presets import PRESETS, recommended
        from wbcjax.pipeline.robustness import Candidate, ensemble, robustness_study
        from wbcjax.pipeline.rows import noise_predictor
        from wbcjax.pipeline.runs import load_run
        from wbcjax.pipeline.studies import ensure_trained
        from wbcjax.pipeline.transfer_presets import NETWORKS
        from wbcjax.report.robustness import corruption_grid, robustness_curves

        plain = PRESETS["paper"].config("custom1", "roi", self.data)
        ours = recommended(self.data)
        denoiser = load_denoiser(ensure_denoiser(small_denoiser(self.data), self.runs))

        def folds(_):
            """The five fold networks together, in the place of the one that was trained on all of TRAIN."""
            runs = [ensure_trained(replace(ours, fold=fold), self.runs) for fold in range(ours.folds)]
            return ensemble([noise_predictor(load_run(run)[0], ours.test_views) for run in runs])

        candidates = [
            Candidate(ours, "recommended"),
            Candidate(ours, "recommended, mean of five folds", wrap=folds),
            Candidate(plain, "behind a denoiser", wrap=lambda predict: denoised(predict, denoiser)),
            Candidate(replace(plain, test_views="dihedral"), "mean of eight views"),
            *(Candidate(config, share=self.share if config.model.name in NETWORKS else 1.0)
              for config in self.configs()),
        ]
        rows = robustness_study(candidates, experiment=self.name, runs=self.runs, results=self.results,
                                notes=self.notes())
        robustness_curves(rows, self.figures / "robustness_noise.png")
        corruption_grid(rows, self.figures / "robustness_corruptions.png")


if __name__ == "__main__":
    sys.exit(cli.script(Robustness, "robustness.py"))
