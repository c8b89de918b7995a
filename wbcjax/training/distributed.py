"""Several processes as one program, by JAX's own multi-controller runtime: each runs the same command.

``launch/`` starts them. All see one global mesh and take the same steps; the first alone prints and writes.
"""

import os
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from wbcjax import console
from wbcjax.errors import ConfigError

COORDINATOR, NUM_PROCESSES, PROCESS_ID = "WBCJAX_COORDINATOR", "WBCJAX_NUM_PROCESSES", "WBCJAX_PROCESS_ID"
"""Environment variables: address and port of process 0, how many processes there are, which one this is."""
DETECT = "WBCJAX_DISTRIBUTED"
"""Set to ``auto``, JAX asks the cluster for these three: TPU slices, Kubernetes, SLURM, Open MPI."""
_TASKS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
"""How many tasks ``srun`` and ``mpirun`` have started: with more than one, ``auto`` is the default."""


def initialize_distributed() -> None:
    """Join the other processes, where this one was started as one of several; otherwise do nothing.

    Must come before anything that asks JAX for a device.

    Raises:
      ConfigError: if the environment variables contradict each other.
    """
    settings = process_settings(os.environ)
    if settings is None or jax.distributed.is_initialized():
        return
    # JAX's handler of SIGTERM would keep a process alive that is still reading its data; the training loop has its own.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(**settings)
    if jax.process_count() == 1:
        return
    # All have just met here. Later they read data and build models, on a busy machine for minutes, and Gloo, which CPUs
    # exchange by, waits 30 seconds for the first exchange and no longer.
    wait_for_all("every process has begun")
    sys.excepthook = _end_at_once
    if jax.process_index():
        console.silence()
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 -- for as long as the process lives


def process_settings(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Arguments for ``jax.distributed.initialize``, empty where JAX finds them itself; None for a single process.

    Raises:
      ConfigError: as ``initialize_distributed`` does.
    """
    given = {name: environ[name] for name in (COORDINATOR, NUM_PROCESSES, PROCESS_ID) if environ.get(name)}
    if given:
        try:
            count, index = int(given[NUM_PROCESSES]), int(given[PROCESS_ID])
            valid = 0 <= index < count and ":" in given[COORDINATOR]
        except (KeyError, ValueError):
            valid = False
        if not valid:
            raise ConfigError(f"{', '.join(f'{k}={v}' for k, v in given.items())} is impossible: expected all of "
                              f"{COORDINATOR}=HOST:PORT, {NUM_PROCESSES}=N and {PROCESS_ID}=0..N-1")
        if count == 1:
            return None
        return {"coordinator_address": given[COORDINATOR], "num_processes": count, "process_id": index,
                "cluster_detection_method": "deactivate"}
    tasks = max(int(environ.get(name) or 1) for name in _TASKS)
    return {} if environ.get(DETECT) == "auto" or tasks > 1 else None


def wait_for_all(what: str) -> None:
    """Return when every process has come here; ``what`` must be the same on all."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(what)


def all_agree(answer: bool) -> bool:
    """Whether every process says yes. For what they may see differently, such as files, before they compute together:
    one that goes another way leaves the others waiting."""
    return bool(multihost_utils.process_allgather(np.array(answer)).all()) if jax.process_count() > 1 else answer


def end_if_shared(status: int) -> None:
    """End with ``status`` at once, where there are several processes.

    An orderly exit waits for the others, and they for the results of this one; this way they fail, and hear why.
    """
    if jax.distributed.is_initialized() and jax.process_count() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _end_at_once(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    traceback.print_exception(kind, error, trace)
    end_if_shared(1)
