"""`vita pull`, `vita list` and `vita rm`: checkpoints in the hub's local cache."""

from __future__ import annotations

import logging
import os
import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from vita.cli.output import print_json

if TYPE_CHECKING:
    from pathlib import Path

    from vita.checkpoint.hub_pull import PullFile, PullPlan


def run_pull(model: str) -> int:
    """Print the size, then download what is missing; on a terminal with a progress bar, else with a line a file.

    Raises:
        VitaError: not enough space, no network, or no VITA checkpoint.
    """
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # before the client is imported: it shows several at once
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it warns of every retry
    from vita.checkpoint.hub_cache import cache_folder
    from vita.checkpoint.hub_pull import plan_pull, pull

    plan = plan_pull(model)
    here = plan.total_bytes - plan.missing_bytes
    _say(
        f"{model}: {size(plan.total_bytes)} in {len(plan.files)} files, {size(here)} of them here; "
        f"{size(plan.free_bytes)} free in {cache_folder()}"
    )
    try:
        folder = _pull_with_bar(plan) if sys.stderr.isatty() else pull(plan, _tell)
    except KeyboardInterrupt:
        _say("interrupted; the same command resumes")
        raise
    print(folder)
    return 0


def _pull_with_bar(plan: PullPlan) -> Path:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    from vita.checkpoint.hub_pull import pull

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress("{task.description}", *columns, console=Console(stderr=True), transient=True) as bars:
        here = plan.total_bytes - plan.missing_bytes
        task = bars.add_task("configuration", total=plan.total_bytes, completed=here)

        def tell(file: PullFile, number: int, count: int) -> None:
            bars.update(task, description=f"file {number} of {count}")

        return pull(plan, tell, lambda done: bars.update(task, completed=done))


def run_list(*, as_json: bool) -> int:
    """Print the embedded model and every VITA checkpoint in the cache."""
    from vita.checkpoint.files import DEFAULT
    from vita.checkpoint.hub_cache import cache_folder, cached_models

    models = cached_models()
    embedded = sum(f.stat().st_size for f in DEFAULT.rglob("*") if f.is_file())
    if as_json:
        rows: list[dict[str, object]] = [{"model": "default", "bytes": embedded, "complete": True, "downloaded": None}]
        rows += [
            {"model": m.repo, "bytes": m.bytes, "complete": m.complete, "downloaded": _date(m.modified)} for m in models
        ]
        print_json({"cache": str(cache_folder()), "models": rows})
        return 0
    width = max(len(m) for m in ("default", *(m.repo for m in models)))
    print(f"{'default':{width}}  {size(embedded):>9}  embedded")
    for m in models:
        state = _date(m.modified) if m.complete else f"incomplete; vita pull {m.repo} resumes"
        print(f"{m.repo:{width}}  {size(m.bytes):>9}  {state}")
    _say(f"the hub cache is {cache_folder()}" if models else f"nothing is in the hub cache, {cache_folder()}")
    return 0


def run_rm(model: str) -> int:
    """Remove a checkpoint from the cache.

    Raises:
        VitaError: it is not there, or is no VITA checkpoint.
    """
    from vita.checkpoint.hub_cache import remove

    removed = remove(model)
    print(f"{removed.repo}: removed, {size(removed.bytes)} freed")
    return 0


def size(count: int) -> str:
    """Bytes with a unit."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def _tell(file: PullFile, number: int, count: int) -> None:
    here = f", {size(file.present_bytes)} of it here" if file.present_bytes else ""
    _say(f"{number} of {count}: {file.name}, {size(file.size)}{here}")


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).date().isoformat()


def _say(line: str) -> None:
    sys.stderr.write(f"vita: {line}\n")
    sys.stderr.flush()
