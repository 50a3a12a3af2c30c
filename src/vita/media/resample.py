"""The reference's resampler (spec section 5.2), for parity. Default: soxr."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

Samples: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

ZERO_CROSSINGS = 6
ROLLOFF = 0.99
KERNEL_LIMIT = 1 << 24  # elements of the kernel computed at a time; 44.1 to 16 kHz takes 76,000


def resample_reference(channels: Samples, from_rate: int, to_rate: int) -> Samples:
    """Windowed-sinc resampling as the reference does it.

    Args:
        channels: float32 `[channels, n]`.
        from_rate: Hz, positive.
        to_rate: Hz, positive.

    Returns:
        float32 `[channels, ceil(n * to / from)]`.
    """
    import torch

    divisor = math.gcd(from_rate, to_rate)
    old, new = from_rate // divisor, to_rate // divisor
    base = ROLLOFF * min(old, new)
    width = math.ceil(ZERO_CROSSINGS * old / base)
    taps = torch.arange(-width, width + old, dtype=torch.float64)[None, :] / old
    padded = torch.nn.functional.pad(torch.from_numpy(channels), (width, width + old))[:, None]
    # The kernel of rates without a common divisor takes gigabytes. Its rows are independent: compute it in blocks.
    rows = max(1, KERNEL_LIMIT // taps.shape[1])
    pieces = []
    for first in range(0, new, rows):
        # The phase is rounded to float32, the rest is float64, the kernel is stored as float32.
        numbers = torch.arange(-first, -min(new, first + rows), -1, dtype=torch.float32)
        phase = (numbers / new).double()[:, None]
        t = ((phase + taps) * base).clamp(-ZERO_CROSSINGS, ZERO_CROSSINGS)
        window = torch.cos(t * math.pi / (2 * ZERO_CROSSINGS)) ** 2
        kernel = (torch.sinc(t) * window * (base / old)).float()  # [rows, taps]
        pieces.append(torch.nn.functional.conv1d(padded, kernel[:, None], stride=old))
    phases = torch.cat(pieces, dim=1)  # [channels, new, steps]
    length = -(-channels.shape[1] * new // old)
    out: Samples = phases.transpose(1, 2).reshape(channels.shape[0], -1)[:, :length].contiguous().numpy()
    return out
