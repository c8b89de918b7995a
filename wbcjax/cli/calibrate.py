"""``wbcjax calibrate``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from wbcjax import config as cfg
from wbcjax.errors import ConfigError


@dataclass
class Calibrate:
    """Fit how sure a run may be on what its folds say of cells that they had not seen, and write its weights anew.

    ``wbcjax predict`` then gives calibrated probabilities, and says of which classes an uncertain cell may be, so that
    the true one is among them for all but a promised share of new cells.
    """

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run, or its weights file."""
    folds: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FOLD...")]
    """Its folds, all of them: runs of the same config with --fold 0, 1 and so on."""
    out: Path
    """File to write, .safetensors; must not exist."""
    alpha: float = 0.05
    """Share of new cells whose classes may lack the true one."""
    data: cfg.DataConfig = field(default_factory=cfg.DataConfig)
    detector: Path | None = None
    """Weights file or run folder of the Mask R-CNN that the run's crops come from; not needed for the packaged one."""

    def run(self) -> int:
        from wbcjax.pipeline.confidence import calibrate
        from wbcjax.pipeline.process import set_up_process

        if not self.folds:
            raise ConfigError("calibrate needs the folds after the run: wbcjax calibrate RUN FOLD0 FOLD1 ...")
        set_up_process(self.data)
        found = calibrate(self.run_folder, self.folds, self.out, data=self.data, alpha=self.alpha,
                          detector=self.detector)
        print(f"{self.out}: temperature {found.temperature:.3f}; classes of at least {1 - found.threshold:.3f} are "
              f"candidates, for {1 - found.alpha:.0%} of new cells; from {found.originals} originals")
        return 0
