"""Counts of a vLLM engine in the form of this package's `Stats`."""

from __future__ import annotations

from collections import deque
from typing import Any

from vllm.v1.metrics.loggers import StatLoggerBase

from vita.engine.metrics import WINDOW, Stats, percentiles
from vita.events import FinishReason, Usage


class Statistics:
    """What requests have used, and what vLLM reports after each step.

    Attributes:
        submitted, refused: requests.
    """

    def __init__(self) -> None:
        self.submitted = self.refused = 0
        self._finished = self._cancelled = self._failed = 0
        self._prompt = self._reused = self._completion = 0
        self._first_token: deque[float] = deque(maxlen=WINDOW)
        self._inter_token: deque[float] = deque(maxlen=WINDOW)
        self._running = self._waiting = self._steps = self._rows = self._hits = self._misses = 0
        self._kv_usage, self._kv_budget = 0.0, 0

    def logger(self, config: Any, engine_index: int = 0) -> StatLoggerBase:
        """vLLM's factory of a logger, which reports here."""
        return _Logger(self)

    def set_kv_budget(self, config: Any) -> None:
        """The size of the KV cache, from vLLM's configuration once its engine has started."""
        cache, model = config.cache_config, config.model_config
        heads, size = model.get_num_kv_heads(config.parallel_config), model.get_head_size()
        layers, width = model.get_num_layers(config.parallel_config), model.dtype.itemsize
        per_position = 2 * layers * heads * size * width  # bytes on one rank
        self._kv_budget = int(cache.num_gpu_blocks or 0) * int(cache.block_size) * int(per_position)

    def ended(self, usage: Usage, first_token: float, reason: FinishReason | None) -> None:
        """A request has ended, with an error if there is no reason."""
        self._failed += reason is None
        self._cancelled += reason == "cancelled"
        self._finished += reason in ("stop", "length")
        self._prompt += usage.prompt_tokens
        self._reused += usage.reused_tokens
        self._completion += usage.completion_tokens
        if first_token:
            self._first_token.append(first_token)

    def step(self, scheduler: Any, iteration: Any, media_cache: Any) -> None:
        """vLLM has made a step.

        Args:
            scheduler, iteration, media_cache: vLLM's SchedulerStats, IterationStats and MultiModalCacheStats, or None.
        """
        if scheduler is not None:
            self._running, self._waiting = int(scheduler.num_running_reqs), int(scheduler.num_waiting_reqs)
            self._kv_usage = float(scheduler.kv_cache_usage)
            self._steps += 1
        if iteration is not None:
            self._rows += int(iteration.num_generation_tokens)
            self._inter_token.extend(float(seconds) for seconds in iteration.inter_token_latencies_iter)
        if media_cache is not None:
            self._hits += int(media_cache.hits)
            self._misses += int(media_cache.queries) - int(media_cache.hits)

    def collect(self, *, reading: int, healthy: bool) -> Stats:
        """All counts, as of now. What vLLM does not report is 0."""
        first, inter = percentiles(self._first_token), percentiles(self._inter_token)
        return Stats(
            submitted=self.submitted, finished=self._finished, cancelled=self._cancelled, failed=self._failed,
            refused=self.refused, reading=reading, waiting=self._waiting, working=0, running=self._running,
            kv_budget=self._kv_budget, kv_active=round(self._kv_usage * self._kv_budget), kv_idle=0, idle_prefixes=0,
            prompt_tokens=self._prompt, reused_tokens=self._reused, completion_tokens=self._completion,
            encoder_hits=self._hits, encoder_misses=self._misses, decode_steps=self._steps, decode_rows=self._rows,
            threads=0, first_token_median=first[0], first_token_p95=first[1], inter_token_median=inter[0],
            inter_token_p95=inter[1], healthy=healthy,
        )  # fmt: skip


class _Logger(StatLoggerBase):
    """Passes vLLM's reports on."""

    def __init__(self, statistics: Statistics) -> None:
        self._statistics = statistics

    def record(
        self, scheduler_stats: Any, iteration_stats: Any, mm_cache_stats: Any = None, engine_idx: int = 0
    ) -> None:
        self._statistics.step(scheduler_stats, iteration_stats, mm_cache_stats)

    def log_engine_initialized(self) -> None:
        """Nothing is written."""
