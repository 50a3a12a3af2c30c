"""Prometheus metrics of all replicas in one text, each sample with the number of its replica."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vita.serve.replicas.pool import Pool

METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_SAMPLE = re.compile(r"([A-Za-z_:][\w:]*)(?:\{(.*)\})? (.+)")
_COMMENT = re.compile(r"# (?:HELP|TYPE) (\S+)")


@dataclass
class Counters:
    """What the router has seen so far.

    Attributes:
        requests: that it took.
        lost: tries that a replica did not survive.
        replayed: streams that went on at another replica.
    """

    requests: int = 0
    lost: int = 0
    replayed: int = 0


def joined_metrics(texts: Mapping[int, str]) -> str:
    """The texts of several replicas as one: each family once, each sample with the label `replica`."""
    families: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for index, text in texts.items():
        family = ""
        for line in text.splitlines():
            comment = _COMMENT.match(line)
            if comment:
                family = comment[1]
                lines = families.setdefault(family, [])
                if line not in lines:
                    lines.append(line)
                continue
            sample = _SAMPLE.fullmatch(line)
            if sample:
                labels = f'replica="{index}"' + (f",{sample[2]}" if sample[2] else "")
                samples.setdefault(family, []).append(f"{sample[1]}{{{labels}}} {sample[3]}")
    return "".join("\n".join([*lines, *samples.get(family, [])]) + "\n" for family, lines in families.items())


def router_metrics(pool: Pool, counters: Counters) -> str:
    """The router's metrics."""
    lines = ["# HELP vita_replica_up Whether a replica answers.", "# TYPE vita_replica_up gauge"]
    lines += [f'vita_replica_up{{replica="{r.index}"}} {int(r.url is not None)}' for r in pool.replicas]
    lines += ["# HELP vita_replica_starts_total How often a replica was started.",
              "# TYPE vita_replica_starts_total counter"]  # fmt: skip
    lines += [f'vita_replica_starts_total{{replica="{r.index}"}} {r.generation}' for r in pool.replicas]
    for name, value, what in (
        ("requests", counters.requests, "Requests that the router took."),
        ("lost", counters.lost, "Tries that a replica did not survive."),
        ("replayed", counters.replayed, "Streams that went on at another replica."),
    ):
        lines += [f"# HELP vita_router_{name}_total {what}", f"# TYPE vita_router_{name}_total counter",
                  f"vita_router_{name}_total {value}"]  # fmt: skip
    return "\n".join(lines) + "\n"
