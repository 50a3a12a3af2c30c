"""G.711: μ-law and A-law samples (8 kHz) from and to PCM16."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Law = Literal["pcmu", "pcma"]
SAMPLE_RATE = 8_000
_BIAS, _CLIP = 132, 32_635  # of μ-law, in PCM16


@cache
def _decoding(law: Law) -> NDArray[np.int16]:
    """PCM16 of every code, `[256]`."""
    codes = np.arange(256)
    if law == "pcmu":
        bits = ~codes & 0xFF
        size = ((((bits & 0x0F) << 3) + _BIAS) << (bits >> 4 & 7)) - _BIAS
        return np.where(bits & 0x80, -size, size).astype(np.int16)
    bits = codes ^ 0x55
    exponent, mantissa = bits >> 4 & 7, bits & 0x0F
    size = np.where(exponent == 0, (mantissa << 4) + 8, ((mantissa << 4) + 0x108) << np.maximum(exponent - 1, 0))
    return np.where(bits & 0x80, size, -size).astype(np.int16)


@cache
def _encoding(law: Law) -> NDArray[np.uint8]:
    """The code of every PCM16 value, `[65536]`, indexed by the value's bits."""
    values = np.arange(65_536).astype(np.uint16).view(np.int16).astype(np.int32)
    negative = values < 0
    if law == "pcmu":
        size = np.minimum(np.abs(values), _CLIP) + _BIAS
        exponent = np.maximum(np.floor(np.log2(size)).astype(np.int32) - 7, 0)
        code = (exponent << 4) | (size >> (exponent + 3) & 0x0F)
        return (~(code | np.where(negative, 0x80, 0)) & 0xFF).astype(np.uint8)
    size = np.where(negative, -values - 1, values)
    exponent = np.maximum(np.floor(np.log2(np.maximum(size, 1))).astype(np.int32) - 7, 0)
    code = (exponent << 4) | (size >> np.maximum(exponent + 3, 4) & 0x0F)
    return ((code | np.where(negative, 0, 0x80)) ^ 0x55).astype(np.uint8)


def decode(data: bytes, law: Law) -> NDArray[np.int16]:
    """G.711 bytes to PCM16, int16 `[n]` at 8 kHz."""
    return _decoding(law)[np.frombuffer(data, np.uint8)]


def encode(samples: NDArray[np.int16], law: Law) -> bytes:
    """PCM16, int16 `[n]` at 8 kHz, to G.711 bytes."""
    return _encoding(law)[samples.view(np.uint16)].tobytes()
