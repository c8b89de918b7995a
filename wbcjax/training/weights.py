"""Trained weights as one safetensors file that carries its configuration: no pickle, and nothing else is needed."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from wbcjax.errors import CheckpointError
from wbcjax.files import parse_json, write_bytes

WEIGHTS = "weights.safetensors"
"""Name of the file in the folder of a run."""
_SEPARATOR = "/"
VERSION = 1
"""Of the format, in the metadata; files without it are of version 1."""
DIGEST = "sha256"
"""Key of the metadata: the digest of all else in the file. Older files have none."""


def save_weights(
    path: Path, params: dict, stats: dict, config: dict[str, Any], *, card: dict[str, Any] | None = None,
    half: bool = False,
) -> None:
    """Write parameters, batch statistics and the JSON-ready ``config`` to ``path``, atomically.

    Args:
      card: where the weights come from, JSON-ready, for the metadata.
      half: store the parameters in float16, at half the size and with three digits. Statistics stay float32: variances
        leave float16's range.

    Raises:
      CheckpointError: if a parameter is too large for float16.
    """
    from safetensors.numpy import save

    tensors = _flatten({"params": params, "stats": stats})
    if half:
        tensors = {name: _halved(name, array) if name.startswith("params/") else array
                   for name, array in tensors.items()}
    metadata = {"format": "wbcjax", "version": str(VERSION), "config": json.dumps(config, sort_keys=True)}
    if card is not None:
        metadata["card"] = json.dumps(card, sort_keys=True)
    metadata[DIGEST] = _digest(metadata, tensors)
    # Not by save_file, whose files others may not read.
    write_bytes(path, save(tensors, metadata))


def read_config(path: Path) -> dict[str, Any]:
    """The configuration stored with the weights.

    Raises:
      CheckpointError: if the file is missing, damaged, of a later version, or no weights file of this package.
    """
    return _table(path, "config")


def read_card(path: Path) -> dict[str, Any]:
    """Where the weights come from, as ``wbcjax convert`` noted it; empty for those of a training run.

    Raises:
      CheckpointError: as ``read_config``.
    """
    return _table(path, "card")


def is_ours(path: Path) -> bool:
    """Whether the file was written by ``save_weights``."""
    if path.suffix != ".safetensors":
        return False
    try:
        metadata = _read_metadata(path)
    except CheckpointError:
        return False
    return _is_marked(metadata)


def tensor_names(path: Path) -> set[str]:
    """Names of the arrays in a file that ``is_ours``, such as ``params/classifier/kernel``."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return set(file.keys())


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every array of a file that ``is_ours``, after a comparison with the digest in it, if it has one.

    Raises:
      CheckpointError: if it is damaged, a single bit included, or of a later version.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    read_config(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # no such type
        raise CheckpointError(f"{path}: damaged ({error!r}); train again or copy it again") from error
    metadata = _read_metadata(path)
    noted = metadata.pop(DIGEST, None)
    if noted is not None and noted != _digest(metadata, tensors):
        raise CheckpointError(f"{path}: damaged (its content is not what was written); train again or copy it again")
    return tensors


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and every bit of the arrays, and of the metadata; whatever their order."""
    content = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, array in sorted(tensors.items()):
        content.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        content.update(array.tobytes())
    return content.hexdigest()


def _is_marked(metadata: dict[str, str]) -> bool:
    return metadata.get("format") == "wbcjax" and "config" in metadata


def _table(path: Path, key: str) -> dict[str, Any]:
    """The JSON table at ``key`` of the metadata; empty where there is none."""
    metadata = _read_metadata(path)
    if not _is_marked(metadata):
        raise CheckpointError(f"{path}: safetensors, but not written by wbcjax: it carries no configuration")
    version = metadata.get("version", "1")
    if version != str(VERSION):
        raise CheckpointError(f"{path}: weights of format version {version}, while this wbcjax reads {VERSION}; use "
                              "the wbcjax that wrote them")
    try:
        table = parse_json(metadata.get(key, "{}"))
    except ValueError as error:
        raise CheckpointError(f"{path}: its {key} is damaged ({error}); train again or copy it again") from error
    if not isinstance(table, dict):
        raise CheckpointError(f"{path}: its {key} is damaged (no table); train again or copy it again")
    return table


def _read_metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file; train first, or check the path")
    try:
        with safe_open(path, "np") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: not a safetensors file, or damaged ({error}); train again or copy it again") \
            from error


def load_weights(path: Path, like: tuple[dict, dict]) -> tuple[dict, dict]:
    """Parameters and batch statistics, with the structure and the types of ``like``, of which the shapes will do.

    Raises:
      CheckpointError: if the file is missing, damaged, or of another model, naming the first tensor that differs.
    """
    tensors = read_tensors(path)
    leaves, structure = jax.tree_util.tree_flatten_with_path({"params": like[0], "stats": like[1]})
    wanted = {_name(p): leaf.shape for p, leaf in leaves}
    for name in sorted(wanted.keys() | tensors.keys()):
        here = wanted.get(name, "absent")
        there = tensors[name].shape if name in tensors else "absent"
        if here != there:
            raise CheckpointError(
                f"{path}: weights of another model: {name} is {there} in the file and {here} in the model; give the "
                "configuration it was trained with"
            )
    loaded = jax.tree_util.tree_unflatten(structure, [tensors[_name(p)].astype(leaf.dtype, copy=False)
                                                       for p, leaf in leaves])
    return loaded["params"], loaded["stats"]


def _name(path: tuple) -> str:
    return _SEPARATOR.join(str(entry.key) for entry in path)


def _flatten(tree: PyTree) -> dict[str, np.ndarray]:
    return {_name(p): np.asarray(leaf) for p, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _halved(name: str, array: np.ndarray) -> np.ndarray:
    if np.abs(array).max(initial=0) > np.finfo(np.float16).max:
        raise CheckpointError(f"{name} has values up to {np.abs(array).max():.3g}, too large for half precision; store "
                              "it in full")
    return array.astype(np.float16)
