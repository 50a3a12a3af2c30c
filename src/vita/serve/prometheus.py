"""Prometheus metrics: requests, tokens, queue, latencies, KV cache, refusals."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vita.engine.metrics import Stats
from vita.events import Done

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
# Of `Stats`: what grows, and what goes up and down.
COUNTERS = (
    "submitted", "finished", "cancelled", "failed", "refused", "prompt_tokens", "reused_tokens", "completion_tokens",
    "encoder_hits", "encoder_misses", "decode_steps", "decode_rows",
)  # fmt: skip
GAUGES = ("reading", "waiting", "working", "running", "kv_budget", "kv_active", "kv_idle", "idle_prefixes")


class Metrics:
    """The server's metrics, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter("vita_http_requests", "HTTP requests.", ("route", "status"), registry=registry)
        self._refused = Counter("vita_refusals", "Requests that were refused.", ("reason",), registry=registry)
        self._media_killed = Counter("vita_media_killed", "Decode processes that were ended.", registry=registry)
        self._seconds = Histogram(
            "vita_http_seconds", "Duration of a request.", ("route",), buckets=SECONDS, registry=registry
        )
        self._first_token = Histogram(
            "vita_time_to_first_token_seconds", "From a request to its first token.", buckets=SECONDS, registry=registry
        )
        self._per_token = Histogram(
            "vita_time_per_output_token_seconds", "Mean of an answer, without its first token.", buckets=TOKEN_SECONDS,
            registry=registry,
        )  # fmt: skip
        self._first_audio = Histogram(
            "vita_time_to_first_audio_seconds", "From a request to its first audio.", buckets=SECONDS, registry=registry
        )
        self.active = Gauge("vita_http_active", "HTTP requests in progress.", registry=registry)
        self.sessions = Gauge("vita_realtime_sessions", "Open realtime sessions.", registry=registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """An HTTP request has ended."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was refused."""
        self._refused.labels(reason).inc()

    def media_killed(self) -> None:
        """A decode process was ended."""
        self._media_killed.inc()

    def answered(self, done: Done) -> None:
        """An answer has ended."""
        timings = done.timings
        if timings.first_token:
            self._first_token.observe(timings.first_token)
        if timings.decode_tokens:
            self._per_token.observe(timings.decode / timings.decode_tokens)

    def first_audio(self, seconds: float) -> None:
        """The first audio of an answer was sent."""
        self._first_audio.observe(seconds)

    def text(self, stats: Stats) -> bytes:
        """All metrics in Prometheus' text format, with the engine's."""
        once = CollectorRegistry()
        once.register(_EngineMetrics(stats))
        return generate_latest(self.registry) + generate_latest(once)


class _EngineMetrics(Collector):
    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def collect(self) -> Iterator[Metric]:
        stats = self._stats
        for name in COUNTERS:
            yield CounterMetricFamily(f"vita_engine_{name}", f"{name} of the engine.", value=getattr(stats, name))
        for name in GAUGES:
            yield GaugeMetricFamily(f"vita_engine_{name}", f"{name} of the engine.", value=getattr(stats, name))
        yield GaugeMetricFamily("vita_engine_healthy", "1: requests are taken.", value=float(stats.healthy))
        for name in ("first_token", "inter_token"):
            family = GaugeMetricFamily(
                f"vita_engine_{name}_seconds", "Quantiles of the last 1,000.", labels=("quantile",)
            )
            for quantile, kind in (("0.5", "median"), ("0.95", "p95")):
                value = getattr(stats, f"{name}_{kind}")
                if value is not None:
                    family.add_metric((quantile,), value)
            yield family
