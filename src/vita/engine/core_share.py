"""Leaves cores to media workers and voices while they compute, so that no decode step waits for them at its barriers.

All threads of a step wait for each other some fifty times. If another thread takes a core from one of them, a step of
10 ms takes 100 ms on two cores.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from vita.runtime.clock import Clock

MAX_WAIT = 0.05  # seconds that a worker waits for the step that runs
MIN_SHARE = 0.3  # of the time since the last step that a worker has computed: one that waits for a file needs no core
UNKNOWN_SECONDS = 0.2  # a worker is taken to compute for so long where the system does not tell


def cpu_seconds(thread: int) -> float | None:
    """Seconds that a running thread has computed; None: the system does not tell.

    Args:
        thread: its `ident`.
    """
    if not hasattr(time, "pthread_getcpuclockid"):
        return None
    return time.clock_gettime(time.pthread_getcpuclockid(thread))


class CoreShare:
    """Says before each step how many other threads compute. Media workers call `begin` and `end`, voices use
    `computing`, the engine thread calls the rest.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._workers: dict[int, tuple[float, float | None]] = {}  # by thread: clock and computed seconds, as last seen
        self._stepping = False
        self._steps = 0

    def begin(self, *, wait: bool = True) -> None:
        """This thread will compute: waits for the end of the step that runs, so that the next one leaves it a core."""
        thread = threading.get_ident()
        with self._changed:
            self._workers[thread] = self._clock(), None
            step = self._steps
            if wait and self._stepping:
                self._changed.wait_for(lambda: not self._stepping or self._steps > step, MAX_WAIT)

    def end(self) -> None:
        """This thread has computed."""
        with self._changed:
            del self._workers[threading.get_ident()]

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """This thread computes within the block, beside the step that runs: audio that is awaited must not wait for a
        step of a large model. The next step leaves it a core."""
        self.begin(wait=False)
        try:
            yield
        finally:
            self.end()

    def begin_step(self) -> int:
        """A step begins. Returns how many cores it should leave to others."""
        self._stepping = True  # before the workers are looked at: one that begins now waits for this step
        if not self._workers:
            return 0
        with self._changed:
            return sum([self._computes(thread, *seen) for thread, seen in list(self._workers.items())])

    def end_step(self) -> None:
        """The step has ended."""
        self._stepping = False
        self._steps += 1
        if self._workers:
            with self._changed:
                self._changed.notify_all()

    def _computes(self, thread: int, then: float, before: float | None) -> bool:
        now, computed = self._clock(), cpu_seconds(thread)
        if computed is None:
            return now - then < UNKNOWN_SECONDS
        self._workers[thread] = now, computed
        return before is None or computed - before > MIN_SHARE * (now - then)
