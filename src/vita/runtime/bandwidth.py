"""How fast this machine reads memory: the ceiling of decoding, measured once and remembered.

Owns the measurement and its cache file. A cache that cannot be read or written only costs a fifth of a second.
"""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

import torch

ELEMENTS = 64 << 20  # 256 MiB of float32: larger than any cache


def read_bandwidth(reached: float = 0.0) -> float:
    """GB/s of a plain read over memory with all threads.

    Args:
        reached: what a decode just reached; a remembered ceiling below it was measured on a busy machine.
    """
    file = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vita" / "machine.json"
    key = f"{platform.machine()} {platform.processor()} {torch.get_num_threads()} threads, torch {torch.__version__}"
    known = _read(file)
    if known.get(key, 0.0) < max(reached, 1e-9):
        known[key] = measure()
        _write(file, known)
    return known[key]


def measure() -> float:
    """The best of three sums over a buffer that no cache holds."""
    buffer = torch.ones(ELEMENTS)
    best = float("inf")
    for _ in range(3):
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
