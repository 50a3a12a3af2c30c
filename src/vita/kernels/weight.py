"""The stored weight of a linear layer, in any format, and how a large one is cut into blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

BLOCK_CHANNELS = 64  # blocks are a multiple of it: GEMM libraries are several times slower at unaligned widths
GPU_DEQUANTIZE_BLOCK = 72 << 20  # weights dequantised at a time on a GPU: any layer of the released model, not the head


@dataclass(frozen=True)
class Weight:
    """A weight as it is stored.

    Attributes:
        values: `[out, in]`, floats or int8; int4 as uint8 `[out, in / 2]`.
        scale: of quantised values: int8 `[out]`, int4 `[out, in / 64]`; None for floats.
        bias: `[out]`, or None.
    """

    values: Tensor
    scale: Tensor | None
    bias: Tensor | None


def channel_blocks(channels: int, in_features: int, limit: int) -> Iterator[slice]:
    """Slices of the output channels of a weight `[channels, in_features]`, in order.

    Each has at most `limit` weights (or `BLOCK_CHANNELS` channels, if that is more), and starts and ends at a multiple
    of `BLOCK_CHANNELS`; the last one ends at `channels`.
    """
    step = max(1, limit // in_features // BLOCK_CHANNELS) * BLOCK_CHANNELS
    for start in range(0, channels, step):
        yield slice(start, min(start + step, channels))
