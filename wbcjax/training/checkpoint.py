"""Checkpoints: the whole training state, the data position and the loop's own memory, by orbax.

A checkpoint is either complete or absent: orbax writes to a temporary folder and renames it. The two newest are kept,
of which the older serves where the newer is damaged; the best weights so far, which early stopping needs, are a part of
each. Beside its files each holds their digests, by which damage is found and named.
"""

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from wbcjax.errors import CheckpointError
from wbcjax.training.digests import find_damage, has_digests, write_digests
from wbcjax.training.distributed import all_agree, wait_for_all
from wbcjax.training.state import State

log = logging.getLogger(__name__)

KEEP = 2
VERSION = 2
"""Of the format, in the memory of each checkpoint. Version 1, which has neither this number nor digests, is read."""


class Checkpoints:
    """The checkpoints of one run, under ``directory``.

    Raises:
      CheckpointError: if the folder cannot be made or read.
    """

    def __init__(self, directory: Path):
        self.directory = directory.absolute()
        self._failed = False
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{self.directory}: cannot be made ({error.strerror}); check the path, its "
                                  "permissions and the disk") from error
        failure = self._open()
        if not all_agree(failure is None):  # orbax reads a file of each checkpoint at once
            steps = sorted(int(folder.name) for folder in self.directory.iterdir() if folder.name.isdecimal())
            damaged = {step: problem for step in steps if (problem := find_damage(self._folder(step)))}
            self._set_aside(damaged or {step: f"{self._folder(step)}: damaged ({failure})" for step in steps[-1:]})
            failure = self._open()
            if failure is not None:
                raise CheckpointError(f"{self.directory}: damaged ({failure}); delete it, and start again without "
                                      "--resume")

    def _open(self) -> str | None:
        """Let orbax look at what is there; returns why it cannot."""
        try:
            with _quiet_orbax():
                self._checkpointer = ocp.training.Checkpointer(
                    self.directory,
                    save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
                    preservation_policy=ocp.training.preservation_policies.LatestN(KEEP),
                )
        except Exception as error:  # whatever orbax makes of what it finds
            return _cause(error)
        return None

    @property
    def latest(self) -> int | None:
        """Step of the newest complete checkpoint, None if there is none."""
        newest = self._checkpointer.latest
        return None if newest is None else newest.step

    def save(self, step: int, state: State, memory: dict[str, Any]) -> None:
        """Save ``state`` and the JSON-like ``memory``; returns when both are on disk.

        Raises:
          CheckpointError: if they cannot be written; the checkpoint before is as it was.
        """
        before = self.latest
        if step == before:
            return
        try:
            with _quiet_orbax():
                self._checkpointer.save_checkpointables(
                    step, {"state": state}, custom_metadata={"version": VERSION, **memory}, force=True)
            if jax.process_index() == 0:
                write_digests(self._folder(step))
        except Exception as error:  # whatever orbax makes of a full disk
            self._failed = True
            good = "none was written before" if before is None else f"that of step {before} is good"
            raise CheckpointError(
                f"{self._folder(step)}: the checkpoint cannot be written ({_cause(error)}); {good}: free space or mend "
                f"the folder, then {'start again' if before is None else 'go on with --resume'}"
            ) from error

    def restore(self, like: State) -> tuple[State, dict[str, Any]]:
        """The newest good checkpoint, with the shapes, types and shardings of ``like``, and its memory.

        Where the newest is damaged, a warning names the file, the one before is loaded, and the damaged one is renamed
        to ``STEP.damaged``: training repeats the steps between, to the same result.

        Raises:
          CheckpointError: if there is none, all are damaged, or it is of another model, optimiser or version.
        """
        problems: dict[int, str] = {}
        for step in sorted((checkpoint.step for checkpoint in self._checkpointer.checkpoints), reverse=True):
            folder = self._folder(step)
            problem = find_damage(folder)
            if all_agree(problem is None):
                try:
                    with _quiet_orbax():
                        loaded = self._load(step, like)
                except CheckpointError:
                    raise
                except Exception as error:  # whatever orbax makes of what it finds
                    problem = (f"{folder}: damaged, or written with other settings or by another version "
                               f"({_cause(error)})")
                    if has_digests(folder):  # and they were right
                        raise CheckpointError(f"{problem}; delete this folder to go on from the step before") from error
                else:
                    if problems:
                        self._set_aside(problems)
                        self._checkpointer.reload()
                    return loaded
            problems[step] = problem or f"{folder}: damaged, as another process sees it"
        if problems:
            raise CheckpointError(f"{next(iter(problems.values()))}; no other checkpoint here is good: delete "
                                  f"{self.directory.parent}, and start again without --resume")
        raise CheckpointError(f"{self.directory}: no checkpoint here; train first, or start without --resume")

    def _load(self, step: int, like: State) -> tuple[State, dict[str, Any]]:
        memory = self._checkpointer.metadata(step).custom_metadata
        if not memory:
            raise ValueError("the loop's memory is missing")
        version = memory.pop("version", 1)
        if version not in range(1, VERSION + 1):
            raise CheckpointError(f"{self._folder(step)}: a checkpoint of format version {version}, while this wbcjax "
                                  f"reads 1 to {VERSION}; go on with the wbcjax that wrote it, or train again")
        self._check_structure(step, like)
        loaded = self._checkpointer.load_checkpointables(step, {"state": jax.tree.map(_abstract, like)})
        return loaded["state"], memory

    def _set_aside(self, problems: dict[int, str]) -> None:
        """Rename damaged checkpoints, whose steps will be written again."""
        if jax.process_index() == 0:
            for step, problem in problems.items():
                folder = self._folder(step)
                aside = folder.with_name(f"{step}.damaged")
                log.warning("%s; going on from the checkpoint before, and %s is now %s", problem, step, aside.name)
                try:
                    shutil.rmtree(aside, ignore_errors=True)
                    os.replace(folder, aside)
                except OSError as error:
                    raise CheckpointError(f"{problem}, and the folder cannot be renamed ({error.strerror}); delete it "
                                          "to go on from the step before") from error
        wait_for_all(f"damaged checkpoints of {self.directory} are set aside")

    def _folder(self, step: int) -> Path:
        return self.directory / str(step)

    def _check_structure(self, step: int, like: State) -> None:
        """Compare paths and shapes before reading, for a message that names what differs."""
        stored = self._checkpointer.checkpointables_metadata(step).metadata["state"]
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
        with _quiet_orbax():
            try:
                self._checkpointer.close()
            except Exception:  # of a save that failed, which has said so
                if not self._failed:
                    raise


def _cause(error: BaseException) -> str:
    """The reason at the bottom of a chain of errors, in one line of at most 200 characters."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    text = error.strerror if isinstance(error, OSError) and error.strerror else f"{error}" or type(error).__name__
    return " ".join(text.split())[:200]


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Shape of each array by its dotted name; orbax turns the positions in a list, whole numbers here, into text."""
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): tuple(leaf.shape)
            for path, leaf in leaves if hasattr(leaf, "shape")}


@contextlib.contextmanager
def _quiet_orbax() -> Iterator[None]:
    """Without the pages that orbax and its threads print about a damaged checkpoint or a full disk: the error says it
    in one line."""
    logger = logging.getLogger("absl")
    level, hook = logger.level, threading.excepthook
    logger.setLevel(logging.CRITICAL)
    threading.excepthook = lambda arguments: None
    try:
        yield
    finally:
        logger.setLevel(level)
        threading.excepthook = hook
