"""Tile copies: pixels of the next batch of tiles go to the GPU while the ViT encodes the batch before.

Pinned memory and a stream of its own let the copy run beside the kernels of the present batch. At most two batches are
on the device, the one that is encoded and the next one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from vita.config import ImagePreprocess
from vita.media.normalise import normalise_pixels
from vita.types import MediaSpan

log = logging.getLogger("vita")

BATCHES = 2  # on the device: one that is encoded, one that is copied


class Copier(Protocol):
    """Copies to a device."""

    def copy(self, pixels: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """Begin to copy uint8 `[n, S, S, 3]`.

        Returns:
            The tensor on the device, and what makes the computations that are queued from then on wait for the copy.
        """


class DirectCopier:
    """Copies that are complete when `copy` returns, or in the order of the device's only queue."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def copy(self, pixels: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """See `Copier.copy`."""
        return pixels.to(self._device), lambda: None


class StreamCopier:
    """Copies from pinned memory on a CUDA stream of their own."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device)

    def copy(self, pixels: Tensor) -> tuple[Tensor, Callable[[], None]]:
        """See `Copier.copy`."""
        with torch.cuda.stream(self._stream):
            copied = pixels.pin_memory().to(self._device, non_blocking=True)  # the allocator keeps the pinned block
            arrived = torch.cuda.Event()
            arrived.record(self._stream)

        def wait() -> None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(arrived)
            copied.record_stream(current)  # allocated for the copies' stream: not reused before `current` has read it

        return copied, wait


@dataclass(eq=False)
class _Batch:
    """Tiles that are being copied, or were.

    Attributes:
        rows: of `pixels`, by the tile's digest.
        pixels: uint8 `[n, S, S, 3]` on the device.
        wait: see `Copier.copy`.
    """

    rows: dict[bytes, int]
    pixels: Tensor
    wait: Callable[[], None]


class TileCopies:
    """Pixels of tiles on the device. Used by the engine thread only.

    Args:
        copier: of the device.
        preprocess: of the checkpoint.
    """

    def __init__(self, copier: Copier, preprocess: ImagePreprocess) -> None:
        self._copier, self._preprocess = copier, preprocess
        self._batches: list[_Batch] = []

    def prefetch(self, spans: Sequence[MediaSpan]) -> None:
        """Begin to copy the tiles that are encoded next, as far as that has not begun."""
        try:
            self._copy_missing(spans)
        except RuntimeError as error:  # such as out of memory: it is raised again when the tiles are encoded
            log.info("tiles are not copied ahead: %s", error)
        del self._batches[:-BATCHES]

    def _copy_missing(self, spans: Sequence[MediaSpan]) -> None:
        held = {digest for batch in self._batches for digest in batch.rows}
        images = {span.digest: span.data[0] for span in spans if span.digest not in held}
        if images:
            pixels, wait = self._copier.copy(torch.from_numpy(np.stack(list(images.values()))))  # [n, S, S, 3]
            self._batches.append(_Batch({digest: row for row, digest in enumerate(images)}, pixels, wait))

    def normalised(self, spans: Sequence[MediaSpan]) -> Tensor:
        """Values of tiles for the ViT, float32 `[n, 3, S, S]`. Those that `prefetch` has not copied are copied now."""
        self._copy_missing(spans)
        wanted = [span.digest for span in spans]
        batches = [batch for batch in self._batches if not batch.rows.keys().isdisjoint(wanted)]
        for batch in batches:
            batch.wait()
        if len(batches) == 1 and list(batches[0].rows) == wanted:
            pixels = batches[0].pixels
        else:
            tiles = {digest: batch.pixels[row] for batch in batches for digest, row in batch.rows.items()}
            pixels = torch.stack([tiles[digest] for digest in wanted])
        self._batches = [batch for batch in self._batches if batch not in batches]
        return normalise_pixels(pixels, self._preprocess)  # [n, 3, S, S]


def choose_tile_copies(device: torch.device, preprocess: ImagePreprocess) -> TileCopies | None:
    """None on a CPU, whose pixels are normalised where they are."""
    if device.type == "cpu":
        return None
    return TileCopies(StreamCopier(device) if device.type == "cuda" else DirectCopier(device), preprocess)
