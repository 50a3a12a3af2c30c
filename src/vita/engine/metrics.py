"""Metrics of the engine: counters, and the latencies of the last requests."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field
from statistics import median

WINDOW = 1000  # latencies that are remembered


@dataclass(frozen=True)
class Stats:
    """What `engine.stats()` returns. Counts are since the engine started; bytes, seconds.

    `submitted = finished + cancelled + failed + (reading + waiting + working + running)` holds at any time, counted in
    requests; refused requests were never submitted.
    """

    submitted: int
    finished: int
    cancelled: int
    failed: int
    refused: int
    reading: int
    waiting: int
    working: int
    running: int
    kv_budget: int
    kv_active: int
    kv_idle: int
    idle_prefixes: int
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    encoder_hits: int
    encoder_misses: int
    decode_steps: int
    decode_rows: int
    threads: int
    first_token_median: float | None
    first_token_p95: float | None
    inter_token_median: float | None
    inter_token_p95: float | None
    healthy: bool

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


@dataclass
class Counters:
    """Counts of ended requests and their latencies, kept by the engine thread."""

    submitted: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    completion_tokens: int = 0
    first_token: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    inter_token: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))


def percentiles(values: deque[float]) -> tuple[float | None, float | None]:
    """Median and 95th percentile."""
    if not values:
        return None, None
    ordered = sorted(values)
    return median(ordered), ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
