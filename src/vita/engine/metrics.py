"""Metrics of the engine: counters, and the latencies of the last requests."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vita.engine.encoder_cache import EncoderCache
    from vita.engine.kv_pool import KVPool
    from vita.engine.request import Request
    from vita.engine.runner import Runner
    from vita.engine.scheduler import Scheduler
    from vita.events import FinishReason

WINDOW = 1000  # latencies that are remembered


@dataclass(frozen=True)
class Stats:
    """What `model.stats()` returns. Counts are since the engine started; sizes in bytes, times in seconds.

    `submitted = finished + cancelled + failed + (reading + waiting + working + running)` holds at any time, counted in
    requests; refused requests were never submitted.

    Attributes:
        submitted, finished, cancelled, failed: requests, all of them and those that ended so.
        refused: requests that found the queue full.
        reading: requests whose media are read and decoded now.
        waiting: requests that wait for admission.
        working: admitted requests in encoders or prefill.
        running: requests that decode.
        kv_budget: bytes that the KV cache may take.
        kv_active: bytes of the KV cache of admitted requests.
        kv_idle: bytes of prefixes that are kept for later requests; idle_prefixes counts them.
        prompt_tokens, reused_tokens, completion_tokens: of ended requests, as in `Usage`.
        encoder_hits, encoder_misses: images and audio found in the encoder cache, and not.
        decode_steps: steps of the decoder; decode_rows: sequences in all of them, so their ratio is the mean batch.
        threads: compute threads of a step now.
        first_token_median, first_token_p95: from the request to the first token; None before the first request.
        inter_token_median, inter_token_p95: between two tokens of an answer, of the last 1,000.
        healthy: False after a fatal device error.
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

    def count_end(self, request: Request, reason: FinishReason) -> None:
        """A request has ended without an error."""
        self.finished += reason != "cancelled"
        self.cancelled += reason == "cancelled"
        self.prompt_tokens += 0 if request.inputs is None else request.inputs.length
        self.reused_tokens += request.reused
        self.completion_tokens += sum(len(answer.tokens) for answer in request.sequences)


def percentiles(values: deque[float]) -> tuple[float | None, float | None]:
    """Median and 95th percentile."""
    if not values:
        return None, None
    ordered = sorted(values)
    return median(ordered), ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


def collect_stats(
    counters: Counters, scheduler: Scheduler, pool: KVPool, encoder_cache: EncoderCache, runner: Runner, *,
    healthy: bool,
) -> Stats:  # fmt: skip
    """Counts and latencies, as of now."""
    first_token, inter_token = percentiles(counters.first_token), percentiles(counters.inter_token)
    return Stats(
        submitted=counters.submitted,
        finished=counters.finished,
        cancelled=counters.cancelled,
        failed=counters.failed,
        refused=counters.refused,
        reading=len(scheduler.reading),
        waiting=len(scheduler.waiting),
        working=len(scheduler.working) + len(scheduler.starting),
        running=len({id(sequence.request) for sequence in scheduler.running}),
        kv_budget=pool.budget,
        kv_active=pool.active,
        kv_idle=pool.prefixes.nbytes,
        idle_prefixes=len(pool.prefixes),
        prompt_tokens=counters.prompt_tokens,
        reused_tokens=counters.reused_tokens,
        completion_tokens=counters.completion_tokens,
        encoder_hits=encoder_cache.hits,
        encoder_misses=encoder_cache.misses,
        decode_steps=runner.steps,
        decode_rows=runner.rows,
        threads=runner.step_threads.current,
        first_token_median=first_token[0],
        first_token_p95=first_token[1],
        inter_token_median=inter_token[0],
        inter_token_p95=inter_token[1],
        healthy=healthy,
    )
