"""Tables 6 and 7, and the ROI column of Table 9: LeNet, custom CNN 1 and custom CNN 2 on crops of the colour ROI.

    python experiments/table6_7_custom_roi.py --data.root ROOT

| model   | input            | paper | measured | wall time, 1 CPU core |
|---------|------------------|-------|----------|-----------------------|
| lenet   | colour ROI 96×96 | –     | 87.1 %   | about 5 min           |
| custom1 | colour ROI 96×96 | 88 %  | 89.7 %   | about 8 min           |
| custom2 | colour ROI 96×96 | 92 %  | 88.3 %   | about 12 min          |

Trained on all of TRAIN, evaluated once on all 2,487 images of TEST, of which those without a region are classified
whole and counted; the setting is ``wbcjax.recipe``.
"""

import sys
from dataclasses import dataclass, replace
from typing import Literal

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class Crops(Experiment):
    """LeNet, custom CNN 1 and custom CNN 2 on crops of the colour ROI."""

    roi: tuple[Literal["color", "mask_rcnn", "oracle"], ...] = ("color",)
    """Where the crops come from; each gets its column."""

    name = "table6_7_custom_roi"

    def study(self) -> None:
        from wbcjax.pipeline.presets import PRESETS
        from wbcjax.pipeline.studies import classification_study, with_seeds

        configs = [replace(config, roi_source=source)
                   for source in self.roi for config in PRESETS["paper"].configs(self.data, "roi")]
        classification_study(with_seeds(configs, self.seeds), experiment=self.name, runs=self.runs,
                             results=self.results)


if __name__ == "__main__":
    sys.exit(cli.script(Crops, "table6_7_custom_roi.py"))
