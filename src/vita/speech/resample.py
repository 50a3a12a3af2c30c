"""Resampling of a stream: the result does not depend on how the stream is cut."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vita.errors import RequestError

MIN_RATE, MAX_RATE = 4_000, 384_000  # Hz


class StreamResampler:
    """Mono audio from one rate to another, piece by piece. One thread at a time.

    Args:
        from_rate, to_rate: in Hz.

    Raises:
        RequestError: a rate that no device has.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        for rate in (from_rate, to_rate):
            if not MIN_RATE <= rate <= MAX_RATE:
                raise RequestError(f"must lie between {MIN_RATE} and {MAX_RATE} Hz, not {rate}", where="sample rate")
        self.from_rate, self.to_rate = from_rate, to_rate
        self._stream: Any = None
        self.reset()

    def reset(self) -> None:
        """As before the first piece."""
        if self.from_rate != self.to_rate:
            import soxr

            self._stream = soxr.ResampleStream(self.from_rate, self.to_rate, 1, dtype="float32", quality="HQ")

    def feed(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the next samples, float32 `[n]`, and return those that are ready, float32 `[m]`."""
        if self._stream is None:
            return samples
        out: NDArray[np.float32] = self._stream.resample_chunk(np.ascontiguousarray(samples, np.float32))
        return out

    def finish(self) -> NDArray[np.float32]:
        """The rest, after the last piece; the stream starts anew."""
        if self._stream is None:
            return np.zeros(0, np.float32)
        out: NDArray[np.float32] = self._stream.resample_chunk(np.zeros(0, np.float32), last=True)
        self.reset()
        return out
