"""Running means of what a run measures, shown and kept in `curves.jsonl`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

FILE = "curves.jsonl"
SMOOTH = 0.05  # weight of a new value in the running means
Measured = Mapping[str, "Tensor | float"]


class Curves:
    """The measurements of one run.

    Args:
        folder: of the run.
        show: takes a line of text, for instance `print`.
        hold: updates whose scalars stay on the device before they are read; on a GPU each reading waits for it.
    """

    def __init__(self, folder: Path, show: Callable[[str], object], hold: int = 1) -> None:
        self.folder, self.show, self.hold = folder, show, hold
        self.means: dict[str, float] = {}
        self._held: list[dict[str, Tensor | float]] = []
        self._samples = 0
        self._since = time.monotonic()

    def add(self, measured: Measured, samples: int) -> None:
        """Count an update of so many samples."""
        self._samples += samples
        self._held.append(dict(measured))
        if len(self._held) >= self.hold:
            self.flush()

    def flush(self) -> None:
        """Read what is held, in one transfer, into the running means."""
        held, self._held = self._held, []
        tensors = [v.detach().float().reshape(()) for one in held for v in one.values() if isinstance(v, Tensor)]
        values = iter(torch.stack(tensors).tolist() if tensors else [])
        for one in held:
            for key, value in one.items():
                number = next(values) if isinstance(value, Tensor) else value
                old = self.means.get(key, number)
                self.means[key] = old + SMOOTH * (number - old)

    def write(self, kind: str, record: Mapping[str, float | str]) -> None:
        """Show one line and append it to the file."""
        shown = " ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in record.items())
        self.show(f"{time.strftime('%H:%M:%S')} {kind} {shown}")
        with (self.folder / FILE).open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"kind": kind, **record}) + "\n")

    def speed(self) -> float:
        """Samples a second since the last call."""
        now = time.monotonic()
        rate = self._samples / max(1e-9, now - self._since)
        self._samples, self._since = 0, now
        return rate


def mean_of(measured: Iterable[Measured]) -> dict[str, float]:
    """The mean of each measurement over those that have it."""
    values: dict[str, list[float]] = {}
    for one in measured:
        for key, value in one.items():
            values.setdefault(key, []).append(float(value))
    return {key: sum(found) / len(found) for key, found in values.items()}
