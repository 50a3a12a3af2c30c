"""Stopwatch for the stages of a request."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

Clock: TypeAlias = Callable[[], float]  # seconds, monotonic; tests pass their own


class Stopwatch:
    """Seconds per named stage of one request."""

    def __init__(self) -> None:
        self.begun = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.first_token = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add time that was measured elsewhere to a stage."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def mark_first_token(self) -> None:
        """Note when the first token came; later calls change nothing."""
        if not self.first_token:
            self.first_token = self.total

    @property
    def total(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.perf_counter() - self.begun
