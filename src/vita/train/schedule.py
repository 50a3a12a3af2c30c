"""The learning rate and the clocks that say which share of the budget is spent."""

from __future__ import annotations

import time
from typing import Protocol

DECAY_FROM = 2 / 3  # share of the budget from which the rate falls
LONGEST_STEP = 30.0  # seconds; a longer one was a pause (a stopped process, a busy machine) and is not counted
LOWEST = 0.01  # of the highest rate, at the end


def learning_rate(peak: float, step: int, share: float, warm_up: int = 150) -> float:
    """Linear warm-up over `warm_up` steps, constant, linear decay over the last third of the budget."""
    return peak * min(1.0, (step + 1) / warm_up) * min(1.0, max(LOWEST, (1 - share) / (1 - DECAY_FROM)))


class Clock(Protocol):
    """Counts the seconds of a run."""

    budget: float
    spent: float

    @property
    def over(self) -> bool:
        """Whether this process must stop, whatever the budget."""

    def tick(self) -> float:
        """Count the time since the last tick; returns the share of the budget that is spent."""

    def skip(self) -> None:
        """Do not count the time since the last tick (evaluation, saving)."""


class ActiveClock:
    """Counts the seconds spent training: pauses of the process do not count.

    Args:
        minutes: the budget.
        spent: seconds already used, for a resumed run.
    """

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self.budget = minutes * 60
        self.spent = spent
        self._last = time.monotonic()

    @property
    def over(self) -> bool:
        """Never: a run ends with its budget."""
        return False

    def tick(self) -> float:
        """As in `Clock`; a step longer than `LONGEST_STEP` counts as that."""
        now = time.monotonic()
        self.spent += min(now - self._last, LONGEST_STEP)
        self._last = now
        return self.spent / self.budget

    def skip(self) -> None:
        """As in `Clock`."""
        self._last = time.monotonic()


class WallClock:
    """Counts every second, and ends with this process's share of the budget.

    Args:
        minutes: the budget of the run.
        spent: seconds that earlier processes used.
        limit: seconds from now after which this process must stop, whatever the budget.
    """

    def __init__(self, minutes: float, spent: float = 0.0, limit: float | None = None) -> None:
        self.budget = minutes * 60
        self.spent = spent
        self._last = time.monotonic()
        self._end = None if limit is None else self._last + limit

    def tick(self) -> float:
        """As in `Clock`."""
        now = time.monotonic()
        self.spent += now - self._last
        self._last = now
        return self.spent / self.budget

    @property
    def over(self) -> bool:
        """Whether the limit is reached."""
        return self._end is not None and time.monotonic() >= self._end

    def skip(self) -> None:
        """Nothing is skipped: the limit is one of wall-clock time."""
