"""The peak of a device: by the name that JAX gives it, or measured."""

from types import SimpleNamespace

import pytest

from wbcjax.training import peak
from wbcjax.training.peak import known_peak, measured_peak, peak_flops, peak_together


@pytest.mark.parametrize(("kind", "dtype", "expected"), [
    ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
    ("NVIDIA H100 PCIe", "bfloat16", 756e12),
    ("NVIDIA H200", "float32", 494e12),
    ("NVIDIA A100-SXM4-40GB", "float32", 156e12),
    ("NVIDIA A100 80GB PCIe", "bfloat16", 312e12),
    ("Tesla V100-SXM2-16GB", "float32", 15.7e12),
    ("Tesla V100-SXM2-16GB", "bfloat16", None),
    ("Tesla T4", "float32", 8.1e12),
    ("TPU v4", "bfloat16", 275e12),
    ("TPU v5 lite", "bfloat16", 197e12),
    ("TPU v5", "float32", 459e12),
    ("TPU v5p", "bfloat16", 459e12),
    ("TPU v6 lite", "bfloat16", 918e12),
    ("NVIDIA GeForce RTX 3090", "float32", None),
    ("cpu", "float32", None),
])
def test_known_peak(kind, dtype, expected):
    assert known_peak(kind, dtype) == expected


def test_measured_peak_is_that_of_the_fastest_product():
    # Looks at the clock before and after each product: 2 and 0.5 seconds with 8 rows, 1 and 4 with 4 rows.
    ticks = iter([0, 2, 2, 2.5, 3, 4, 4, 8])
    assert measured_peak(sides=(8, 4), rounds=2, clock=lambda: next(ticks)) == 2 * 8**3 / 0.5


def test_peak_of_this_device(monkeypatch):
    monkeypatch.setattr(peak, "measured_peak", lambda dtype: 7.0)
    assert peak_flops() == 7.0


def devices(platform, kind, processes):
    return [SimpleNamespace(platform=platform, device_kind=kind, process_index=process) for process in processes]


@pytest.mark.parametrize(("platform", "kind", "processes", "expected"), [
    ("gpu", "NVIDIA H100 80GB HBM3", (0, 0, 1, 1), 4 * 494e12),
    ("gpu", "NVIDIA GeForce RTX 3090", (0, 0), None),
    ("cpu", "cpu", (0, 0, 0, 0), 7.0),
    ("cpu", "cpu", (0, 0, 1, 1), 14.0),
])
def test_peak_of_devices_together(monkeypatch, platform, kind, processes, expected):
    """CPU devices of a process share its cores."""
    peak._measured_briefly.cache_clear()
    monkeypatch.setattr(peak, "measured_peak", lambda dtype, sides: 7.0)
    assert peak_together(devices(platform, kind, processes)) == expected
    peak._measured_briefly.cache_clear()
