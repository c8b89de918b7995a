"""What a device computes at best: the yardstick for the operations that a training step achieves."""

import functools
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

_KINDS: dict[str, dict[str, float]] = {
    r"NVIDIA H200 NVL": {"bfloat16": 835e12, "float32": 417e12},
    r"NVIDIA H200\b": {"bfloat16": 989e12, "float32": 494e12},
    r"NVIDIA H100 PCIe": {"bfloat16": 756e12, "float32": 378e12},
    r"NVIDIA H100 NVL": {"bfloat16": 835e12, "float32": 417e12},
    r"NVIDIA H100\b": {"bfloat16": 989e12, "float32": 494e12},
    r"NVIDIA A100\b": {"bfloat16": 312e12, "float32": 156e12},
    r"(Tesla|NVIDIA) V100-SXM": {"float32": 15.7e12},
    r"(Tesla|NVIDIA) V100-PCIE": {"float32": 14e12},
    r"(Tesla|NVIDIA) T4\b": {"float32": 8.1e12},
    r"TPU v4$": {"bfloat16": 275e12, "float32": 275e12},
    r"TPU v5( lite|e)": {"bfloat16": 197e12, "float32": 197e12},
    r"TPU v5p?$": {"bfloat16": 459e12, "float32": 459e12},
    r"TPU v6( lite|e)": {"bfloat16": 918e12, "float32": 918e12},
}
"""FLOP/s of dense matrix products by the beginning of ``device_kind``, from the makers' data sheets. At JAX's default
precision a float32 product is one of TF32 on NVIDIA's Ampere and Hopper, and one of bfloat16 on a TPU."""


def known_peak(device_kind: str, dtype: str = "float32") -> float | None:
    """FLOP/s of dense matrix products of numbers of ``dtype`` (float32 or bfloat16) by the maker's data sheet.

    None where the device is not in the table, or computes the type by no units of its own.
    """
    return next((peaks.get(dtype) for kind, peaks in _KINDS.items() if re.match(kind, device_kind)), None)


def measured_peak(
    dtype: str = "float32", *, sides: tuple[int, ...] = (512, 1024, 2048), rounds: int = 5, clock=time.perf_counter
) -> float:
    """FLOP/s of the fastest of some products of two square matrices on the default device.

    It is what XLA's products reach, not a bound: a library with better kernels may exceed it. The best counts, since
    other processes can only slow a product, and a matrix that leaves the cache takes a third longer.

    Args:
      sides: rows of the matrices.
      clock: seconds, such as ``time.process_time`` for the time of this process alone.
    """
    product = jax.jit(jnp.matmul)

    def best(side: int) -> float:
        matrix = jnp.ones((side, side), dtype)
        product(matrix, matrix).block_until_ready()  # compiled, pages mapped, threads started
        seconds = []
        for _ in range(rounds):
            start = clock()
            product(matrix, matrix).block_until_ready()
            seconds.append(clock() - start)
        return 2 * side**3 / min(seconds)

    return max(map(best, sides))


def peak_flops(dtype: str = "float32") -> float | None:
    """FLOP/s of the default device at best: by its data sheet, of a CPU as measured, None for others."""
    device = jax.devices()[0]
    return measured_peak(dtype) if device.platform == "cpu" else known_peak(device.device_kind, dtype)


def peak_together(devices: Sequence[Any], dtype: str = "float32") -> float | None:
    """FLOP/s of these devices of one kind together, as ``peak_flops`` has it for one.

    CPU devices of one process share its cores: each process counts once, with the peak that this one measures in a
    tenth of a second when it is first asked.
    """
    if devices[0].platform == "cpu":
        return len({device.process_index for device in devices}) * _measured_briefly(dtype)
    each = known_peak(devices[0].device_kind, dtype)
    return None if each is None else len(devices) * each


@functools.cache
def _measured_briefly(dtype: str) -> float:
    return measured_peak(dtype, sides=(512, 1024))
