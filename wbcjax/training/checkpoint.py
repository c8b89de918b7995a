"""Checkpoints: the whole training state, the data position and the loop's own memory, by orbax.

A checkpoint is either complete or absent: orbax writes to a temporary folder and renames it. The two newest are kept,
and the best by validation loss in a folder of its own.
"""

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
        self._check_structure(like)
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None)), like
        )
        try:
            loaded = self._checkpointer.load_checkpointables(self.latest, {"state": abstract})
        except (ValueError, KeyError, TypeError, OSError) as error:
            first = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"{self.directory}/{self.latest}: damaged, or written by another version ({first}); delete this step to "
                "go on from the one before"
            ) from error
        return loaded["state"], self._checkpointer.metadata(self.latest).custom_metadata

    def _check_structure(self, like: State) -> None:
        """Compare paths and shapes before reading, for a message that names what differs."""
        stored = self._checkpointer.checkpointables_metadata(self.latest).metadata["state"]
        here = {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in _leaves(like["params"])}
        there = {jax.tree_util.keystr(path): tuple(leaf.shape) for path, leaf in _leaves(stored["params"])}
        differing = sorted(p for p in here.keys() | there.keys() if here.get(p) != there.get(p))
        if differing:
            path = differing[0]
            raise CheckpointError(
                f"{self.directory}: the checkpoint is of another model: parameter {path} is {there.get(path, 'absent')} "
                f"there and {here.get(path, 'absent')} here; give the model it was trained with, or another folder"
            )

    def close(self) -> None:
        """Wait for what is being written."""
        self._checkpointer.close()


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))[0]
