"""Number of compute threads, chosen by measurement: one or all.

On cores that other processes use, every OpenMP barrier waits for a thread that the kernel has put to sleep: a decode
step with two threads then takes two to fifty times as long as with one (docs/log.md).
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Hashable

from vita.runtime.clock import Clock

TRIAL_STEPS = 2  # with the other number; the faster of them counts
MAX_SKIPPED_STEPS = 8  # steps of another kind that may come between; then the trial begins again with those
SLOW_STEPS = 3  # in a row that must be slow before the other number is tried
SLOW_FACTOR = 2.0  # times the usual duration: a slow step
# Times the usual duration: the cores are probed at once, at most this often in seconds. On busy cores a layer of
# prefill takes ten times as long with all threads, so three slow ones would delay every running stream.
VERY_SLOW_FACTOR, PROBE_INTERVAL = 4.0, 0.5
MIN_STEPS = 3  # with the present number before the other is tried: the first ones are slow on any cores
# Of the present duration that the other number must stay under. One thread must gain much: on busy cores it takes half
# or less, on quiet ones it is as fast for a small batch and half as fast for a large one.
MIN_GAIN_ALL, MIN_GAIN_ONE = 0.95, 0.7
PROBE_SECONDS, PROBE_FACTOR = 0.008, 3.0  # of `cores_are_busy`
LONG_STEP = 0.05  # seconds with one thread; a helper that the kernel has put to sleep delays the end by up to 3 ms
FIRST_RETRY, MAX_RETRY = 2.0, 30.0  # seconds to the next trial; doubles while the present number is faster


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class ThreadChoice:
    """Sets the number of threads before each step of one kind, such as decode steps or layers of prefill.

    The other number is tried after the first steps, when steps have become slow, and now and then: cores may be free
    again, and what was first computed on busy cores has no usual duration to compare with. All threads are never tried
    while `busy` says that the cores are busy: that trial alone would take as long as ten steps.

    Args:
        available: all threads.
        set_threads: makes the calling thread compute with so many.
        clock: seconds, monotonic.
        busy: probes whether other processes use the cores, such as `cores_are_busy`; None: never.
        on_one: called when one thread turns out to be faster, so that other choices of the same cores follow.

    Attributes:
        current: what steps use, unless there is a trial.
        reserved: cores that the next steps leave to other threads of this process. Those steps are not compared.
    """

    def __init__(
        self, available: int, set_threads: Callable[[int], None], clock: Clock = time.monotonic, *,
        busy: Callable[[], bool] | None = None, on_one: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        self.available, self.current, self.reserved = available, available, 0
        self._used = available  # by the step that runs
        self._uncounted = False  # the step that runs left cores to others
        self._set, self._clock, self._busy, self._on_one = set_threads, clock, busy, on_one
        self._probed_at = float("-inf")
        # Seconds by threads, what was computed and whether helpers took part.
        self._usual: dict[tuple[int, Hashable, bool], float] = {}
        self._counts: Counter[tuple[int, Hashable]] = Counter()  # steps that `_usual` was measured with
        self._trial: list[float] = []
        self._trial_left = 0
        self._trial_of: Hashable = None
        self._skipped = 0  # steps of another kind since the trial began
        self._tried = False
        self._slow = 0
        self._retry, self._retry_at = FIRST_RETRY, 0.0

    def before(self, what: Hashable) -> None:
        """Set the number for the next step.

        Args:
            what: steps of equal `what` are expected to take equally long, such as the size of the batch.
        """
        if self.available == 1:
            return
        self._uncounted = bool(self.reserved) and self.current > 1
        if self._uncounted:
            self._use(max(1, self.current - self.reserved))
            return
        if self._trial_left and what != self._trial_of:
            self._skipped += 1
            if self._skipped > MAX_SKIPPED_STEPS:  # a batch of that size may never come again
                self._trial_left, self._tried = 0, False
        due = not self._trial_left and self._counts[self.current, what] >= MIN_STEPS and self._trial_is_due()
        if due and self.current == 1 and self._busy is not None and self._busy():
            self._postpone()
        elif due:
            self._trial, self._trial_left, self._trial_of, self._slow, self._skipped = [], TRIAL_STEPS, what, 0, 0
        self._use(self._other() if self._trial_left and what == self._trial_of else self.current)

    def helpers(self, what: Hashable) -> int:
        """Threads beside the one that computes the next step, for work that need not be waited for.

        None while the step uses all threads or leaves cores to others, and none if it is short without them.
        """
        long = self._usual.get((1, what, False), 0.0) >= LONG_STEP
        return self.available - 1 if long and self._used == 1 and not self.reserved else 0

    def after(self, what: Hashable, seconds: float, helpers: int = 0) -> None:
        """A step took so long, with so many helpers. Steps with and without them are not compared."""
        helped = helpers > 0
        if self.available == 1 or self._uncounted:
            return
        if self._trial_left and what == self._trial_of:
            self._trial.append(seconds)
            self._trial_left -= 1
            if not self._trial_left:
                self._decide(what, min(self._trial), helped)
            return
        self._counts[self.current, what] += 1
        key = self.current, what, helped
        usual = self._usual.get(key)
        self._slow = self._slow + 1 if usual is not None and seconds > SLOW_FACTOR * usual else 0
        if self._slow < SLOW_STEPS:
            self._usual[key] = seconds if usual is None else min(seconds, 0.98 * usual + 0.02 * seconds)
        else:
            self._usual[key] = seconds
        if usual is not None and seconds > VERY_SLOW_FACTOR * usual and self.current != 1 and self._found_busy():
            self._use_one()

    def _use(self, threads: int) -> None:
        self._used = threads
        self._set(threads)

    def start_with_one(self) -> None:
        """Other processes use the cores: one thread until a trial finds all of them faster."""
        if self.current != 1:
            self.current, self._tried, self._trial_left = 1, True, 0
            self._slow, self._retry = 0, FIRST_RETRY
            self._retry_at = self._clock() + self._retry

    def _use_one(self) -> None:
        self.start_with_one()
        if self._on_one is not None:
            self._on_one()

    def _found_busy(self) -> bool:
        """Probe the cores, unless that was done a moment ago."""
        if self._busy is None or self._clock() - self._probed_at < PROBE_INTERVAL:
            return False
        busy = self._busy()
        self._probed_at = self._clock()
        return busy

    def _postpone(self) -> None:
        self._tried, self._slow = True, 0
        self._retry = min(MAX_RETRY, 2 * self._retry)
        self._retry_at = self._clock() + self._retry

    def _trial_is_due(self) -> bool:
        if not self._tried or self._slow >= SLOW_STEPS:
            return True
        return self._clock() >= self._retry_at

    def _other(self) -> int:
        return self.available if self.current == 1 else 1

    def _decide(self, what: Hashable, tried: float, helped: bool) -> None:
        self._tried = True
        gain = MIN_GAIN_ALL if self.current == 1 else MIN_GAIN_ONE
        other = self._other()
        usual = [seconds for (threads, of, _), seconds in self._usual.items() if (threads, of) == (self.current, what)]
        faster = tried < gain * min(usual)
        if faster and other == 1 and self._busy is not None:  # two steps may be faster by chance
            faster = self._busy()
        if not faster:
            self._postpone()
            return
        self._usual[other, what, helped] = tried
        if other == 1:
            self._use_one()
        else:
            self.current, self._retry = other, FIRST_RETRY
            self._retry_at = self._clock() + self._retry


def cores_are_busy(
    threads: int, set_threads: Callable[[int], None], compute: Callable[[], object],
    clock: Clock = time.perf_counter,
) -> bool:  # fmt: skip
    """Whether all threads are much slower than one, so that the first request does not have to find out.

    Takes about 10 ms. On quiet cores the durations are alike; on busy ones all threads took 85 to 460 times as long.

    Args:
        threads: all of them.
        set_threads: as for `ThreadChoice`.
        compute: something short that all threads share, about 0.1 ms.
        clock: seconds, monotonic.
    """

    def mean(count: int, seconds: float) -> float:
        set_threads(count)
        compute()  # starts the threads
        begun, runs = clock(), 0
        while clock() - begun < seconds:
            compute()
            runs += 1
        return (clock() - begun) / max(1, runs)

    one = mean(1, PROBE_SECONDS / 4)
    together = mean(threads, PROBE_SECONDS)  # last, so that all threads stay set
    return together > PROBE_FACTOR * one
