"""Tables 6 and 7, and the ROI columns of Table 9: LeNet, custom CNN 1 and custom CNN 2 on ROI crops of 96×96.

    python experiments/table6_7_custom_roi.py --data.root ROOT --roi color mask_rcnn oracle

| model   | paper | colour ROI | Mask R-CNN | true boxes | wall time a column, 1 CPU core |
|---------|-------|------------|------------|------------|--------------------------------|
| lenet   | –     | 87.1 %     | 87.6 %     | 88.8 %     | about 5 min                    |
| custom1 | 88 %  | 89.7 %     | 89.5 %     | 88.7 %     | about 8 min                    |
| custom2 | 92 %  | 88.3 %     | 89.0 %     | 88.7 %     | about 12 min                   |

Trained on all of TRAIN, evaluated once on all 2,487 images of TEST, with crops of the same source; images without a
region are classified whole and counted. Mask R-CNN is the packaged compact one, which finds the cells of all files in
two minutes. The setting is ``wbcjax.recipe``.
"""

import sys
from dataclasses import dataclass, replace
from typing import Literal

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class Crops(Experiment):
    """LeNet, custom CNN 1 and custom CNN 2 on crops of the region of interest."""

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
