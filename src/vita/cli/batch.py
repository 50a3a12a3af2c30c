"""`vita batch`: check, load, answer, and say how far it is."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vita.cli.loading import load_model

if TYPE_CHECKING:
    from vita.batch.items import Shard
    from vita.batch.run import Counts
    from vita.batch.source import Source
    from vita.options import EngineOptions
    from vita.types import SamplingParams

SECONDS = 0.1  # between two updates of the bar


@dataclass(frozen=True, kw_only=True)
class BatchFlags:
    """The arguments of one call."""

    source: Path
    out: Path
    question: str | None
    concurrency: int
    ordered: bool
    shard: str
    retry_failed: bool
    model: str | None
    base: str | None
    options: EngineOptions
    system: str | None
    params: SamplingParams
    verbose: bool


def run_batch(flags: BatchFlags) -> int:
    """Answer what has no result yet; returns the exit code.

    Raises:
        VitaError: the input, the output, the model or an option cannot be used, or the disk is full.
    """
    from vita.batch.items import Shard, with_keys
    from vita.batch.media import Question
    from vita.batch.output import Results
    from vita.batch.run import Batch, Counts, Interrupted, check_concurrency
    from vita.batch.source import open_source
    from vita.engine.sampler import check_params

    check_concurrency(flags.concurrency)
    check_params(flags.params)
    shard = Shard.parse(flags.shard)
    source = open_source(flags.source, Question(flags.question, flags.system, flags.params), flags.out)
    counts, code, began = Counts(), 0, time.monotonic()
    try:
        with (
            Results(flags.out, retry_failed=flags.retry_failed) as results,
            load_model(flags.model, flags.options, base=flags.base, verbose=flags.verbose) as model,
            bar(source, shard) as report,
        ):
            batch = Batch(
                model, with_keys(source.items(), shard), results, concurrency=flags.concurrency,
                ordered=flags.ordered, report=report,
            )  # fmt: skip
            counts, began = batch.counts, time.monotonic()
            batch.run()
    except Interrupted as stopped:
        code = 130 if stopped.number == signal.SIGINT else 128 + stopped.number
    print(f"vita: {summary(counts, time.monotonic() - began, flags.out, stopped=bool(code))}", file=sys.stderr)
    return code


def summary(counts: Counts, seconds: float, out: Path, *, stopped: bool) -> str:
    """One line about a run."""
    total = counts.answered + counts.failed
    parts = [f"{counts.answered} answered", f"{counts.failed} failed"]
    if counts.before:
        parts.append(f"{counts.before} done before")
    rate = f" in {seconds:.1f} s, {total / seconds:.2f} a second" if total and seconds > 0 else ""
    end = "; stopped, the same command goes on" if stopped else ""
    return f"{', '.join(parts)}{rate}: {out}{end}"


@contextlib.contextmanager
def bar(source: Source, shard: Shard) -> Iterator[Callable[[Counts], None]]:
    """A progress bar with rate and time left, if stderr is a terminal; the input is counted first for it."""
    if not sys.stderr.isatty():
        yield lambda counts: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    total = sum(shard.holds(item) for item in source.items())
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        before = bars.add_task("skipping what is done", total=total, rate="")
        began = time.monotonic()
        shown = 0.0

        def show(counts: Counts) -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < SECONDS:
                return
            shown = now
            rate = (counts.answered + counts.failed) / max(now - began, 1e-9)
            failed = f", {counts.failed} failed" if counts.failed else ""
            bars.update(before, description="answering", completed=counts.before + counts.on_disk,
                        rate=f"{rate:.2f}/s{failed}")  # fmt: skip

        yield show
