"""Which weights stay in memory between their uses, where they are views of the checkpoint's files.

Owns giving pages back: an encoder's after every use and, where a limit is set, the decoder's while an encoder works
and those of its last blocks after every step. What was given back is read again where it is touched, from the system's
copy of the file while there is one: 40 ms a gigabyte (docs/benchmarks.md). Does not know how large a limit must be.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from vita.checkpoint.mmap import Pages, pages_under
from vita.checkpoint.open import Checkpoint
from vita.model.decoder import Decoder


class WeightResidency:
    """The mapped pages of one model's parts.

    Args:
        checkpoint: whose files may be mapped.
        limited: whether encoders and decoder take turns in memory.
        spilled: blocks of the decoder whose pages are given back after every use.
    """

    def __init__(self, checkpoint: Checkpoint, *, limited: bool = False, streamed_layers: int = 0) -> None:
        self.limited, self.streamed_layers = limited, streamed_layers
        self._files = frozenset(entry.file for entry in checkpoint.store.entries.values())
        self._pages: dict[str, Pages] = {}

    def settle(self, name: str, part: nn.Module) -> None:
        """A part was loaded: note where its weights lie."""
        self._pages[name] = _pages_of(part, self._files)
        if isinstance(part, Decoder) and self.streamed_layers:
            for layer in list(part.layers)[-self.streamed_layers :]:
                layer.register_forward_hook(_dropping(_pages_of(layer, self._files)))

    @contextmanager
    def encoding(self, *parts: str) -> Iterator[None]:
        """Parts at work that nobody needs until the next picture or sound."""
        if self.limited:
            self._pages["decoder"].drop()
        try:
            yield
        finally:
            for part in parts:
                self._pages[part].drop()


def is_mapped(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether weights that are not rounded while loading stay views of their files."""
    if device.type != "cpu" or sys.platform != "linux" or checkpoint.store.edit is not None:
        return False
    floats = [entry for entry in checkpoint.store.entries.values() if entry.dtype.is_floating_point]
    other = sum(entry.bytes for entry in floats if entry.dtype != dtype)  # statistics may be in float32
    return 100 * other < sum(entry.bytes for entry in floats)


def _pages_of(module: nn.Module, files: frozenset[Path]) -> Pages:
    return pages_under(module.state_dict().values(), files)


def _dropping(pages: Pages) -> Callable[..., None]:
    def after(*_: object) -> None:
        pages.drop()

    return after
