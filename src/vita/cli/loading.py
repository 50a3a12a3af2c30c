"""Load a model for a command: a progress bar on a terminal, one line about the memory plan."""

from __future__ import annotations

import gc
import logging
import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from vita.checkpoint.locate import find_folder

if TYPE_CHECKING:
    from collections.abc import Callable

    from vita.api import Vita
    from vita.options import EngineOptions


def load_model(model: str | None, options: EngineOptions, *, base: str | None = None, verbose: bool = False) -> Vita:
    """`vita.load` for the command line: a progress bar if stderr is a terminal.

    Raises:
        VitaError: as `vita.load`.
    """
    find_folder(model)  # before torch is imported
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="vita: %(message)s")
    on_terminal = sys.stderr.isatty()
    if not on_terminal:
        # Importing huggingface_hub to set this would take longer.
        os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    from vita.api import load_with_options

    start = partial(load_with_options, model, options, base=base)
    loaded = _load_with_bar(start) if on_terminal else start()
    gc.freeze()  # a full collection would go through everything torch has imported, 0.1 s in the middle of an answer
    if options.memory is not None:
        print(f"vita: {memory_note(loaded, options.memory)}", file=sys.stderr)
    return loaded


def _load_with_bar(start: Callable[..., Vita]) -> Vita:
    """With a progress bar for each part. The engine thread calls `show`; rich's progress bars are thread-safe."""
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


def memory_note(model: Vita, limit: str) -> str:
    """Which variant was loaded under a memory limit."""
    engine = model.engine
    variant = engine.model.quantize or str(engine.model.dtype).removeprefix("torch.")
    layers = engine.model.memory_plan.streamed_layers
    streamed = f"; {layers} of its layers are streamed from disk for every token, which takes time" if layers else ""
    return f"{variant} is the least quantised variant within {limit}{streamed}"
