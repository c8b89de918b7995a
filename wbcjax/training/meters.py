"""What is measured while training runs: that its numbers are finite, and how fast it goes."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from wbcjax.errors import NonFiniteError

Metrics = dict[str, float | list[float]]
"""Numbers by name: of one run, or of each of several side by side."""


class Watch:
    """Metrics of the steps, looked at one step late: the device is done with them by then, and never waits for us.

    Attributes:
      last: metrics of the newest step looked at.
    """

    def __init__(self, names: Callable[[Any], list[str]]):
        """``names`` gives the file names of a batch."""
        self._names = names
        self._pending: tuple[int, dict[str, jax.Array], Any] | None = None
        self.last: Metrics = {}

    def put(self, step: int, metrics: dict[str, jax.Array], batch: Any) -> None:
        """Hand over a step's metrics, and look at those of the step before. Raises as ``flush`` does."""
        self.flush()
        self._pending = step, metrics, batch

    def flush(self) -> None:
        """Wait for the newest metrics.

        Raises:
          NonFiniteError: naming step, quantity and files of the batch.
        """
        if self._pending is None:
            return
        (step, metrics, batch), self._pending = self._pending, None
        self.last = {name: np.asarray(value, np.float64).tolist() for name, value in jax.device_get(metrics).items()}
        require_finite(step, self.last, f"the batch holds {', '.join(self._names(batch))}")


def require_finite(step: int, metrics: Metrics, where: str) -> None:
    """Refuse metrics that are no finite numbers.

    Raises:
      NonFiniteError: naming the step, the quantity and ``where`` it came up.
    """
    for name, value in metrics.items():
        if not np.isfinite(value).all():
            raise NonFiniteError(f"step {step}: {name} is {value}; {where}. Lower optim.learning_rate, set "
                                 "optim.clip_norm, or look at these files")


class Throughput:
    """Images per second between two readings, without compilation, evaluation and checkpoints."""

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._compiled = False
        self._compilation: dict[str, float] = {}
        self.restart()

    def restart(self) -> None:
        """Leave out the time since the last reading."""
        self._since, self._steps, self._waiting = time.perf_counter(), 0, 0.0

    def next(self, stream: Any) -> Any:
        """The stream's next batch; how long it took counts as waiting for input."""
        before = time.perf_counter()
        batch = next(stream)
        self._waiting += time.perf_counter() - before
        return batch

    def count(self, metrics: dict[str, jax.Array]) -> None:
        """Count a step that was handed to the device; wait for the first one, which compiles."""
        if self._compiled:
            self._steps += 1
            return
        jax.block_until_ready(metrics)
        self._compilation = {"compile_seconds": time.perf_counter() - self._since - self._waiting}
        self._compiled = True
        self.restart()

    def read(self) -> dict[str, float]:
        """Images per second and the share of time spent waiting for input; call when the steps are done.

        The first reading has the time of the first step instead, or besides if there were more steps.
        """
        rates, self._compilation = self._compilation, {}
        if self._steps:
            seconds = time.perf_counter() - self._since
            rates |= {"images_per_second": self._steps * self._batch_size / seconds,
                      "input_wait": self._waiting / seconds}
        self.restart()
        return rates
