"""``wbcjax detector train``."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from wbcjax import config as cfg
from wbcjax.pipeline.detector_presets import DetectorName, PresetName, compact, detector_config


@dataclass
class Train:
    """Train Mask R-CNN on BCCD's 220 training images, or on your own boxes; Ctrl-C and SIGTERM save, --resume goes on.

    --config FILE.json takes the fields from a file instead of a recipe; flags win over both.
    """

    config: Annotated[cfg.DetectorConfig, tyro.conf.arg(name="")] = field(default_factory=compact)
    recipe: DetectorName = "compact"
    """The model whose settings the other flags start from."""
    preset: PresetName = "cpu"
    """Of vgg16 and resnet50: cpu is a reduced setting, paper the full one for an accelerator."""
    folder: Path | None = None
    """Your own images and boxes, VOC or COCO, with masks or without; None trains on BCCD."""
    classes: tuple[str, ...] = ()
    """Classes of the folder to learn; none given takes all."""
    workdir: Path | None = None
    """Folder of the run: config, metrics, checkpoints and weights. None makes runs/mask_rcnn-BACKBONE."""
    resume: bool = False
    """Go on from the newest checkpoint of the folder."""

    @classmethod
    def default(cls, option: Callable[[str], str | None]) -> "Train":
        """The defaults of a recipe, which depend on whether there are pretrained weights."""
        recipe, preset, weights = (option(f"--{name}") for name in ("recipe", "preset", "weights"))
        if recipe not in (None, "vgg16", "resnet50") or preset not in (None, "cpu", "paper"):
            return cls()  # the parser says what is wrong
        path = None if weights in (None, "None") else Path(weights)
        return cls(config=detector_config(recipe or "compact", preset or "cpu", path))

    def run(self) -> int:
        from wbcjax.pipeline.detector_runs import train_detector
        from wbcjax.pipeline.process import set_up_process
        from wbcjax.pipeline.workdir import WEIGHTS

        set_up_process(self.config.data)
        workdir = self.workdir or Path("runs") / f"mask_rcnn-{self.config.model.backbone}"
        own = own_set(self.folder, self.classes, self.config.data)
        if not train_detector(self.config, workdir, resume=self.resume, detection_set=own, title=workdir.name):
            print(f"wbcjax: interrupted, and saved in {workdir}; the same command with --resume --workdir {workdir} "
                  "goes on", file=sys.stderr)
            return 0
        print(f"{workdir / WEIGHTS}\nnext: wbcjax detect IMAGE --weights {workdir}")
        return 0


def own_set(folder: Path | None, classes: tuple[str, ...], data: cfg.DataConfig):
    """The boxes of a folder, of ``classes`` alone where some are named; None without a folder."""
    from wbcjax.data import detection_folder
    from wbcjax.errors import ConfigError

    if folder is None:
        if classes:
            raise ConfigError("--classes chooses among those of --folder; --model.class_names names BCCD's")
        return None
    found = detection_folder(folder)
    return found.of_classes(classes) if classes else found
