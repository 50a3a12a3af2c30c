"""Where the time and the memory of a request went.

Owns the stopwatch and the readings of memory and GPU. Does not know what the stages do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch:
    """Seconds per named stage of one request."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.begun = time.perf_counter()
        self.seconds: dict[str, float] = {}
        self.first_token = 0.0

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time spent inside to a stage; waits for the device, so that the time is the stage's own."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if self.device.type == "cuda":
                # Not the whole device: that is not allowed while another thread records a CUDA graph.
                torch.cuda.current_stream(self.device).synchronize()
            self.add(name, time.perf_counter() - start)

    def add(self, name: str, seconds: float) -> None:
        """Time measured elsewhere."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds

    def mark_first_token(self) -> None:
        if not self.first_token:
            self.first_token = self.total

    @property
    def total(self) -> float:
        return time.perf_counter() - self.begun


def gpu_utilisation(device: torch.device) -> float | None:
    """Percent of the last moment a GPU was busy, where NVML is installed and answers."""
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        handle = pynvml.nvmlDeviceGetHandleByIndex(device.index or 0)
        return float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:
        return None
