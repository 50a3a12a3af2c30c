"""Loading a model with a progress bar where somebody is looking."""

from __future__ import annotations

import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vita.api import Vita


def load_model(
    model: str | None, *, base: str | None, device: str, dtype: str, offline: bool, quantize: str | None = None,
    kv_cache: str | None = None, fit: str | None = None, verbose: bool = False,
) -> Vita:  # fmt: skip
    """`vita.load` for the command line: progress on a terminal, silence in a pipe.

    Raises:
        VitaError: as `vita.load`.
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="vita: %(message)s")
    watched = sys.stderr.isatty()
    if not watched:
        # Importing huggingface_hub to tell it would take longer than to ask.
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from vita import load

    start = partial(
        load, model, base=base, device=device, dtype=dtype, quantize=quantize, kv_cache=kv_cache, fit=fit,
        offline=offline,
    )  # fmt: skip
    loaded = _load_watched(start) if watched else start()
    _say_what_fits(loaded, fit)
    return loaded


def _load_watched(start: Callable[..., Vita]) -> Vita:
    """With a bar for each part."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("loading {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("the model", total=None)

        def show(part: str, done: int, total: int) -> None:
            bars.update(task, description=f"the {part}", completed=done, total=total)

        loaded = start(progress=show)
        bars.update(task, visible=False)
    return loaded


def _say_what_fits(model: Vita, fit: str | None) -> None:
    if fit is not None:
        engine = model.engine
        taken = engine.quantize or str(engine.dtype).removeprefix("torch.")
        streamed_layers = engine.memory_plan.streamed_layers
        note = (
            f"; {streamed_layers} of its blocks are read anew for every token, which takes time"
            if streamed_layers
            else ""
        )
        print(f"vita: {taken} is the least rounded variant that fits {fit}{note}", file=sys.stderr)
