"""What the paper does not state, or states in two ways, one setting changed at a time."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from wbcjax import config as cfg
from wbcjax.pipeline.presets import PRESETS
from wbcjax.pipeline.rows import Rows
from wbcjax.pipeline.studies import fold_study
from wbcjax.report.sensitivity import sensitivity_figure
from wbcjax.roi import FAITHFUL

BASE = "recipe"
FOLDS = (0, 1)
SHARE = 0.5
"""Of the files of each original, those that are trained on."""


def base_config(
    model: Literal["custom1", "custom2"], data: cfg.DataConfig, *, epochs: int = 5, seed: int = 0
) -> cfg.ClassifierConfig:
    """The recipe on crops, cut short: custom CNN 1 trains for a minute on one CPU core."""
    config = PRESETS["paper"].config(model, "roi", data)
    train = replace(config.train, epochs=epochs, seed=seed, eval_every=epochs, checkpoint_every=epochs)
    return replace(config, train_share=SHARE, train=train)


def variants(base: cfg.ClassifierConfig) -> dict[str, cfg.ClassifierConfig]:
    """The base itself, then each other choice, called "setting: choice"."""
    def sized(side: int) -> cfg.ClassifierConfig:
        return replace(base, model=replace(base.model, image_size=(side, side)))

    return {
        BASE: base,
        "input size: 64×64": sized(64),
        "input size: 128×128": sized(128),
        "crop margin: 0": replace(base, crop=replace(base.crop, margin=0.0)),
        "crop margin: 0.25": replace(base, crop=replace(base.crop, margin=0.25)),
        "crop shape: box stretched": replace(base, crop=replace(base.crop, square=False)),
        "ROI box: nucleus (paper's method)": replace(base, roi=FAITHFUL),
        "head: sigmoid (paper's)": replace(base, model=replace(base.model, head="sigmoid")),
        "optimiser: Adam": replace(base, optim=replace(base.optim, name="adam")),
        "optimiser: SGD, rate 0.05": replace(
            base, optim=replace(base.optim, name="sgd", learning_rate=0.05, weight_decay=1e-4)
        ),
    }


def choices(base: cfg.ClassifierConfig) -> Mapping[str, str]:
    """What the base takes for each setting that ``variants`` changes."""
    height, width = base.model.image_size
    return {
        "input size": f"{height}×{width}", "crop margin": f"{base.crop.margin:g}", "crop shape": "square",
        "ROI box": "whole cell", "head": base.model.head, "optimiser": base.optim.name,
    }


def sensitivity_study(
    base: cfg.ClassifierConfig, *, experiment: str, runs: Path, results: Path, figures: Path
) -> Rows:
    """Train and judge every variant, and draw them; writes ``results/<experiment>.json``."""
    note = (f"One setting changed at a time. Each fold is judged by a network trained on {base.train_share:g} of the "
            f"files of the other {base.folds - 1} for {base.train.epochs} epochs. difference: from the recipe, on the "
            "same originals.")
    rows = fold_study(variants(base), experiment=experiment, runs=runs, results=results, folds=FOLDS, notes=(note,))
    sensitivity_figure(rows, figures / f"{experiment}.png", base=BASE, choices=choices(base))
    return rows
