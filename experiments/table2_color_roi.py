"""Table 2, and Figures 7 and 8 behind it: IoU of the colour ROI on the detector's test images and on all of BCCD.

    python experiments/table2_color_roi.py --data.root ROOT

| variant  | images             | paper | mean IoU | ms an image, one core |
|----------|--------------------|-------|----------|-----------------------|
| faithful | 143 of 144 test    | 0.59  | 0.63     | 1.2                   |
| expanded | 143 of 144 test    | –     | 0.86     | 0.7                   |

Needs no training; about ten seconds. One test image has no annotated white cell and no IoU.
"""

import sys
from dataclasses import dataclass

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class ColorRoi(Experiment):
    """The colour ROI, faithful and expanded, against the annotated boxes."""

    name = "table2_color_roi"

    def study(self) -> None:
        from wbcjax.pipeline.localisation import color_roi_study

        color_roi_study(self.data, experiment=self.name, results=self.results)


if __name__ == "__main__":
    sys.exit(cli.script(ColorRoi, "table2_color_roi.py"))
