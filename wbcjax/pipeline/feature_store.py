"""What the frozen stages of a model make of images, computed once and kept on the disk, by the content of the image.

Augmented copies are images like any other, so copies, splits, folds and crops that come again are never computed again.
"""

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import BFloat16
from rich.progress import track

from wbcjax.config import NO_AUGMENT, AugmentConfig
from wbcjax.console import progress_console
from wbcjax.data.augment import augment
from wbcjax.files import alone
from wbcjax.models.backbone_classifier import BackboneClassifier
from wbcjax.training.state import merge, split
from wbcjax.typing import Images, UInt8

KEY_BYTES = 16
CHUNK = 32
"""Images computed at a time."""


class FeatureStore:
    """Features of one model's frozen stages, as bfloat16, in a folder of their own below ``cache_dir``."""

    def __init__(self, model: BackboneClassifier, cache_dir: Path, image_size: tuple[int, int]):
        """Open or begin the store of ``model`` for images of ``image_size``."""
        self._graphdef, self._params, self._stats = split(model)
        self._shape = jax.eval_shape(functools.partial(_features, self._graphdef), self._params, self._stats,
                                     jax.ShapeDtypeStruct((1, *image_size, 3), jnp.uint8)).shape[1:]
        self._folder = cache_dir.expanduser() / f"features-{digest(model)}-{image_size[0]}x{image_size[1]}"

    def features(self, images: Images, *, progress: bool = False) -> BFloat16[np.ndarray, "n ..."]:
        """Features of uint8 images; those that no one asked for before are computed and kept."""
        keys = [hashlib.sha256(np.ascontiguousarray(image)).digest()[:KEY_BYTES] for image in images]
        self._folder.mkdir(parents=True, exist_ok=True)
        with alone(self._folder / "lock"):
            rows = self._known()
            missing = list({key: i for i, key in enumerate(keys) if key not in rows}.values())
            self._append(images, keys, missing, len(rows), progress)
            rows = self._known()
            if not keys:
                return np.empty((0, *self._shape), jnp.bfloat16)
            # Of known size: once the lock is free, another process may be in the middle of a row after these.
            table = np.memmap(self._folder / "features.bin", np.uint16, "r", shape=(len(rows), *self._shape))
        return np.asarray(table[[rows[key] for key in keys]]).view(jnp.bfloat16)

    def _known(self) -> dict[bytes, int]:
        """Row of each image: as many as have both their key and all of their features on the disk."""
        keys, features = self._folder / "keys.bin", self._folder / "features.bin"
        if not (keys.exists() and features.exists()):
            return {}
        data = keys.read_bytes()
        count = min(len(data) // KEY_BYTES, features.stat().st_size // self._row_bytes)
        return {data[i * KEY_BYTES : (i + 1) * KEY_BYTES]: i for i in range(count)}

    @property
    def _row_bytes(self) -> int:
        return 2 * int(np.prod(self._shape))

    def _append(
        self, images: Images, keys: Sequence[bytes], missing: Sequence[int], count: int, progress: bool
    ) -> None:
        with (self._folder / "features.bin").open("ab") as features, (self._folder / "keys.bin").open("ab") as names:
            features.truncate(count * self._row_bytes)  # what a killed process left half written
            names.truncate(count * KEY_BYTES)
            starts = range(0, len(missing), CHUNK)
            for start in track(starts, "Frozen features", disable=not (progress and missing),
                               console=progress_console()):
                chosen = missing[start : start + CHUNK]
                batch = np.zeros((CHUNK, *images.shape[1:]), np.uint8)
                batch[: len(chosen)] = images[chosen]
                values = np.asarray(_features(self._graphdef, self._params, self._stats, batch))[: len(chosen)]
                features.write(values.view(np.uint16).tobytes())
                features.flush()
                names.write(b"".join(keys[i] for i in chosen))
                names.flush()


@functools.partial(jax.jit, static_argnames="graphdef")
def _features(graphdef, params, stats, images):
    model = merge(graphdef, params, stats, training=False)
    return model.frozen_features(images.astype(jnp.float32) / 255).astype(jnp.bfloat16)


def digest(model: BackboneClassifier) -> str:
    """Twelve hex digits that change with anything that the features of the frozen stages depend on."""
    backbone = model.backbone
    sha = hashlib.sha256(repr((type(backbone).__name__, backbone.flavour, model.preprocessing, model.frozen_stages,
                               model.pool, str(model.dtype), [name for name, _ in backbone.stages()])).encode())
    for name in backbone.stage_names[: model.frozen_stages]:
        for path, variable in nnx.to_flat_state(nnx.state(getattr(backbone, name), (nnx.Param, nnx.BatchStat))):
            sha.update(repr((name, path)).encode())
            sha.update(np.ascontiguousarray(variable[...]))
    return sha.hexdigest()[:12]


def augmented_copies(
    images: Images, config: AugmentConfig, copies: int, seed: int
) -> UInt8[np.ndarray, "m height width 3"]:
    """``copies`` times as many images: all of them changed at random, then all again. Unchanged where nothing changes
    them."""
    if config == NO_AUGMENT:
        return np.tile(images, (copies, 1, 1, 1))
    key, out = jax.random.key(seed), np.empty((copies * len(images), *images.shape[1:]), np.uint8)
    for number, start in enumerate(range(0, len(out), CHUNK)):
        index = np.arange(start, start + CHUNK) % len(images)  # the last chunk goes round
        changed = augment(jax.random.fold_in(key, number), jnp.asarray(images[index], jnp.float32) / 255, config)
        out[start : start + CHUNK] = np.asarray(jnp.round(changed * 255).astype(jnp.uint8))[: len(out) - start]
    return out
