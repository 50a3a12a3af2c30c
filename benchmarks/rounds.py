"""Runs of several contenders in turns: which were disturbed, and a table of minimum, median and maximum."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import TypeAlias

Figures: TypeAlias = dict[str, float]

MAX_OTHERS = 0.2  # cores that others may take during a run
MAX_READ_OFF = 0.15  # of the median read of all runs
COLUMNS = (
    ("vision", "vision", "{:.2f}", " s"), ("prefill", "prefill", "{:.2f}", " s"), ("step", "a token", "{:.3f}", " s"),
    ("whole", "{} tokens in all", "{:.0f}", " s"), ("peak_gb", "peak memory", "{:.2f}", " GB"),
)  # fmt: skip


def mark_disturbed(runs: Mapping[str, Sequence[Figures]]) -> dict[str, list[Figures]]:
    """The runs, each with `disturbed`: 1 where others took cores or memory was faster or slower than usual, else 0."""
    usual = median([run["read"] for each in runs.values() for run in each]) if runs else 0.0

    def is_disturbed(run: Figures) -> bool:
        return run["others"] > MAX_OTHERS or abs(run["read"] - usual) > MAX_READ_OFF * usual

    return {name: [run | {"disturbed": float(is_disturbed(run))} for run in each] for name, each in runs.items()}


def spread(values: Sequence[float], form: str, unit: str) -> str:
    """`median (minimum to maximum)` with a unit."""
    low, middle, high = (form.format(f(values)) for f in (min, median, max))
    return f"{middle}{unit} ({low} to {high})"


def table(runs: Mapping[str, Sequence[Figures]], answer: int) -> str:
    """Markdown: of all runs, and below of those that were not disturbed, where there are such and others."""
    lines = [""]
    header = ["", *(title.format(answer) for _, title, _, _ in COLUMNS), "read", "cores of others"]
    lines += [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    for name, every in runs.items():
        quiet = [run for run in every if not run["disturbed"]]
        lines.append(_row(f"{name}, {len(every)} runs", every))
        if quiet and len(quiet) < len(every):
            lines.append(_row(f"{name}, {len(quiet)} undisturbed", quiet))
    return "\n".join(lines)


def _row(name: str, runs: Sequence[Figures]) -> str:
    cells = [spread([run[key] for run in runs], form, unit) for key, _, form, unit in COLUMNS]
    read = ", ".join(f"{run['read']:.0f}{'*' if run['disturbed'] else ''}" for run in runs) + " GB/s"
    others = ", ".join(f"{run['others']:.1f}{'*' if run['disturbed'] else ''}" for run in runs)
    return f"| {' | '.join([name, *cells, read, others])} |"
