"""``wbcjax train`` and ``wbcjax evaluate``."""

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from wbcjax import config as cfg
from wbcjax.cli.show import show


@dataclass
class Train:
    """Train a classifier on TRAIN; Ctrl-C and SIGTERM save, and --resume goes on from there to the same result.

    --config FILE.json takes the fields from a file, such as the config.json of another run; flags win over it.
    """

    config: Annotated[cfg.ClassifierConfig, tyro.conf.arg(name="")] = field(default_factory=cfg.ClassifierConfig)
    workdir: Path | None = None
    """Folder of the run: config, metrics, checkpoints and weights. None makes runs/MODEL-INPUT."""
    resume: bool = False
    """Go on from the newest checkpoint of the folder."""
    dry_run: bool = False
    """Print where each parameter lies on the devices and what the state takes of their memory, and end."""

    def run(self) -> int:
        from wbcjax.pipeline.process import set_up_process
        from wbcjax.pipeline.runs import train_run
        from wbcjax.pipeline.workdir import WEIGHTS

        config = self.config
        set_up_process(config.data)
        if self.dry_run:
            from wbcjax.models import build
            from wbcjax.training.layout import describe_sharding

            model = build(config.model, config.train.seed)
            frozen = model.stage_names[: config.model.frozen_stages]
            print(describe_sharding(model, config.optim, config.train, frozen))
            return 0
        workdir = self.workdir or Path("runs") / f"{config.model.name}-{config.input}"
        if not train_run(config, workdir, resume=self.resume, title=config.model.name):
            print(f"wbcjax: interrupted, and saved in {workdir}; the same command with --resume --workdir {workdir} "
                  "goes on", file=sys.stderr)
            return 0
        print(f"{workdir / WEIGHTS}\nnext: wbcjax evaluate {workdir}")
        return 0


@dataclass
class Evaluate:
    """Measure a trained run on a split: accuracy with 95 % intervals, confusion, calibration, misread originals."""

    run_folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder of the run, or its weights file."""
    split: str = "TEST"
    """TEST, TEST_SIMPLE or TRAIN."""
    data: cfg.DataConfig = field(default_factory=cfg.DataConfig)
    detector: Path | None = None
    """Weights file or run folder of the Mask R-CNN that the run's crops come from; not needed for the packaged one."""
    test_views: Literal["one", "flips", "dihedral"] | None = None
    """Test-time augmentation other than the run's own: the mean logits over an image's mirror images, or over those and
    quarter turns."""
    out: Path | None = None
    """Results file to write; None writes evaluation_SPLIT.json beside the weights."""

    def run(self) -> int:
        from wbcjax.evaluation.results import read_results
        from wbcjax.pipeline.confidence import confidence_of
        from wbcjax.pipeline.process import set_up_process
        from wbcjax.pipeline.runs import load_run
        from wbcjax.pipeline.studies import evaluation_study
        from wbcjax.pipeline.workdir import with_detector
        from wbcjax.report.tables import build_tables

        set_up_process(self.data)
        model, config = load_run(self.run_folder)
        config = with_detector(config, self.detector)
        # A run that was trained on converted images is measured on them too.
        strict = self.data.strict and config.data.strict
        config = dataclasses.replace(config, data=dataclasses.replace(self.data, strict=strict),
                                     test_views=self.test_views or config.test_views)
        beside = self.run_folder if self.run_folder.is_dir() else self.run_folder.parent
        out = self.out or beside / f"evaluation_{self.split}.json"
        confidence = confidence_of(self.run_folder)
        temperature = 1.0 if confidence is None else confidence.temperature
        evaluation_study(model, config, self.split, out, temperature=temperature)
        show(build_tables([read_results(out)]))
        print(out)
        return 0
