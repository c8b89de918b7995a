"""Table 10: methods of other papers on this data, under a split that shares no original.

    pip install "wbcjax[literature]"
    python experiments/table10_literature.py --data.root ROOT

Hand-made features of shape, colour and texture of the segmented cell, on crops of the colour ROI and by true boxes,
with k nearest neighbours, a support vector machine and a small multilayer network; their settings are chosen on folds
of TRAIN by original. A network of double convolution layers (Tiwari et al. 2018) and a capsule network (Baydilli and
Atila 2020) on crops of the colour ROI of 64 pixels, 12 epochs each, one setting each.
"""

import sys
from dataclasses import dataclass, replace
from typing import Literal

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class Table10(Experiment):
    """Classifiers on hand-made features and two networks of the literature, judged on TEST."""

    classifiers: tuple[Literal["knn", "svm", "mlp"], ...] = ("knn", "svm", "mlp")
    """Those on hand-made features."""
    roi_sources: tuple[Literal["color", "mask_rcnn", "oracle"], ...] = ("color", "oracle")
    """Crops that features are made of."""
    networks: tuple[Literal["double_conv", "capsule"], ...] = ("double_conv", "capsule")
    epochs: int | None = None
    """Of the networks; None is the recipe's number."""
    name = "table10_literature"

    def study(self) -> None:
        from wbcjax.pipeline.literature import FeatureConfig, literature_study, network_config
        from wbcjax.pipeline.presets import PRESETS
        from wbcjax.pipeline.studies import with_seeds

        configs = [network_config(name, self.data) for name in self.networks]
        if self.epochs is not None:
            configs = [replace(config, train=replace(config.train, epochs=self.epochs)) for config in configs]
        literature_study(
            with_seeds(configs, self.seeds), PRESETS["paper"].config("custom1", "roi", self.data),
            FeatureConfig(self.classifiers, roi_sources=self.roi_sources),
            experiment=self.name, runs=self.runs, results=self.results,
            notes=("Networks of other papers: this package's reading of their description, at reduced size.",),
        )


if __name__ == "__main__":
    sys.exit(cli.script(Table10, "table10_literature.py"))
