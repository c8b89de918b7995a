"""A denoiser to put in front of a classifier: its network, its noise, its training."""

from dataclasses import dataclass, field

from wbcjax.config.base import require
from wbcjax.config.data import ColorRoiConfig, CropConfig, DataConfig
from wbcjax.config.training import LoopConfig, OptimConfig


@dataclass(frozen=True)
class DenoiserModelConfig:
    """How large the network is."""

    layers: int = 5
    """3×3 convolutions, each on 2×2 pixels folded into channels."""
    channels: int = 32

    def __post_init__(self):
        require(self.layers >= 2, "model.layers", self.layers, ">= 2")
        require(self.channels >= 1, "model.channels", self.channels, ">= 1")


@dataclass(frozen=True)
class DenoiserConfig:
    """One denoiser, trained on crops of the colour ROI of TRAIN with noise of unknown level."""

    data: DataConfig = field(default_factory=DataConfig)
    roi: ColorRoiConfig = ColorRoiConfig()
    crop: CropConfig = CropConfig()
    image_size: tuple[int, int] = (96, 96)
    """(height, width) of the crops; the network takes any size."""
    max_alpha: float = 0.5
    """Noise levels are drawn uniformly from 0 to this one."""
    model: DenoiserModelConfig = DenoiserModelConfig()
    optim: OptimConfig = OptimConfig(weight_decay=0.0)
    train: LoopConfig = LoopConfig()
    train_share: float = 1.0
    """Share of the files of each original that are trained on, evenly spaced."""
    folds: int = 5
    fold: int = 0
    """Fold of TRAIN, grouped by original, that is held out to measure on."""

    def __post_init__(self):
        require(min(self.image_size) >= 16, "image_size", self.image_size, "at least 16 pixels a side")
        require(self.max_alpha > 0, "max_alpha", self.max_alpha, "> 0")
        require(0 < self.train_share <= 1, "train_share", self.train_share, "0 < share <= 1")
        require(self.folds >= 2, "folds", self.folds, ">= 2")
        require(0 <= self.fold < self.folds, "fold", self.fold, f"0..{self.folds - 1}")
