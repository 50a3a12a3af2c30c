"""Which mapped weights stay in memory between their uses, and which are streamed from disk.

Pages of an encoder are released after every use. Under a memory limit the decoder's pages are released too while an
encoder runs, and those of its last layers after every step. A released page is read again when it is touched, from the
page cache while the system holds the file there: 40 ms a gigabyte (docs/log.md).
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
from vita.model.vita import PartName


class WeightResidency:
    """The mapped pages of one model's parts.

    Args:
        checkpoint: whose files may be mapped.
        limited: there is a memory limit: encoders and decoder are not in memory at the same time.
        streamed_layers: decoder layers, counted from the last one, whose weights are streamed from disk: their pages
            are released after every use.
    """

    def __init__(self, checkpoint: Checkpoint, *, limited: bool = False, streamed_layers: int = 0) -> None:
        self.limited, self.streamed_layers = limited, streamed_layers
        self._files = frozenset(entry.file for entry in checkpoint.store.entries.values())
        self._pages: dict[PartName, Pages] = {}

    def register(self, name: PartName, part: nn.Module) -> None:
        """Note the pages of a part that was loaded, and release those of streamed layers after every use."""
        self._pages[name] = _pages_of(part, self._files)
        if isinstance(part, Decoder) and self.streamed_layers:
            for layer in list(part.layers)[-self.streamed_layers :]:
                layer.register_forward_hook(_release_after(_pages_of(layer, self._files)))

    @contextmanager
    def encoding(self, *parts: PartName) -> Iterator[None]:
        """While encoders run: their pages are released at the end, under a limit the decoder's at the start."""
        if self.limited:
            self._pages["decoder"].drop()
        try:
            yield
        finally:
            for part in parts:
                self._pages[part].drop()


def is_mapped(checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether weights that are not quantised while loading stay views of their files."""
    if device.type != "cpu" or sys.platform != "linux" or checkpoint.store.edit is not None:
        return False
    floats = [entry for entry in checkpoint.store.entries.values() if entry.dtype.is_floating_point]
    other = sum(entry.bytes for entry in floats if entry.dtype != dtype)  # statistics may be in float32
    return 100 * other < sum(entry.bytes for entry in floats)


def _pages_of(module: nn.Module, files: frozenset[Path]) -> Pages:
    return pages_under(module.state_dict().values(), files)


def _release_after(mapped: Pages) -> Callable[..., None]:
    def release(*_: object) -> None:
        mapped.drop()

    return release
