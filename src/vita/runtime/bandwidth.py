"""Memory bandwidth of this machine, measured once and cached in a file.

Decoding reads every weight once a token, so bandwidth limits its speed. A cache file that cannot be read or written
costs one more measurement, about 0.2 s.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

import torch

ELEMENTS = 64 << 20  # 256 MiB of float32: larger than any CPU cache
REPEATS = 3


def read_bandwidth(reached: float = 0.0) -> float:
    """Memory read bandwidth in GB/s, with all threads.

    Args:
        reached: GB/s that a decode has just reached. A cached value below it was measured on a busy machine and is
            measured again.
    """
    file = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vita" / "machine.json"
    key = f"{platform.machine()} {platform.processor()} {torch.get_num_threads()} threads, torch {torch.__version__}"
    known = _read(file)
    if known.get(key, 0.0) < max(reached, 1e-9):
        known[key] = measure_bandwidth()
        _write(file, known)
    return known[key]


def measure_bandwidth() -> float:
    """GB/s of the fastest of three sums over a buffer larger than any cache."""
    buffer = torch.ones(ELEMENTS)
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        buffer.sum()
        best = min(best, time.perf_counter() - start)
    return ELEMENTS * 4 / best / 1e9


def _read(file: Path) -> dict[str, float]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        return {str(k): float(v) for k, v in data.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _write(file: Path, data: dict[str, float]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(data, indent=1), encoding="utf-8")
    except OSError:
        return  # measured again next time
