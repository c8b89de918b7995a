"""A training run in processes of its own, which can be killed."""

import contextlib
import importlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

# Before JAX is imported, which reads them then; the processes that are started have them, too.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path.home() / ".cache" / "wbcjax" / "jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

from wbcjax.cli import main as run_verb
from wbcjax.pipeline.runs import is_begun

# Forked processes find these loaded, which takes most of the time of a short run. Nothing here asks JAX for a device.
for name in ("wbcjax.cli.parse", "wbcjax.cli.train", "wbcjax.pipeline.process"):
    importlib.import_module(name)

LAUNCH = Path(__file__).parents[2] / "launch" / "local.py"


def arguments(data: Path, cache: Path, epochs: int, seed: int) -> list[str]:
    """Of ``wbcjax``, but for the folder: two batches an epoch, moving average, accumulation, best weights kept."""
    return ["train", "--data.root", str(data), "--data.cache_dir", str(cache), "--model.name", "lenet",
            "--model.image_size", "16", "16", "--folds", "3", "--fold", "0", "--train.batch_size", "8",
            "--train.epochs", str(epochs), "--train.log_every", "1", "--train.seed", str(seed),
            "--train.patience", str(epochs), "--optim.accumulate", "3"]


class Job:
    """The run of ``workdir``, begun or resumed; what it says goes to ``workdir``.log.

    On one process it is a fork of this one, else by ``launch/local.py``.
    """

    def __init__(self, command: list[str], workdir: Path, processes: int):
        command = [*command, "--workdir", str(workdir), *(["--resume"] if is_begun(workdir) else [])]
        self.checkpoints = workdir / "checkpoints"
        self._status: int | None = None
        self._launched = processes > 1
        self._log = workdir.with_name(f"{workdir.name}.log")
        log = self._log.open("a")
        self._said_before = log.tell()
        if self._launched:
            line = [sys.executable, str(LAUNCH), "-n", str(processes), "--cpu-devices", "1", "--", sys.executable, "-m",
                    "wbcjax", *command]
            self.pid = subprocess.Popen(line, stdout=log, stderr=log).pid
        else:
            self.pid = fork(lambda: run_verb(command), log.fileno())
        log.close()

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = os.waitstatus_to_exitcode(status) if pid else None
        return self._status is None

    def wait(self) -> int:
        """Its exit status, at the end."""
        while self.running:
            time.sleep(0.02)
        return self._status

    def missed_the_other(self) -> bool:
        """Whether it has ended because, on a machine too busy, its processes did not meet within Gloo's 30 seconds."""
        return b"Gloo context initialization failed" in self._log.read_bytes()[self._said_before :]

    def kill(self, draw: random.Random) -> None:
        """SIGKILL to it; of several processes to one, which must end the others, or to all and what has started them.
        """
        children = []
        if self._launched:
            children = [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]
        one = draw.random() < 0.5
        for pid in [draw.choice(children)] if children and one else [self.pid, *children]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.wait()
        while any(_is_alive(pid) for pid in children):  # no longer ours to wait for
            time.sleep(0.02)


def fork(action: Callable[[], int | None], output: int) -> int:
    """Run ``action`` in a copy of this process, whose output goes to the file of number ``output``; its id."""
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.dup2(output, 1)
        os.dup2(output, 2)
        status = action() or 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def in_fork(action: Callable[[], None]) -> None:
    """Run ``action`` in a process of its own, since a process that has used JAX must not fork."""
    _, status = os.waitpid(fork(action, 2), 0)
    if status:
        sys.exit(f"the preparation ended with status {os.waitstatus_to_exitcode(status)}")


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
