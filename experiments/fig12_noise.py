"""Figure 12: accuracy on TEST under additive Gaussian noise, N = clip(I + αG, 0, 1) with images in [0, 1].

    python experiments/fig12_noise.py --data.root ROOT

| model   | input      | paper, α = 0.05 | paper, α = 0.35 | wall time, 2 CPU cores          |
|---------|------------|-----------------|-----------------|---------------------------------|
| custom2 | colour ROI | 81 %            | 51 %            | about 10 min, all models' sweep |

Also LeNet and custom CNN 1, and whole images. Uses the runs of table4_5 and table6_7, and trains what is missing.
"""

import sys
from dataclasses import dataclass

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class Noise(Experiment):
    """Every model on both inputs under every noise level, over three noise seeds."""

    name = "fig12_noise"

    def study(self) -> None:
        from wbcjax.pipeline.presets import PRESETS
        from wbcjax.pipeline.studies import noise_study, with_seeds

        paper = PRESETS["paper"]
        noise_study(with_seeds(paper.configs(self.data), self.seeds[:1]), paper.noise, experiment=self.name,
                    runs=self.runs, results=self.results)


if __name__ == "__main__":
    sys.exit(cli.script(Noise, "fig12_noise.py"))
