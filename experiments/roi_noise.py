"""Noise before the region of interest is found, which the paper leaves out: localisers, and the chain to the class.

    python experiments/roi_noise.py --data.root ROOT

IoU on the detector's 144 test images at α = 0 … 0.5, five noise seeds: the colour ROI, faithful, expanded and with a
blur chosen on training images, and the packaged Mask R-CNN. Accuracy on a quarter of TEST with noise after cropping and
before. Uses the runs of the other experiments, and trains what is missing.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class RoiNoiseExperiment(Experiment):
    """Localisers and custom CNN 1 behind them, under noise."""

    name = "roi_noise"
    networks: tuple[Literal["recipe", "recommended"], ...] = ("recipe", "recommended")
    """Custom CNN 1 as the tables have it, and as it is recommended, trained with noise."""
    figures: Path = Path("experiments/figures")
    """Folder of the figures."""

    def study(self) -> None:
        from wbcjax.pipeline import presets
        from wbcjax.pipeline.roi_noise import roi_noise_study
        from wbcjax.pipeline.roi_noise_pictures import draw_roi_noise

        make = {"recipe": lambda: presets.PRESETS["paper"].config("custom1", "roi", self.data),
                "recommended": lambda: presets.recommended(self.data)}
        roi_noise_study({name: make[name]() for name in self.networks}, experiment=self.name, runs=self.runs,
                        results=self.results)
        draw_roi_noise(self.results / f"{self.name}.json", self.data, self.figures)


if __name__ == "__main__":
    sys.exit(cli.script(RoiNoiseExperiment, "roi_noise.py"))
