"""Table 9: six networks on whole images and on crops of the region of interest, the pretrained ones in two ways.

    python experiments/table9_classification.py --data.root ROOT --scale paper           # on an accelerator
    python experiments/table9_classification.py --data.root ROOT --resnet50 random       # two cores

``frozen`` is the paper's protocol: the published trunk as it is, and a new head on its features, trained for 20 epochs;
the features are computed once and kept. ``fine-tuned`` trains the whole network. LeNet and the custom CNNs have no
pretrained weights. Crops come from the colour ROI, from the packaged Mask R-CNN, and from the true boxes, a bound.
Settings: ``wbcjax.pipeline.transfer_presets``, ``wbcjax.recipe``.

| scale cpu, seed 0         | whole: paper | ours   | colour ROI: paper | ours   | all four inputs, 1 CPU core |
|---------------------------|--------------|--------|-------------------|--------|-----------------------------|
| vgg16, frozen             | 48.4 %       | 44.6 % | 64 %              | 60.2 % | 38 min, crowded             |
| vgg16, fine-tuned         | 48.4 %       | 86.8 % | 64 %              | 89.0 % | 26 min                      |
| resnet50, random weights  | 74.6 %       | 87.1 % | 84 %              | 89.7 % | 18 min                      |
| inception_v3, frozen      | 43 %         | 50.4 % | 55 %              | 63.7 % | 8 min, half a core          |
| inception_v3, fine-tuned  | 43 %         | 82.9 % | 55 %              | 87.8 % | 19 min                      |

InceptionV3 here started from the 8-bit weights of the npm package nsfwjs 4.4.0, which others had fine-tuned from
ImageNet's.
"""

import sys
from dataclasses import dataclass

from wbcjax import cli
from wbcjax.cli.experiment import Networks


@dataclass
class Table9(Networks):
    """Every network, every input, two protocols; judged on TEST."""

    name = "table9_classification"

    def study(self) -> None:
        from wbcjax.pipeline.pictures import misread_by_all
        from wbcjax.pipeline.studies import classification_study

        rows = classification_study(self.configs(), experiment=self.name, runs=self.runs, results=self.results,
                                    notes=self.notes())
        misread_by_all(rows, "TEST", self.data, self.figures / "misread_by_all.png")


if __name__ == "__main__":
    sys.exit(cli.script(Table9, "table9_classification.py"))
