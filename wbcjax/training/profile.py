"""A look at a few training steps with JAX's profiler."""

from pathlib import Path
from typing import Any

import jax

from wbcjax.training.state import StepFn

STEPS = 3
"""How many are traced: enough to see the rhythm, few enough for a viewer."""


class Profile:
    """Traces steps in the middle of the first epoch, on process 0, to a folder that TensorBoard's profile plugin and
    XProf open, and whose ``*.trace.json.gz`` Perfetto does."""

    def __init__(self, folder: Path | None, steps_per_epoch: int):
        """``folder`` None traces nothing."""
        count = min(STEPS, steps_per_epoch)
        first = (steps_per_epoch - count) // 2
        self._steps = range(first, first + count) if folder is not None else range(0)
        self._folder = folder
        self._active = jax.process_index() == 0
        self._running = False

    def covers(self, step: int) -> bool:
        """Whether the step after so many is traced."""
        return step in self._steps

    def call(self, step_fn: StepFn, step: int, *args: Any) -> Any:
        """What ``step_fn`` returns; the last traced step is waited for."""
        if not (self._active and self.covers(step)):
            return step_fn(*args)
        if not self._running:
            jax.profiler.start_trace(self._folder)
            self._running = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            out = step_fn(*args)
        if not self.covers(step + 1):
            jax.block_until_ready(out)
            self.close()
        return out

    def close(self) -> None:
        """Write what has been traced."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
