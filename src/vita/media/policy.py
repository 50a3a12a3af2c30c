"""Deadline and cancel of one request's media, checked between blocks of work."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from vita.errors import Cancelled, MediaError


def _never() -> bool:
    return False


@dataclass(frozen=True)
class ReadGuard:
    """Ends the reading of media in time. Every reader calls `check` between blocks, packets or frames.

    Attributes:
        until: `time.monotonic()` value at which the deadline passes; None: no deadline.
        cancelled: whether the caller no longer wants the result.
    """

    until: float | None = None
    cancelled: Callable[[], bool] = _never

    @classmethod
    def start(cls, seconds: float | None, cancelled: Callable[[], bool] = _never) -> ReadGuard:
        """A guard whose deadline is `seconds` from now."""
        return cls(None if seconds is None else time.monotonic() + seconds, cancelled)

    def check(self, name: str) -> None:
        """Go on, or stop.

        Args:
            name: of the source, for the error sentence.

        Raises:
            Cancelled: the caller cancelled. MediaError: the deadline has passed.
        """
        if self.cancelled():
            raise Cancelled
        if self.until is not None and time.monotonic() > self.until:
            raise MediaError("took too long to read", where=name, fix="pass a smaller file, or raise the deadline")

    def remaining(self) -> float | None:
        """Seconds left, at least 0; None: no deadline."""
        return None if self.until is None else max(0.0, self.until - time.monotonic())


UNGUARDED = ReadGuard()
