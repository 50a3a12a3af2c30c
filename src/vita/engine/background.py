"""Background work with a deadline, such as speech: what the engine knows of it.

The scheduler asks every source how late its next result would be, and gives it the time between two decode steps that
encoders and prefill have otherwise. The engine imports no source.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

MARGIN_SECONDS = 0.25  # a source is urgent so long before its next result is late, beside the time of a step
MAX_TURNS = 3  # of an urgent source, after which a waiting unit has one


class WorkSource(Protocol):
    """Work that is neither an encoder's nor prefill. The engine thread calls its methods, and none of them blocks."""

    def slack(self) -> float | None:
        """Seconds until its next result is late, negative if it is late; None: there is nothing to compute now, and
        never again after `end`."""

    def run_some(self, budget: float) -> None:
        """Compute for about `budget` seconds, at least one piece. It handles errors of its requests itself; what it
        raises ends the source."""

    def end(self, error: BaseException) -> None:
        """The engine is closed (`Cancelled`), has failed, or the source itself has. May be called again."""


class SourceQueue:
    """The sources of an engine, and whether the most urgent of them goes before a unit."""

    def __init__(self) -> None:
        self._sources: list[WorkSource] = []
        self._turns = 0  # of sources since a unit that waits had its last
        self._ended: BaseException | None = None

    def attach(self, source: WorkSource) -> None:
        """A source computes from now on; if the engine has ended, it ends at once."""
        self._sources.append(source)
        if self._ended is not None:
            source.end(self._ended)

    def end(self, error: BaseException) -> None:
        """The engine ends, and every source with it."""
        self._ended = error
        for source in self._sources:
            source.end(error)

    def next(self, *, has_unit: bool, decoding: bool, step_seconds: float) -> WorkSource | None:
        """The source that computes in this step instead of the unit.

        Without other work it is any that has something to compute. Otherwise only what would be late after one more
        step waits no longer, so that text and other requests have all the time that speech does not need.

        Args:
            has_unit: an encoder or prefill waits.
            decoding: sequences decode in this step.
            step_seconds: duration of a step with its budget for work.
        """
        chosen, slack = most_urgent(self._sources)
        if chosen is None or not has_unit:
            self._turns = 0
        if chosen is None or ((has_unit or decoding) and slack > MARGIN_SECONDS + step_seconds):
            return None
        if has_unit and self._turns >= MAX_TURNS:
            self._turns = 0
            return None
        self._turns += 1
        return chosen


def most_urgent(sources: Sequence[WorkSource]) -> tuple[WorkSource | None, float]:
    """The source with the smallest slack, and that."""
    chosen, least = None, 0.0
    for source in sources:
        slack = source.slack()
        if slack is not None and (chosen is None or slack < least):
            chosen, least = source, slack
    return chosen, least
