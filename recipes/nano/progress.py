"""How far an evaluation is, and how long the rest takes."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType

# Seconds a sample on one quiet core (an Intel server, 2026).
SECONDS = {"mix": 0.38, "tiles": 0.7, "natural": 0.38, "sounds": 0.2, "clips": 0.6}


def minutes(seconds: float) -> str:
    """As text, at least a minute."""
    count = max(1, round(seconds / 60))
    return "a minute" if count == 1 else f"{count} minutes"


class Progress:
    """A line on stderr that replaces itself on a terminal; elsewhere a line for each call.

    Args:
        counts: samples of each part, in the order they are measured.
    """

    def __init__(self, counts: Mapping[str, int]) -> None:
        self.counts = dict(counts)
        self.start = time.monotonic()
        self.width = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def show(self, name: str, title: str, done: int) -> None:
        """Say that so many samples of a part are done, and what is left at the pace so far."""
        line = f"{title.lower()}: {done} of {self.counts[name]}"
        if left := self.left(name, done):
            line += f", about {minutes(left)} left"
        if not sys.stderr.isatty():
            print(f"vita: {line}", file=sys.stderr, flush=True)
            return
        self._clear()
        self.width = len(line)
        sys.stderr.write(line)
        sys.stderr.flush()

    def left(self, name: str, done: int) -> float:
        """Seconds left, from what the samples so far took."""
        names = list(self.counts)
        before = sum(SECONDS[n] * self.counts[n] for n in names[: names.index(name)])
        so_far = before + SECONDS[name] * done
        everything = sum(SECONDS[n] * count for n, count in self.counts.items())
        pace = (time.monotonic() - self.start) / so_far if so_far else 1.0
        return pace * (everything - so_far) if so_far < everything else 0.0

    def _clear(self) -> None:
        if self.width:
            sys.stderr.write("\r" + " " * self.width + "\r")
            sys.stderr.flush()
            self.width = 0
