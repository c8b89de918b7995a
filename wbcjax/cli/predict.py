"""``wbcjax predict``."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from wbcjax.errors import ConfigError


@dataclass
class Predict:
    """Find the cell in each image as the run was trained to, and tell its class.

    A run that was calibrated (``wbcjax calibrate``) says where it is uncertain, and between which classes.
    """

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run, or its weights file."""
    images: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="IMAGE...")]
    """Image files."""
    detector: Path | None = None
    """Weights file or run folder of the Mask R-CNN that the run's crops come from; not needed for the packaged one."""
    roi_source: Literal["color", "mask_rcnn"] | None = None
    """Where crops come from; None takes what the run was trained on. Noise leads the colour ROI astray, but not Mask
    R-CNN."""
    json: bool = False
    """One JSON object a line, for programs."""

    def run(self) -> int:
        from wbcjax.config import DataConfig
        from wbcjax.pipeline.predictor import Run
        from wbcjax.pipeline.process import set_up_process

        if not self.images:
            raise ConfigError("predict needs image files after the run: wbcjax predict RUN IMAGE...")
        set_up_process(DataConfig())
        run = Run(self.run_folder, detector=self.detector, roi_source=self.roi_source)
        predictions = run.predict(self.images)
        for path, prediction in zip(self.images, predictions, strict=True):
            box = None if prediction.box is None else [round(v, 1) for v in prediction.box.tolist()]
            if self.json:
                said = {"image": str(path), "class": prediction.class_name,
                        "probabilities": {k: round(v, 4) for k, v in prediction.probabilities.items()}, "box": box,
                        "missed": prediction.missed}
                if run.confidence is not None:
                    said |= {"candidates": prediction.candidates, "coverage": 1 - run.confidence.alpha}
                print(json.dumps(said))
                continue
            odds = "  ".join(f"{name} {value:.3f}" for name, value in prediction.probabilities.items())
            where = f"box {box}" if box else "no cell found: whole image" if prediction.missed else "whole image"
            doubt = f"  uncertain: {' or '.join(prediction.candidates)}" if len(prediction.candidates or ()) > 1 else ""
            print(f"{path}: {prediction.class_name}  ({odds})  {where}{doubt}")
        return 0
