"""Work: a unit of encoder or prefill computation that pauses between layers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from vita.runtime.clock import Clock

RECENT_LAYERS = 3  # the longest of them is what the next one is expected to take


class Work(Protocol):
    """What the runner executes beside decode steps. Encoders and prefill are work; a speech decoder can be, too.

    Attributes:
        stage: name for timings: "vision", "audio" or "prefill".
        rows: what it covers, in tiles, windows or positions.
        cost: multiply-adds of one row, relative to a decoder position; for statistics.
    """

    stage: str
    rows: int
    cost: float

    def run_some(self, budget: float) -> bool:
        """Compute for about `budget` seconds, at least one layer; True once all is computed."""

    def close(self) -> None:
        """Give up what is not computed."""


class LayeredWork:
    """Work over a generator that pauses after every layer.

    Args:
        stage, rows, cost: see `Work`.
        layers: computes one layer a step; its end is the end of the work.
        clock: seconds, monotonic.
    """

    def __init__(
        self, stage: str, rows: int, layers: Iterator[object], cost: float = 1.0, clock: Clock = time.perf_counter
    ) -> None:
        self.stage, self.rows, self.cost = stage, rows, cost
        self._layers, self._clock = layers, clock
        self._recent: deque[float] = deque(maxlen=RECENT_LAYERS)  # seconds of layers

    def run_some(self, budget: float) -> bool:
        """See `Work.run_some`."""
        begun = self._clock()
        until = begun + budget
        for _ in self._layers:
            now = self._clock()
            # The next layer may take much longer than the last one, which may have been a short last piece of audio.
            self._recent.append(now - begun)
            if now + max(self._recent) > until:
                return False
            begun = now
        return True

    def close(self) -> None:
        """See `Work.close`."""
        close = getattr(self._layers, "close", None)
        if close is not None:
            close()
