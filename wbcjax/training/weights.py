"""Trained weights as one safetensors file that carries its configuration: no pickle, and nothing else is needed."""

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from wbcjax.errors import CheckpointError

_SEPARATOR = "/"


def save_weights(path: Path, params: dict, stats: dict, config: dict[str, Any]) -> None:
    """Write parameters, batch statistics and the JSON-ready ``config`` to ``path``, atomically."""
    from safetensors.numpy import save_file

    tensors = _flatten({"params": params, "stats": stats})
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors, temporary, metadata={"format": "wbcjax", "config": json.dumps(config, sort_keys=True)})
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_config(path: Path) -> dict[str, Any]:
    """The configuration stored with the weights.

    Raises:
      CheckpointError: if the file is missing or no weights file of this package.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise CheckpointError(f"{path}: no such weights file; train first, or check the path")
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a safetensors file, or damaged ({error}); train again or copy it again") \
            from error
    if metadata.get("format") != "wbcjax" or "config" not in metadata:
        raise CheckpointError(f"{path}: safetensors, but not written by wbcjax: it carries no configuration")
    return json.loads(metadata["config"])


def load_weights(path: Path, like: tuple[dict, dict]) -> tuple[dict, dict]:
    """Parameters and batch statistics, with the structure of ``like``, of which the shapes will do.

    Raises:
      CheckpointError: if the file is missing, damaged, or of another model, naming the first tensor that differs.
    """
    from safetensors.numpy import load_file

    read_config(path)
    tensors = load_file(path)
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
    loaded = jax.tree_util.tree_unflatten(structure, [tensors[_name(p)] for p, _ in leaves])
    return loaded["params"], loaded["stats"]


def _name(path: tuple) -> str:
    return _SEPARATOR.join(str(entry.key) for entry in path)


def _flatten(tree: PyTree) -> dict[str, np.ndarray]:
    return {_name(p): np.asarray(leaf) for p, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}
