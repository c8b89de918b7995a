"""Robustness of the recommended classifier, and of other remedies: Gaussian noise and eleven corruptions, on TEST.

    python experiments/robustness.py --data.root ROOT

α from 0 to 0.5 with five noise seeds, MedMNIST-C's corruptions at five levels, all after cropping.
Beside the recommended network: its five fold networks together, and the plain custom CNN 1 alone, over four views and
behind a denoiser. Uses the runs of the other experiments, and trains what is missing. About 15 min on one CPU core
where the runs are there.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class Robustness(Experiment):
    """The recommended setting and other remedies under noise and corruptions."""

    share: float = 0.125
    """Share of the TEST files for all but the recommended network, which is judged on all of them."""
    denoiser_share: float = 0.0625
    """Share of the TEST files for the denoiser, which costs more than the network."""
    figures: Path = Path("experiments/figures")

    name = "robustness"

    def study(self) -> None:
        from wbcjax.pipeline.denoiser import denoised, ensure_denoiser, load_denoiser, small_denoiser
        from wbcjax.pipeline.presets import PRESETS, recommended
        from wbcjax.pipeline.robustness import Candidate, ensemble, robustness_study
        from wbcjax.pipeline.rows import noise_predictor
        from wbcjax.pipeline.runs import load_run
        from wbcjax.pipeline.studies import ensure_trained
        from wbcjax.report.robustness import robustness_curves

        plain = PRESETS["paper"].config("custom1", "roi", self.data)
        ours = recommended(self.data)
        one_view = replace(ours, test_views="one")
        denoiser = load_denoiser(ensure_denoiser(small_denoiser(self.data), self.runs))

        def folds(_):
            """The five fold networks in the place of the one that was trained on all of TRAIN."""
            runs = [ensure_trained(replace(ours, fold=fold), self.runs) for fold in range(ours.folds)]
            return ensemble([noise_predictor(load_run(run)[0]) for run in runs])

        rows = robustness_study(
            [
                Candidate(ours, "recommended"),
                Candidate(one_view, "recommended, one view", self.share),
                Candidate(one_view, "recommended, one view of five fold networks", self.share, folds),
                Candidate(plain, "plain", self.share),
                Candidate(replace(plain, test_views="flips"), "plain, four views", self.share),
                Candidate(plain, "plain, behind a denoiser", self.denoiser_share, lambda p: denoised(p, denoiser)),
            ],
            experiment=self.name, runs=self.runs, results=self.results,
        )
        robustness_curves(rows, self.figures / "robustness_noise.png")


if __name__ == "__main__":
    sys.exit(cli.script(Robustness, "robustness.py"))
