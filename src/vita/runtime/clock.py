"""A stopwatch for the stages of one request."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Seconds per named stage of one request.

    Args:
        device: where the stages compute; CUDA work is waited for at the end of each stage.

    Attributes:
        seconds: by stage name.
        first_token: seconds from the start to the first token; 0 before it.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.begun = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.first_token = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time spent inside to a stage, including the CUDA work it queued."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if self.device.type == "cuda":
                # Not a device-wide synchronise: CUDA forbids that while another thread captures a graph.
                torch.cuda.current_stream(self.device).synchronize()
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Add time measured elsewhere to a stage."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def mark_first_token(self) -> None:
        """Record the time to the first token; later calls change nothing."""
        if not self.first_token:
            self.first_token = self.total

    @property
    def total(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.perf_counter() - self.begun
