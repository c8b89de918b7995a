"""An orderly end on Ctrl-C and SIGTERM."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Whether this process was asked to stop, and whether all processes agree to."""

    def __init__(self):
        self.asked = False
        self._agreed = False

    def agreed(self, compare: bool) -> bool:
        """Whether to stop now.

        Several processes must leave the loop at the same step, or those left wait for ever for the others: they stop
        only where ``compare`` is set, at the same steps on each of them, since comparing costs a round trip.
        """
        if jax.process_count() == 1:
            return self.asked
        if compare:
            self._agreed = bool(multihost_utils.process_allgather(np.array(self.asked)).any())
        return self._agreed


@contextlib.contextmanager
def interruption() -> Iterator[Interruption]:
    """Within the block, Ctrl-C and SIGTERM ask for an orderly end; a second Ctrl-C ends at once.

    Signals belong to the main thread; training in another one, as from a notebook, goes on without.
    """
    stop = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(signum, frame):
        stop.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        # Not print: a handler may interrupt another print, whose buffer is not reentrant.
        os.write(2, b"\nstopping after this step, saving a checkpoint; Ctrl-C ends at once\n")

    before = {s: signal.signal(s, ask) for s in SIGNALS}
    try:
        yield stop
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
