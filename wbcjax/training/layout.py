"""Where each array of the training state lies on the mesh: split over ``fsdp`` where that saves memory, else whole.

The split follows Rajbhandari et al. 2020 (ZeRO, stage 3): parameters, their moments and their moving average lie in
parts, the step gathers the parameters to compute, and each device updates its own part.
"""

import math
from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from wbcjax.config import LoopConfig, OptimConfig
from wbcjax.training.mesh import training_mesh
from wbcjax.training.optim import make_optimizer
from wbcjax.training.state import State, init_state

SPLIT_FROM = 2**16
"""Smallest number of elements of an array that is split: gathering smaller ones costs more time than they take room."""


def split_axis(path: tuple[str, ...], shape: tuple[int, ...], parts: int) -> int | None:
    """The axis along which an array of the state is split into so many parts: the largest that divides, of equal ones
    the last. None for small arrays, those without such an axis, and batch statistics.

    Args:
      path: of the array within the state, such as ``("ema", "params", "classifier", "kernel")``.
    """
    statistics = path[:1] == ("stats",) or path[:2] == ("ema", "stats")
    if parts == 1 or statistics or math.prod(shape) < SPLIT_FROM:
        return None
    axes = [axis for axis, length in enumerate(shape) if length % parts == 0]
    return max(axes, key=lambda axis: (shape[axis], axis), default=None)


def layout_of(state: State, mesh: Mesh | AbstractMesh, *, stacked: bool = False) -> State:
    """The sharding of every array of ``state``, which may be of shapes alone.

    Args:
      stacked: whether the arrays have an axis of several runs first, which stays whole.
    """
    def sharding(path, leaf):
        names = tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)
        axis = split_axis(names, leaf.shape[stacked:], mesh.shape["fsdp"])
        spec = () if axis is None else (*[None] * (axis + stacked), "fsdp")
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree_util.tree_map_with_path(sharding, state)


def gather(tree: Any, mesh: Mesh) -> Any:
    """Arrays of the state, whole on each device, so that each process can read them."""
    if mesh.shape["fsdp"] == 1:
        return tree
    return jax.jit(_same, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)


def _same(tree: Any) -> Any:
    return tree


def describe_sharding(model: nnx.Module, optim: OptimConfig, train: LoopConfig, frozen: tuple[str, ...] = ()) -> str:
    """A table of every parameter's shape, split and bytes on a device, and what the parts of the state take there.

    Activations and resident data come on top.

    Raises:
      ConfigError: as ``training_mesh`` and ``state.partition`` do.
    """
    mesh = training_mesh(train.mesh)
    state = jax.eval_shape(lambda: init_state(model, make_optimizer(optim, 1), optim, train.seed, frozen))
    layout = layout_of(state, mesh)
    rows = []
    named = jax.tree_util.tree_leaves_with_path(state["params"])
    for (path, leaf), sharding in zip(named, jax.tree.leaves(layout["params"]), strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        shape = " x ".join(map(str, leaf.shape)) or "1"
        rows.append((name, f"{shape} {leaf.dtype}", _in_words(sharding), f"{_bytes(leaf, sharding):,}"))
    rows.append(("", "", "", ""))
    for part in ("params", "stats", "opt_state", "ema"):
        leaves = list(zip(jax.tree.leaves(state[part]), jax.tree.leaves(layout[part]), strict=True))
        here, whole = sum(_bytes(*pair) for pair in leaves), sum(leaf.size * leaf.dtype.itemsize for leaf, _ in leaves)
        rows.append((part, f"{len(leaves)} arrays", f"of {whole:,}", f"{here:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join((*(cell.ljust(width) for cell, width in zip(row[:3], widths, strict=False)),
                        row[3].rjust(widths[3]))).rstrip() for row in rows]
    total = sum(map(_bytes, jax.tree.leaves(state), jax.tree.leaves(layout)))
    axes = " x ".join(f"{size} ({name})" for name, size in mesh.shape.items())
    return "\n".join([*lines, "", f"{axes} devices; the state takes {total:,} bytes on each"])


def _in_words(sharding: NamedSharding) -> str:
    axes = [axis for axis, name in enumerate(sharding.spec) if name]
    return f"axis {axes[0]} over fsdp" if axes else "whole"


def _bytes(leaf: Any, sharding: NamedSharding) -> int:
    """Of an array on one device."""
    return math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
