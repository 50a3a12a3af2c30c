"""`vita convert`: write a quantised copy of a checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path

from vita.cli.signals import exit_by_signals


def run_convert(model: str, out: Path, quantize: str, *, base: str | None, offline: bool) -> int:
    """Write the copy, with a progress bar on a terminal. With `base`, the model is a LoRA folder that is merged.

    Raises:
        VitaError: the checkpoint is unusable, the folder exists, or the disk is too full.
    """
    from vita.checkpoint.convert import convert
    from vita.checkpoint.load import check_tensors
    from vita.checkpoint.lora import open_merged
    from vita.errors import RequestError
    from vita.model.vita import VitaModel
    from vita.options import parse_quantize
    from vita.prompt.tokenizer import Tokenizer

    scheme = parse_quantize(quantize)
    if scheme is None:
        raise RequestError("names no scheme", where="quantize", fix="use int8 or int4")
    checkpoint = open_merged(model, base, offline=offline)
    vocab_size = Tokenizer.load(checkpoint.folder).size
    check_tensors(checkpoint, VitaModel.on_meta(checkpoint.config, vocab_size, checkpoint.quantized))
    with exit_by_signals():
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import Progress

            with Progress(console=Console(stderr=True), transient=True) as bars:
                task = bars.add_task("converting", total=None)
                convert(checkpoint, out, scheme, lambda _, done, total: bars.update(task, completed=done, total=total))
        else:
            convert(checkpoint, out, scheme)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out}: {size / 1e9:.2f} GB, {scheme}")
    return 0
