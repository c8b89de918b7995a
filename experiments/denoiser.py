"""A small denoiser for crops of the colour ROI: what it leaves of the noise, on a fold of TRAIN that it did not see.

    python experiments/denoiser.py --data.root ROOT

| α    | with noise | denoised |
|------|------------|----------|
| 0.05 | 26.3 dB    | 31.4 dB  |
| 0.2  | 15.1 dB    | 26.1 dB  |
| 0.35 | 11.2 dB    | 22.9 dB  |

Trained on a quarter of the files of four folds, sixteen passes; TEST is not read. 25 minutes on a tenth of a CPU core.
"""

import sys
from dataclasses import dataclass, replace

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class DenoiserExperiment(Experiment):
    """PSNR of crops with noise, before and after the denoiser."""

    name = "denoiser"

    def study(self) -> None:
        from wbcjax.pipeline.denoiser import denoiser_study, small_denoiser

        config = small_denoiser(self.data)
        config = replace(config, train=replace(config.train, seed=self.seeds[0]))
        denoiser_study(config, experiment=self.name, runs=self.runs, results=self.results)


if __name__ == "__main__":
    sys.exit(cli.script(DenoiserExperiment, "denoiser.py"))
