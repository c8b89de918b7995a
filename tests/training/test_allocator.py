"""The allocator's setting, observed from outside: page faults of repeated large allocations."""

import subprocess
import sys

import pytest

MEASURE = """
import resource, sys
import numpy as np
from wbcjax.training.allocator import keep_freed_memory

if sys.argv[1] == "keep" and not keep_freed_memory():
    sys.exit(3)
for repeat in range(8):
    if repeat == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(2**24, np.float32)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(argument: str) -> int:
    done = subprocess.run([sys.executable, "-c", MEASURE, argument], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("no glibc here")
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_kept_memory_is_not_faulted_in_again():
    assert page_faults("keep") < 100
