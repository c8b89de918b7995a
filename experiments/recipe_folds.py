"""How the recipe was chosen: variants of one setting, trained on four fifths of TRAIN and judged on the fifth.

    python experiments/recipe_folds.py --data.root ROOT

Folds are grouped by original, so no cell is on both sides; TEST is not read. Custom CNN 1 on colour-ROI crops, five
epochs each, about three minutes a variant on one CPU core. The 56 originals of one fold decide nothing by a point: the
study rules out what is clearly worse.
"""

import sys
from dataclasses import dataclass, replace

from wbcjax import cli
from wbcjax.cli.experiment import Experiment


@dataclass
class RecipeFolds(Experiment):
    """Variants of custom CNN 1 on crops, compared on a fold of TRAIN."""

    name = "recipe_folds"
    fold: int = 0
    """The fold that is held out."""

    def study(self) -> None:
        from wbcjax.pipeline.presets import PRESETS
        from wbcjax.pipeline.studies import fold_study

        base = PRESETS["paper"].config("custom1", "roi", self.data)
        base = replace(base, fold=self.fold, train=replace(base.train, epochs=5))
        color = {"brightness": 0.1, "contrast": 0.1, "saturation": 0.08, "hue": 0.006, "stain": 0.03}
        candidates = {
            "recipe": base,
            "half the colour jitter": replace(base, augment=replace(base.augment, **color)),
            "double the colour jitter": replace(
                base, augment=replace(base.augment, **{name: 4 * value for name, value in color.items()})
            ),
            "trained on the originals": replace(base, train_on="originals"),
            "crops of 64 pixels": replace(base, model=replace(base.model, image_size=(64, 64))),
            "mixup 0.2": replace(base, train=replace(base.train, mixup=0.2)),
        }
        fold_study(candidates, experiment=self.name, runs=self.runs, results=self.results)


if __name__ == "__main__":
    sys.exit(cli.script(RecipeFolds, "recipe_folds.py"))
