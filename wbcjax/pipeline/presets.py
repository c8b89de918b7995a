"""The experiments as configurations: what ``wbcjax reproduce`` and ``experiments/`` run.

``recipe`` holds the settings behind the published numbers; they were chosen on folds of TRAIN, never on TEST.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from wbcjax import config as cfg
from wbcjax.errors import ConfigError
from wbcjax.roi import EXPANDED

MODELS = ("lenet", "custom1", "custom2")
INPUTS = ("whole", "roi")

Input = Literal["whole", "roi"]
Recipe = Callable[[str, Input], cfg.ClassifierConfig]


SIZES = {"whole": (160, 208), "roi": (96, 96)}
"""(height, width); a cell is about 65 pixels wide in the first, 80 in the second."""
EPOCHS = {"whole": 6, "roi": 12}
LEARNING_RATES = {"lenet": 1e-3, "custom1": 2e-3, "custom2": 1e-3}


def recipe(model: str, input: Input) -> cfg.ClassifierConfig:
    """The setting of one model on one input behind the results in ``experiments/results``.

    The custom CNNs start on whole images from their own weights on crops, which global pooling makes possible; LeNet's
    dense layers belong to one size.
    """
    rate = LEARNING_RATES[model]
    config = cfg.ClassifierConfig(
        input=input,
        roi=EXPANDED,
        model=cfg.ModelConfig(name=model, image_size=SIZES[input]),
        optim=cfg.OptimConfig(learning_rate=rate),
        train=cfg.TrainConfig(epochs=EPOCHS[input]),
    )
    if input == "roi" or model == "lenet":
        return config
    return replace(config, pretrain=cfg.PretrainConfig(EPOCHS["roi"], SIZES["roi"], rate))


def recommended(data: cfg.DataConfig) -> cfg.ClassifierConfig:
    """The classifier to use: custom CNN 1 on crops of the colour ROI, trained with noise and corruptions, and asked
    about an image and its mirror images.

    Strength and share of noise, the share of corruptions and the epochs were chosen on a fold of TRAIN.
    """
    config = recipe("custom1", "roi")
    return replace(
        config,
        data=data,
        augment=replace(config.augment, noise=0.45, noise_share=0.5, corruption=0.2),
        train=replace(config.train, epochs=16),
        test_views="flips",
    )


def quick_recipe(model: str, input: Input) -> cfg.ClassifierConfig:
    """A setting that trains in seconds on the few synthetic smears of the quick preset."""
    return cfg.ClassifierConfig(
        input=input,
        roi=EXPANDED,
        model=cfg.ModelConfig(name=model, image_size=(48, 48)),
        optim=cfg.OptimConfig(learning_rate=3e-3),
        train=cfg.TrainConfig(epochs=8, batch_size=24, checkpoint_every=8, log_every=5),
    )


@dataclass(frozen=True)
class Preset:
    """Everything ``reproduce`` needs to know beside the data root."""

    name: str
    recipe: Recipe
    noise: cfg.NoiseConfig
    models: tuple[str, ...] = MODELS
    inputs: tuple[Input, ...] = INPUTS
    detector: Literal["none", "packaged", "compact"] = "none"
    """Mask R-CNN: none, the compact one that comes with the package, or the compact one trained anew."""

    def config(self, model: str, input: Input, data: cfg.DataConfig) -> cfg.ClassifierConfig:
        """The recipe's config of one run, on ``data``."""
        return replace(self.recipe(model, input), data=data)

    def configs(self, data: cfg.DataConfig, *inputs: Input) -> list[cfg.ClassifierConfig]:
        """Every model on the given inputs, on all where none is given."""
        return [self.config(model, input, data) for input in inputs or self.inputs for model in self.models]


PRESETS = {
    "quick": Preset("quick", quick_recipe, cfg.NoiseConfig(alphas=(0.0, 0.05, 0.15, 0.25, 0.35), seeds=2),
                    detector="packaged"),
    "paper": Preset("paper", recipe, cfg.NoiseConfig(), detector="compact"),
}


@dataclass(frozen=True)
class SyntheticData:
    """The synthetic smears of the quick preset: 54 originals and 312 files."""

    train_originals: int = 10
    test_originals: int = 3
    copies_train: int = 60
    copies_test: int = 15
    two_cells: int = 2
    seed: int = 0

    def folder(self, cache_dir: Path) -> Path:
        """Where they are kept: another folder for other arguments or another version of the package."""
        from importlib.metadata import version

        return cache_dir.expanduser() / f"synthetic-{version('wbcjax')}-{cfg.fingerprint(self)}"


def preset(name: str) -> Preset:
    """The preset of a name.

    Raises:
      ConfigError: if there is none.
    """
    if name not in PRESETS:
        raise ConfigError(f"preset = {name!r} is unknown; the presets are: {', '.join(PRESETS)}")
    return PRESETS[name]
