"""Tables 3 and 8, Figures 9 and 10: Mask R-CNN on VGG16, on ResNet50 and on a compact backbone.

    python experiments/table3_mask_rcnn.py --data.root ROOT --weights.vgg16 FILE --weights.resnet50 FILE
    python experiments/table3_mask_rcnn.py --data.root ROOT --models compact
    python experiments/table3_mask_rcnn.py --data.root ROOT --preset paper …        # on an accelerator

| model    | canvas  | training                        | paper | mean IoU | mask IoU | wall time, 1 CPU core |
|----------|---------|---------------------------------|-------|----------|----------|-----------------------|
| vgg16    | 192×256 | ImageNet weights, last block on | 0.71  | 0.875    | 0.881    | about 30 min          |
| resnet50 | 192×256 | from random weights, 15 epochs  | 0.69  | 0.875    | 0.888    | about 20 min          |
| compact  | 288×384 | from random weights, 80 epochs  | –     | 0.883    | 0.915    | about 15 min          |

Trained on 220 BCCD images that show nothing of the 144 test images, evaluated once on these, by the published and by
the corrected boxes. The paper reports a mean IoU of 0.71 (VGG16) and 0.69 (ResNet50). Pretrained weights are Keras'
``.h5`` file of VGG16 without its top, or torchvision's as safetensors; without a file a backbone starts from random
weights.
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from wbcjax import cli
from wbcjax.cli.experiment import Experiment
from wbcjax.pipeline.detector_presets import DetectorName, PresetName, detector_config


@dataclass(frozen=True)
class Weights:
    """Pretrained weights of the backbones."""

    vgg16: Path | None = None
    resnet50: Path | None = None


@dataclass
class MaskRCNNs(Experiment):
    """Mask R-CNN on three backbones against the annotated boxes and masks."""

    models: tuple[DetectorName, ...] = ("vgg16", "resnet50", "compact")
    preset: PresetName = "cpu"
    """cpu: a reduced setting for two cores; paper: full resolution, for an accelerator."""
    weights: Weights = field(default_factory=Weights)
    figures: Path = Path("experiments/figures")
    """Folder of the IoU histograms and the worst images."""

    name = "table3_mask_rcnn"

    def study(self) -> None:
        from wbcjax.pipeline.detector_study import detector_study

        configs = [
            replace(config, data=self.data, train=replace(config.train, seed=seed))
            for model in self.models
            for config in [detector_config(model, self.preset, getattr(self.weights, model, None))]
            for seed in self.seeds
        ]
        detector_study(configs, experiment=self.name, runs=self.runs, results=self.results, figures=self.figures,
                       notes=(f"Preset {self.preset}.",))


if __name__ == "__main__":
    sys.exit(cli.script(MaskRCNNs, "table3_mask_rcnn.py"))
