"""A classifier over any backbone: pooled features and a head, trained whole or from where the frozen stages end."""

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from wbcjax.config import ModelConfig
from wbcjax.errors import ConfigError
from wbcjax.models.backbones import BACKBONES
from wbcjax.models.classifier import Classifier
from wbcjax.models.inception import AuxHead

DENSE_SIDE = 7
DENSE_UNITS = 4096
"""VGG16's published head: two such layers on a grid of 7×7."""
AUX_MAP = "c4"
"""The auxiliary head of InceptionV3 sits on the last map of stride 16."""


class BackboneClassifier(Classifier):
    """A backbone of ``BACKBONES``, its last map pooled, and a linear layer."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.backbone = BACKBONES[config.name](config, rngs=rngs)
        self._begin(config)
        if config.aux and config.name != "inception_v3":
            raise ConfigError(f"model.aux = True is impossible: {config.name} has no auxiliary head; inception_v3 has")
        self.hidden = nnx.List([])
        self.pool = config.pool
        self._build_head(config, self._pooled_features(), self.backbone.dropout, rngs)
        self._build_hidden(rngs)
        self.aux = AuxHead(config.num_classes, dtype=self.dtype, rngs=rngs) if config.aux else None

    @property
    def min_size(self) -> int:
        """Smallest height and width at which every map has a pixel."""
        return self.backbone.min_size

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Where the paths of each stage's parameters start."""
        return tuple(f"backbone/{name}" for name in self.backbone.stage_names)

    def stages(self, x: Float[Array, "b h w 3"]) -> Iterator[tuple[str, Array]]:
        x = self.prepare(x)
        for name, stage in self.backbone.stages():
            yield name, (x := stage(x))
        yield "features", self.pooled(x)

    def pooled(self, x: Float[Array, "b h w c"]) -> Float[Array, "b f"]:
        """The feature vector of the last map."""
        if self.pool == "dense":
            return adaptive_avg_pool(x, DENSE_SIDE).reshape(x.shape[0], -1)
        return x.mean(axis=(1, 2)) if self.pool == "avg" else x.max(axis=(1, 2))

    def classify(self, features: Float[Array, "b f"], rngs: nnx.Rngs | None = None) -> Float[Array, "b c"]:
        for layer in self.hidden:
            features = self.dropout(nnx.relu(layer(features)), rngs=rngs)
        if not self.hidden:
            features = self.dropout(features, rngs=rngs)
        return self.classifier(features.astype(jnp.float32))

    def training_logits(
        self, x: Float[Array, "b h w 3"], rngs: nnx.Rngs | None = None
    ) -> tuple[Float[Array, "b c"], Float[Array, "b c"] | None]:
        values = dict(self.stages(x))
        return self.classify(values["features"], rngs), None if self.aux is None else self.aux(values[AUX_MAP])

    def frozen_features(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b ..."]:
        """What the frozen stages make of images in [0, 1], pooled if all are frozen; training changes nothing about
        it."""
        x = self.backbone.frozen_features(self.prepare(x))
        return self.pooled(self._rest(x)) if self._all_frozen else x

    def logits_of_frozen(
        self, features: Float[Array, "b ..."], rngs: nnx.Rngs | None = None
    ) -> Float[Array, "b c"]:
        """Logits of images whose ``frozen_features`` are given."""
        x = features.astype(self.dtype)
        return self.classify(x if self._all_frozen else self.pooled(self._rest(x)), rngs)

    @property
    def _all_frozen(self) -> bool:
        return self.frozen_stages == len(self.stage_names)

    def _rest(self, x: Array) -> Array:
        """The stages that are not frozen, and what follows without parameters."""
        for _, stage in self.backbone.stages()[self.frozen_stages :]:
            x = stage(x)
        return x

    def reset_classifier(self, num_classes: int, *, pool: str | None = None, rngs: nnx.Rngs) -> None:
        """Replace the head by a fresh one for ``num_classes`` classes, on features pooled in another way if asked for;
        an auxiliary head as well."""
        if pool is not None and pool != self.pool:
            self.pool = pool
            self.num_features = self._pooled_features()
            self._build_hidden(rngs)
        width = DENSE_UNITS if self.pool == "dense" else self.num_features
        self.classifier = nnx.Linear(width, num_classes, rngs=rngs)
        if getattr(self, "aux", None) is not None:
            self.aux = AuxHead(num_classes, dtype=self.dtype, rngs=rngs)

    def _pooled_features(self) -> int:
        channels = list(self.backbone.channels.values())[-1]
        return channels * DENSE_SIDE**2 if self.pool == "dense" else channels

    def _build_hidden(self, rngs: nnx.Rngs) -> None:
        widths = (self.num_features, DENSE_UNITS, DENSE_UNITS) if self.pool == "dense" else ()
        self.hidden = nnx.List([nnx.Linear(widths[i], widths[i + 1], dtype=self.dtype, rngs=rngs)
                                for i in range(len(widths) - 1)])


def adaptive_avg_pool(x: Float[Array, "b h w c"], side: int) -> Float[Array, "b side side c"]:
    """Means over a grid of ``side`` × ``side`` cells that cover the map, each of a pixel or more, as PyTorch cuts."""
    if x.shape[1:3] == (side, side):
        return x
    rows, columns = (_cell_means(n, side) for n in x.shape[1:3])
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x).astype(x.dtype)


def _cell_means(pixels: int, cells: int) -> Float[np.ndarray, "cells pixels"]:
    """Row i averages the pixels from floor(i pixels / cells) to ceil((i + 1) pixels / cells)."""
    weights = np.zeros((cells, pixels), np.float32)
    for i in range(cells):
        first, last = i * pixels // cells, -(-(i + 1) * pixels // cells)
        weights[i, first:last] = 1 / (last - first)
    return weights
