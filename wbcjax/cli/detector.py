"""``wbcjax detector train`` and ``wbcjax detector evaluate``."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from wbcjax import config as cfg
from wbcjax.errors import ConfigError
from wbcjax.pipeline.detector_presets import PresetName, compact, compact_all_classes, detector_config

if TYPE_CHECKING:
    from wbcjax.data import DetectionSet


@dataclass
class Train:
    """Train Mask R-CNN on BCCD's 220 training images, or on your own boxes; Ctrl-C and SIGTERM save, --resume goes on.

    --config FILE.json takes the fields from a file instead of a recipe; flags win over both.
    """

    config: Annotated[cfg.DetectorConfig, tyro.conf.arg(name="")] = field(default_factory=compact)
    recipe: Literal["compact", "compact-all", "vgg16", "resnet50"] = "compact"
    """The settings that the other flags start from; compact-all finds red cells and platelets too."""
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
    dry_run: bool = False
    """Print where each parameter lies on the devices and what the state takes of their memory, and end."""

    @classmethod
    def default(cls, option: Callable[[str], str | None]) -> "Train":
        """The defaults of a recipe, which depend on whether there are pretrained weights."""
        recipe, preset, weights = (option(f"--{name}") for name in ("recipe", "preset", "weights"))
        path = None if weights in (None, "None") else Path(weights)
        if recipe in ("vgg16", "resnet50") and preset in (None, "cpu", "paper"):
            return cls(config=detector_config(recipe, preset or "cpu", path))
        return cls(config=compact_all_classes() if recipe == "compact-all" else compact())

    def run(self) -> int:
        from wbcjax.pipeline.detector_runs import train_detector, with_classes_of
        from wbcjax.pipeline.process import set_up_process
        from wbcjax.pipeline.workdir import WEIGHTS

        set_up_process(self.config.data)
        workdir = self.workdir or Path("runs") / f"mask_rcnn-{self.config.model.backbone}"
        own = own_set(self.folder, self.classes)
        if self.dry_run:
            from wbcjax.models.mask_rcnn import build_detector
            from wbcjax.training.layout import describe_sharding

            config = self.config if own is None else with_classes_of(self.config, own)
            model = build_detector(config.model, config.train.seed)
            print(describe_sharding(model, config.optim, config.train, model.frozen_paths))
            return 0
        if not train_detector(self.config, workdir, resume=self.resume, detection_set=own, title=workdir.name):
            print(f"wbcjax: interrupted, and saved in {workdir}; the same command with --resume --workdir {workdir} "
                  "goes on", file=sys.stderr)
            return 0
        print(f"{workdir / WEIGHTS}\nnext: wbcjax detect IMAGE --weights {workdir}")
        return 0


def own_set(folder: Path | None, classes: tuple[str, ...]) -> "DetectionSet | None":
    """The boxes of a folder, of ``classes`` alone where some are named; None without a folder."""
    from wbcjax.data import detection_folder

    if folder is None:
        if classes:
            raise ConfigError("--classes chooses among those of --folder; --model.class_names names BCCD's")
        return None
    found = detection_folder(folder)
    return found.of_classes(classes) if classes else found


@dataclass
class Evaluate:
    """Measure a trained detector: IoU, misses, average precision of boxes and masks, with 95 % intervals."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run, or its weights file."""
    data: cfg.DataConfig = field(default_factory=cfg.DataConfig)
    folder: Path | None = None
    """Your own images and boxes, VOC or COCO; None takes BCCD's 144 test images."""
    out: Path | None = None
    """Results file to write; None writes evaluation_detector.json beside the weights."""

    def run(self) -> int:
        from wbcjax.cli.show import show
        from wbcjax.evaluation.results import read_results
        from wbcjax.pipeline.detector import Detector
        from wbcjax.pipeline.detector_study import detector_evaluation
        from wbcjax.pipeline.process import set_up_process
        from wbcjax.report.tables import build_tables

        set_up_process(self.data)
        detector = Detector.load(self.run_folder)
        beside = self.run_folder if self.run_folder.is_dir() else self.run_folder.parent
        out = self.out or beside / "evaluation_detector.json"
        own = {} if self.folder is None else {"own": own_set(self.folder, ()), "split": self.folder.name}
        detector_evaluation(detector, self.data, out, **own)
        show(build_tables([read_results(out)]))
        print(out)
        return 0
