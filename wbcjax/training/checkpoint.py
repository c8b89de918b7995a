"""Checkpoints: the whole training state, the data position and the loop's own memory, by orbax.

A checkpoint is either complete or absent: orbax writes to a temporary folder and renames it. The two newest are kept.
"""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from wbcjax.errors import CheckpointError
from wbcjax.training.state import State

KEEP = 2


class Checkpoints:
    """The checkpoints of one run, under ``directory``."""

    def __init__(self, directory: Path):
        self.directory = directory.absolute()
        self.directory.mkdir(parents=True, exist_ok=True)
        with _quiet_orbax():
            self._checkpointer = ocp.training.Checkpointer(
                self.directory,
                save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                preservation_policy=ocp.training.preservation_policies.LatestN(KEEP),
            )

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, None if there is none."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: State, memory: dict[str, Any]) -> None:
        """Save ``state`` and the JSON-like ``memory``; returns when both are on disk."""
        if step != self.latest:
            self._checkpointer.save_checkpointables(step, {"state": state}, custom_metadata=memory, force=True)

    def restore(self, like: State) -> tuple[State, dict[str, Any]]:
        """The newest checkpoint, with the shapes, types and shardings of ``like``, and its memory.

        Raises:
          CheckpointError: if there is none, it is damaged, or it belongs to another model or optimiser.
        """
        if self.latest is None:
            raise CheckpointError(f"{self.directory}: no checkpoint here; train first, or start without --resume")
        try:
            with _quiet_orbax():
                self._check_structure(like)
                loaded = self._checkpointer.load_checkpointables(self.latest, {"state": jax.tree.map(_abstract, like)})
                memory = self._checkpointer.metadata(self.latest).custom_metadata
            if not memory:
                raise ValueError("the loop's memory is missing")
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CheckpointError(
                f"{self.directory}/{self.latest}: damaged, or written with other settings or by another version; "
                "delete this folder to go on from the step before"
            ) from error
        return loaded["state"], memory

    def _check_structure(self, like: State) -> None:
        """Compare paths and shapes before reading, for a message that names what differs."""
        stored = self._checkpointer.checkpointables_metadata(self.latest).metadata["state"]
        for part, owner in (("params", "model"), ("opt_state", "optimiser"), ("ema", "optimiser")):
            here, there = _shapes(like[part]), _shapes(stored[part])
            differing = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
            if differing:
                name = differing[0]
                raise CheckpointError(
                    f"{self.directory}: the checkpoint is of another {owner}: {part} {name} is "
                    f"{there.get(name, 'absent')} there and {here.get(name, 'absent')} here; give the {owner} it was "
                    "trained with, or another folder"
                )

    def close(self) -> None:
        """Wait for what is being written."""
        self._checkpointer.close()


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape of each array by its dotted name; orbax turns the positions in a list, whole numbers here, into text."""
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
            for path, leaf in leaves if hasattr(leaf, "shape")}


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Without the pages that orbax logs about a damaged checkpoint: the error says it in one line."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
