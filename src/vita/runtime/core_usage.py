"""Core usage: how many of this process's cores other processes leave free.

It costs a read of the system's counters four times a second, where a probe of the cores takes longer than a decode
step and is wrong now and then: the scheduler gives a thread that has slept for a while its first milliseconds at once,
however busy the cores are (docs/log.md).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence

from vita.runtime.clock import Clock

log = logging.getLogger("vita")

WINDOW = 0.25  # seconds at least between two readings: the counters advance by 0.01 s
MAX_PAUSE = 0.05  # seconds between two steps; while this process pauses, others use its cores without being in its way
MIN_SHARE = 0.5  # of the time between two readings that steps must take
MIN_FREE_CORES = 1.5  # fewer: a second thread would wait for other processes
HELPED_FACTOR = 2.0  # a helper takes half of a core from a process that would use all of it


def cores_in_use() -> tuple[float, int]:
    """Seconds that this process's cores have spent on any process since the system started, and how many they are."""
    import psutil

    cores: Sequence[tuple[float, ...]] = psutil.cpu_times(percpu=True)
    if hasattr(os, "sched_getaffinity") and all(core < len(cores) for core in os.sched_getaffinity(0)):
        cores = [cores[core] for core in os.sched_getaffinity(0)]
    return sum(map(_seconds_in_use, cores)), len(cores)


def _seconds_in_use(times: tuple[float, ...]) -> float:
    """All but idle seconds of a core. Seconds of guests are part of those of users."""
    fields: tuple[str, ...] = getattr(times, "_fields", ())
    idle = {"idle", "iowait", "guest", "guest_nice"}
    return sum(value for name, value in zip(fields, times, strict=True) if name not in idle)


class CoreUsage:
    """Cores that other processes leave free beside steps that follow each other, over at least the last `WINDOW`.

    Args:
        in_use: see `cores_in_use`.
        used_here: seconds of all cores that this process has used.
        clock: seconds, monotonic.
    """

    def __init__(
        self, in_use: Callable[[], tuple[float, int]] = cores_in_use, used_here: Clock = time.process_time,
        clock: Clock = time.monotonic,
    ) -> None:  # fmt: skip
        self._in_use, self._used_here, self._clock = in_use, used_here, clock
        self._read_at = self._ended = float("-inf")
        self._paused = 0.0  # seconds between steps since the counters were read
        self.helped = False  # helper threads have taken part in steps since the counters were read
        self._others = 0.0  # seconds that other processes had used when the counters were read
        self.free: float | None = None  # cores that other processes did not use; None: not known

    def begin_step(self) -> None:
        """A step begins. Reads the counters, if that was not done a moment ago."""
        now = self._clock()
        pause, seconds = now - self._ended, now - self._read_at
        self._paused += pause
        if seconds < WINDOW and pause <= MAX_PAUSE:
            return
        computed, self._read_at, self._paused = seconds - self._paused, now, 0.0
        try:
            used, cores = self._in_use()
        except OSError as error:  # a container may hide the counters
            log.debug("the use of the cores is not known: %s", error)
            self.free = None
            return
        others, factor = used - self._used_here(), HELPED_FACTOR if self.helped else 1.0
        if pause > MAX_PAUSE or computed < MIN_SHARE * seconds:
            self.free = None
        else:  # who takes turns with this process is not in its way: all that others can do in the pauses is left out
            in_steps = max(0.0, others - self._others - cores * (seconds - computed))
            self.free = max(0.0, cores - factor * in_steps / computed)
        self._others, self.helped = others, False

    def end_step(self) -> None:
        """A step has ended."""
        self._ended = self._clock()

    @property
    def busy(self) -> bool:
        """Whether other processes are known to leave no core for a second thread."""
        return self.free is not None and self.free < MIN_FREE_CORES
