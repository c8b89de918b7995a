"""What is measured while training runs: that its numbers are finite, and how fast it goes."""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from wbcjax.errors import NonFiniteError
from wbcjax.training.compilation import CompiledStep

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
    """Speed between two readings, without compilation, evaluation, checkpoints and the profiler.

    A reading has ``images_per_second``; ``input_wait``, the share of the time in which the stream was waited for;
    ``flops_per_second``, the model's FLOPs that all devices did together (``flops.count_flops``); and ``peak_share``,
    the time that these would take at the devices' peak over that which passed. FLOPs that cannot be counted, and the
    share of a peak that is not known, are left out.
    """

    def __init__(self, batch_size: int, peak: Callable[[str], float | None]):
        """``peak`` gives the FLOP/s of all devices together for a type of numbers; they share ``batch_size`` images."""
        self._batch_size, self._peak = batch_size, peak
        self._compilation: dict[str, float] = {}
        self._flops: dict[str, int] | None = None
        self._at_peak: float | None = None
        self._all = (0, 0.0, 0.0)
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

    def compiled(self, step: CompiledStep) -> None:
        """Take note of the step, and leave out the time until now."""
        self._compilation, self._flops = {"compile_seconds": step.seconds}, step.flops
        self._compile_seconds = step.seconds
        peaks = {kind: self._peak(kind) for kind in self._flops or {}}
        if peaks and all(peaks.values()):
            self._at_peak = sum(count / peaks[kind] for kind, count in self._flops.items())
        self.restart()

    def count(self) -> None:
        """Count a step that was handed to the device."""
        self._steps += 1

    def read(self) -> dict[str, float]:
        """The numbers since the last reading; call when the steps are done. The first has ``compile_seconds`` too."""
        compilation, self._compilation = self._compilation, {}
        now = self._steps, time.perf_counter() - self._since, self._waiting
        self._all = tuple(map(sum, zip(self._all, now, strict=True))) if self._steps else self._all
        self.restart()
        return compilation | self._rates(*now)

    def overall(self) -> dict[str, float]:
        """The numbers of all readings together, with ``compile_seconds``; empty before the first."""
        return {**self._rates(*self._all), "compile_seconds": self._compile_seconds} if self._all[0] else {}

    def _rates(self, steps: int, seconds: float, waiting: float) -> dict[str, float]:
        if not steps:
            return {}
        rates = {"images_per_second": steps * self._batch_size / seconds, "input_wait": waiting / seconds}
        if self._flops:
            rates["flops_per_second"] = steps * sum(self._flops.values()) / seconds
        if self._at_peak is not None:
            rates["peak_share"] = steps * self._at_peak / seconds
        return rates
