"""Fit the expanded colour ROI again, on the detector's 220 training images alone.

    python experiments/fit_color_roi.py --data.root ROOT

Prints the config, which is ``wbcjax.roi.EXPANDED``, and its mean IoU on those images (0.869), in about a minute.
"""

import sys
from dataclasses import dataclass, field

from wbcjax import cli
from wbcjax import config as cfg


@dataclass
class FitColorRoi:
    """Search closing, cytoplasm range and enlargement for the highest mean IoU."""

    data: cfg.DataConfig = field(default_factory=cfg.DataConfig)

    def run(self) -> int:
        """Fit, and print the config and its mean IoU."""
        from wbcjax.data import load_images, voc
        from wbcjax.data.splits import detector_split
        from wbcjax.evaluation.iou import best_iou, iou_statistics
        from wbcjax.pipeline.inputs import data_root
        from wbcjax.roi import EXPANDED, color_rois
        from wbcjax.roi.fit import fit

        bccd = voc(data_root(self.data))
        train = bccd.select(detector_split(bccd)[0])
        images, boxes = load_images(train.paths), train.boxes_of("wbc")
        fitted = fit(images, boxes)
        mean = iou_statistics(best_iou(color_rois(images, fitted), boxes))["mean"]
        print(fitted)
        print(f"mean IoU {mean:.3f} on {len(train)} images; {'equal to' if fitted == EXPANDED else 'NOT'} EXPANDED")
        return 0


if __name__ == "__main__":
    sys.exit(cli.script(FitColorRoi, "fit_color_roi.py"))
