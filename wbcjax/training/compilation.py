"""The training step, compiled ahead of its first call: once, with the time that takes and the arithmetic in it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wbcjax.training.flops import count_flops
from wbcjax.training.state import State, StepFn


@dataclass(frozen=True)
class CompiledStep:
    """A step for arguments of one shape and place."""

    call: StepFn
    seconds: float
    """Of tracing and compilation."""
    flops: dict[str, int] | None
    """Of a step over the global batch, as ``count_flops`` counts them."""


Compile = Callable[[State, Any, Any], CompiledStep]
"""(state, resident data, batch) -> the step for arguments like these."""


def compile_step(step: Any, state: State, resident: Any, batch: Any) -> CompiledStep:
    """Compile a jitted step for arguments like these, which it leaves alone."""
    started = time.perf_counter()
    traced = step.trace(state, resident, batch)
    call = traced.lower().compile()
    return CompiledStep(call, time.perf_counter() - started, count_flops(traced.jaxpr))
