"""What the scripts in ``experiments/`` share: their options."""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from wbcjax import config as cfg
from wbcjax.cli.show import show


@dataclass
class Experiment:
    """Options of an experiment on the real data."""

    data: cfg.DataConfig = field(default_factory=cfg.DataConfig)
    runs: Path = Path("runs/reproduce-paper/runs")
    """Folder of the training runs, shared with ``wbcjax reproduce --preset paper``; finished ones are reused."""
    results: Path = Path("experiments/results")
    """Folder of the results file."""
    seeds: tuple[int, ...] = (0,)
    """One run a model and seed."""

    name = ""
    """Of the results file; a script sets it."""

    def run(self) -> int:
        """Run the study and print its tables; an interruption is saved, and no error."""
        from wbcjax.evaluation.results import read_results
        from wbcjax.pipeline.process import set_up_process
        from wbcjax.pipeline.studies import Interrupted
        from wbcjax.report.tables import build_tables

        set_up_process(self.data)
        try:
            self.study()
        except Interrupted as stopped:
            print(f"wbcjax: {stopped}", file=sys.stderr)
            return 0
        show(build_tables([read_results(self.results / f"{self.name}.json")]))
        return 0

    def study(self) -> None:
        """The experiment itself: writes the results file ``name``."""
        raise NotImplementedError(f"{type(self).__name__} defines no study")


@dataclass
class Networks(Experiment):
    """Options of an experiment on the networks of Table 9."""

    scale: Literal["paper", "cpu"] = "cpu"
    """Published sizes and 20 epochs, or what two cores train in minutes."""
    vgg16: str = "keras/vgg16_notop"
    """Weights that VGG16 starts from: a published name, which is downloaded, a file, or ``random``."""
    resnet50: str = "torchvision/resnet50"
    inception_v3: str = "torchvision/inception_v3"
    models: tuple[Literal["lenet", "custom1", "custom2", "vgg16", "resnet50", "inception_v3"], ...] = (
        "lenet", "custom1", "custom2", "vgg16", "resnet50", "inception_v3")
    inputs: tuple[Literal["whole", "color", "mask_rcnn", "oracle"], ...] = ("whole", "color", "mask_rcnn", "oracle")
    """Whole images, and where crops come from."""
    protocols: tuple[Literal["frozen", "fine-tuned"], ...] = ("frozen", "fine-tuned")
    """Of the pretrained networks: the published trunk with a new head, or all of it trained."""
    figures: Path = Path("experiments/figures")
    """Folder of the figure of misread originals."""

    def configs(self) -> list[cfg.ClassifierConfig]:
        """Every network asked for, on every input, in every protocol, with every seed."""
        from wbcjax.pipeline.studies import with_seeds
        from wbcjax.pipeline.transfer_presets import network_configs

        configs = [replace(config, data=self.data) for model in self.models for kind in self.inputs
                   for config in network_configs(model, kind, self.protocols, self._weights(model), self.scale)]
        return with_seeds(configs, self.seeds)

    def notes(self) -> list[str]:
        """What a reader of the results must know of the weights and sizes."""
        from wbcjax.pipeline.transfer_presets import NETWORKS

        pretrained = [model for model in NETWORKS if model in self.models]
        random = [model for model in pretrained if self._weights(model) is None]
        notes = [f"From random weights, for want of published ones: {', '.join(random)}."] if random else []
        if pretrained and self.scale == "cpu":
            notes.append("Pretrained networks at reduced size and few passes, for two cores: the config in the results "
                         "file has each run's.")
        return notes

    def _weights(self, model: str) -> Path | None:
        source = getattr(self, model, "random")
        return None if source == "random" else Path(source)
