"""Number of compute threads, chosen by measurement: one or all.

On cores that other processes use, every OpenMP barrier waits for a thread that the kernel has put to sleep: a decode
step with two threads takes two to four times as long as with one (docs/benchmarks.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from vita.runtime.clock import Clock

TRIAL_STEPS = 2  # with the other number; the faster one counts
SLOW_STEPS = 3  # in a row that must be slow before the other number is tried
SLOW_FACTOR = 2.0  # times the usual duration: a slow step
LONG_LAYER = 0.02  # seconds
FIRST_RETRY, MAX_RETRY = 2.0, 30.0  # seconds after which all threads are tried again; doubles while one is faster


@dataclass
class ComputeThreads:
    """Sets the number of threads before each decode step.

    Args:
        available: all threads.
        set_threads: makes the calling thread compute with so many.
        clock: seconds, monotonic.
    """

    available: int
    set_threads: Callable[[int], None]
    clock: Clock = time.monotonic
    current: int = field(init=False)  # what steps use unless there is a trial
    _usual: dict[tuple[int, int], float] = field(init=False, default_factory=dict)  # seconds by (threads, batch)
    _trial: list[float] = field(init=False, default_factory=list)
    _trial_left: int = field(init=False, default=0)
    _slow: int = field(init=False, default=0)
    _recent: float = field(init=False, default=0.0)  # seconds of the last step outside a trial
    _retry: float = field(init=False, default=FIRST_RETRY)
    _retry_at: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.current = self.available

    def before_step(self) -> None:
        """Set the number for the next step."""
        if self.available == 1:
            return
        due = self.current == 1 and self.clock() >= self._retry_at
        if not self._trial_left and (self._slow >= SLOW_STEPS or due):
            self._trial, self._trial_left, self._slow = [], TRIAL_STEPS, 0
        self.set_threads(self._other() if self._trial_left else self.current)

    def after_step(self, batch: int, seconds: float) -> None:
        """A step of so many sequences took so long."""
        if self.available == 1:
            return
        if self._trial_left:
            self._trial.append(seconds)
            self._trial_left -= 1
            if not self._trial_left:
                self._decide(batch, min(self._trial))
            return
        self._recent = seconds
        usual = self._usual.get((self.current, batch))
        self._slow = self._slow + 1 if usual is not None and seconds > SLOW_FACTOR * usual else 0
        self._usual[self.current, batch] = seconds if usual is None else min(seconds, 0.99 * usual + 0.01 * seconds)

    def before_layer(self, seconds: float) -> None:
        """Set the number for layers of prefill and encoders.

        Args:
            seconds: that the last such layer took. Long parallel regions lose little to barriers and get all threads;
                short ones follow the decode steps.
        """
        if self.available > 1:
            self.set_threads(self.available if seconds > LONG_LAYER else self.current)

    def _other(self) -> int:
        return self.available if self.current == 1 else 1

    def _decide(self, batch: int, tried: float) -> None:
        if tried < self._recent:
            self.current = self._other()
            self._usual[self.current, batch] = tried
            self._retry = FIRST_RETRY
        elif self.current == 1:
            self._retry = min(MAX_RETRY, 2 * self._retry)
        else:  # slow for another reason: this is the usual duration now
            self._usual[self.current, batch] = self._recent
        self._retry_at = self.clock() + self._retry
