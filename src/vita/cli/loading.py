"""Loading a model with a progress bar where somebody is looking."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
    if not sys.stderr.isatty():
        _hide_download_bars()
        from vita import load

        loaded = load(
            model, base=base, device=device, dtype=dtype, quantize=quantize, kv_cache=kv_cache, fit=fit, offline=offline
        )
        _say_what_fits(loaded, fit)
        return loaded
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from vita import load

    columns = (TextColumn("loading {task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("the model", total=None)

        def show(part: str, done: int, total: int) -> None:
            bars.update(task, description=f"the {part}", completed=done, total=total)

        loaded = load(
            model, base=base, device=device, dtype=dtype, quantize=quantize, kv_cache=kv_cache, fit=fit,
            offline=offline, progress=show,
        )  # fmt: skip
        bars.update(task, visible=False)
    _say_what_fits(loaded, fit)
    return loaded


def _say_what_fits(model: Vita, fit: str | None) -> None:
    if fit is not None:
        engine = model.engine
        taken = engine.quantize or str(engine.dtype).removeprefix("torch.")
        spilled = engine.fit.spilled
        note = f"; {spilled} of its blocks are read anew for every token, which takes time" if spilled else ""
        print(f"vita: {taken} is the least rounded variant that fits {fit}{note}", file=sys.stderr)


def _hide_download_bars() -> None:
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # importing the library to tell it would take longer than to ask
