"""Resampling of voices: soxr, or a transform where soxr is not installed (a machine that only trains)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """Samples `[n]` at one rate as float32 at another."""
    if rate == wanted:
        return samples.astype(np.float32)
    return (_soxr() or by_transform)(samples, rate, wanted).astype(np.float32)


def by_transform(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """The same by cutting or padding the spectrum. The ends, where speech is silent, run into each other."""
    count = round(len(samples) * wanted / rate)
    bins = count // 2 + 1
    spectrum = np.fft.rfft(samples)
    cut = np.zeros(bins, np.complex128)
    kept = min(bins, len(spectrum))
    cut[:kept] = spectrum[:kept]
    return (np.fft.irfft(cut, count) * (count / max(1, len(samples)))).astype(np.float32)


@lru_cache(maxsize=1)
def _soxr() -> Callable[[np.ndarray, int, int], np.ndarray] | None:
    try:
        import soxr
    except ImportError:
        return None
    return soxr.resample
