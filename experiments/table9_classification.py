"""Table 9: six networks on whole images and on crops of the region of interest, the pretrained ones in two ways.

    python experiments/table9_classification.py --data.root ROOT --scale paper                 # an accelerator
    python experiments/table9_classification.py --data.root ROOT --resnet50 random --seeds 0 1 # two cores, offline

``frozen`` is the paper's protocol: the published trunk as it is, and a new head on its features, trained for 20 epochs;
the features are computed once and kept. ``fine-tuned`` trains the whole network. LeNet and the custom CNNs have no
pretrained weights. Crops come from the colour ROI, from the packaged Mask R-CNN, and from the true boxes, a bound.

Weights are names of published ones, which are downloaded, or files; ``random`` starts from none. With ``--scale cpu``,
the default, images are smaller and passes fewer (``wbcjax.pipeline.transfer_presets``), and the results say so.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class Classification(Experiment):
    """Table 9: every network, every input, two protocols."""

    scale: Literal["paper", "cpu"] = "cpu"
    """Published sizes and 20 epochs, or what two cores train in minutes."""
    vgg16: str = "keras/vgg16_notop"
    """Weights that VGG16 starts from: a published name, a file, or ``random``."""
    resnet50: str = "torchvision/resnet50"
    inception_v3: str = "torchvision/inception_v3"
    models: tuple[Literal["lenet", "custom1", "custom2", "vgg16", "resnet50", "inception_v3"], ...] = (
        "lenet", "custom1", "custom2", "vgg16", "resnet50", "inception_v3")
    inputs: tuple[Literal["whole", "color", "mask_rcnn", "oracle"], ...] = ("whole", "color", "mask_rcnn", "oracle")
    """Whole images, and where crops come from."""
    protocols: tuple[Literal["frozen", "fine-tuned"], ...] = ("frozen", "fine-tuned")

    name = "table9_classification"

    def study(self) -> None:
        from wbcjax.pipeline.studies import classification_study

        configs = [config for model in self.models for kind in self.inputs for config in self._configs(model, kind)]
        classification_study(configs, experiment=self.name, runs=self.runs, results=self.results, notes=self._notes())

    def _configs(self, model: str, kind: str) -> list:
        from wbcjax.pipeline.presets import PRESETS
        from wbcjax.pipeline.studies import with_seeds
        from wbcjax.pipeline.transfer_presets import NETWORKS, fine_tuned_recipe, frozen_recipe

        where = {"input": "whole"} if kind == "whole" else {"input": "roi", "roi_source": kind}
        if model not in NETWORKS:
            config = replace(PRESETS["paper"].recipe(model, where["input"]), data=self.data, **where)
            return with_seeds([config], self.seeds)
        recipes = {"frozen": frozen_recipe, "fine-tuned": fine_tuned_recipe}
        weights = getattr(self, model)
        path = None if weights == "random" else Path(weights)
        configs = [replace(recipes[name](model, weights=path, scale=self.scale, **where), data=self.data)
                   for name in self.protocols]
        return with_seeds(configs, self.seeds)

    def _notes(self) -> list[str]:
        random = [model for model in ("vgg16", "resnet50", "inception_v3")
                  if model in self.models and getattr(self, model) == "random"]
        notes = [f"{', '.join(random)}: no pretrained weights; from random ones."] if random else []
        if self.scale == "cpu":
            notes.append("Pretrained networks at reduced size: see the config of each run in the results file.")
        return notes


if __name__ == "__main__":
    sys.exit(cli.script(Classification, "table9_classification.py"))
