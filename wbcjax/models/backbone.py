"""What a detector needs of a backbone: named feature maps with their strides, and stages that can be kept fixed."""

from collections.abc import Callable
from typing import ClassVar

import jax
from flax import nnx
from jaxtyping import Array, Float

from wbcjax.models.norms import Norm

Stage = Callable[[Array], Array]


class Backbone(nnx.Module):
    """A network in stages, each of which makes the next feature map: the one called ``c3`` has stride 8, 2 to the
    power of 3.

    A subclass sets the attributes and implements ``stages``.

    Attributes:
      channels: of each feature map, finest first. Of the class or computed: a dictionary of its own would make a
        model's structure unhashable, which compiled functions are chosen by.
      stage_names: where the paths of each stage's parameters start, first stage first.
      min_size: smallest height and width at which every map has a pixel.
      dropout: rate before a classifier's last layer, as published.
      frozen_stages: so many of the first stages get no gradient.
      flavour: whose network it is where published ones differ, None where they do not.
    """

    channels: dict[str, int]
    stage_names: ClassVar[tuple[str, ...]]
    min_size: ClassVar[int] = 32
    dropout: ClassVar[float] = 0.0
    frozen_stages: int = 0
    flavour: str | None = None

    @property
    def strides(self) -> dict[str, int]:
        """Image pixels a pixel of each map, finest first."""
        return {name: 2 ** int(name[1:]) for name in self.channels}

    def stages(self) -> list[tuple[str, Stage]]:
        """The name of each stage's output and its function, in order; other names than those of maps are for reading
        alone."""
        raise NotImplementedError(f"{type(self).__name__} defines no stages")

    def features(self, x: Float[Array, "b _ _ _"], done: int = 0) -> dict[str, Float[Array, "b _ _ _"]]:
        """Every feature map of preprocessed images, finest first.

        Args:
          done: so many of the first stages have run already, and ``x`` is the output of the last of them; maps that
            came before it are left out.
        """
        maps = {}
        for number, (name, stage) in enumerate(self.stages(), 1):
            if number > done:
                x = stage(x)
            if number <= self.frozen_stages:
                x = jax.lax.stop_gradient(x)
            if number >= done and name in self.channels:
                maps[name] = x
        return maps

    def frozen_features(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b _ _ _"]:
        """What the frozen stages make of preprocessed images: ``features`` goes on from it."""
        for _, stage in self.stages()[: self.frozen_stages]:
            x = stage(x)
        return x

    def _norm_of(self, stage: int, norm: Norm) -> Norm:
        """The normalisation of a stage, counted from 1: statistics of a frozen one stay as they are as well."""
        return "frozen" if norm == "batch" and stage <= self.frozen_stages else norm
