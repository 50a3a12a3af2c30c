"""Change the speed of speech without its pitch: waveform-similarity overlap-add (WSOLA), as a stream.

Windows are taken from the audio at the speed's distance, each moved to where it continues the one before best, and
overlapped at half their length. Verhelst and Roelands 1993.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

WINDOW = 960  # samples: 40 ms
HOP = WINDOW // 2
SEARCH = 240  # samples to both sides that a window may move
SAME = 0.01  # a smaller change of speed is not made

Samples = NDArray[np.float32]


def stretch(samples: Samples, speed: float) -> Samples:
    """All of an audio at another speed: float32 `[n]` to `[round(n / speed)]`."""
    return np.concatenate(list(stretched([samples], speed))) if len(samples) else samples


def stretched(pieces: Iterable[Samples], speed: float) -> Iterable[Samples]:
    """A stream at another speed."""
    return pieces if abs(speed - 1) < SAME else Stretch(speed).stretched(pieces)


class Stretch:
    """Explicit state of one stream.

    Args:
        speed: of the result; over 1 is faster.
    """

    def __init__(self, speed: float) -> None:
        self.speed = speed
        self._window = np.hanning(WINDOW + 1)[:-1].astype(np.float32)  # sums to 1 at half its length
        self.reset()

    def reset(self) -> None:
        """Before the first sample of another stream."""
        self._audio = np.zeros(0, np.float32)  # from sample `_start` of the input on
        self._start = 0
        self._received = self._emitted = self._count = 0
        self._next = 0  # where the last window would go on in the input
        self._tail = np.zeros(HOP, np.float32)

    def stretched(self, pieces: Iterable[Samples]) -> Iterator[Samples]:
        """All pieces at the new speed; `round(n / speed)` samples of n."""
        for piece in pieces:
            yield self.push(piece)
        yield self.flush()

    def push(self, piece: Samples) -> Samples:
        """More input, float32 `[n]`; returns what is complete."""
        self._received += len(piece)
        return self._extend(piece)

    def flush(self) -> Samples:
        """The rest."""
        total = round(self._received / self.speed)
        silence = np.zeros(round(HOP * self.speed) + WINDOW + 2 * SEARCH, np.float32)
        parts: list[Samples] = []
        while self._emitted < total:
            parts.append(self._extend(silence))
        extra = self._emitted - total
        out = np.concatenate([np.zeros(0, np.float32), *parts])
        return out[: len(out) - extra] if extra else out

    def _extend(self, piece: Samples) -> Samples:
        self._audio = np.concatenate([self._audio, piece])
        out: list[Samples] = []
        while (window := self._take()) is not None:
            window = window * self._window
            if self._count == 1:  # the stream begins at full level
                window[:HOP] = self._audio[:HOP]
                self._tail[:] = 0
            out.append(self._tail + window[:HOP])
            self._tail = window[HOP:]
        joined = np.concatenate([np.zeros(0, np.float32), *out])
        self._emitted += len(joined)
        return joined

    def _take(self) -> Samples | None:
        """The next window, `[WINDOW]`; None if it is not complete."""
        middle = round(self._count * HOP * self.speed)
        share = round((self._count + 1) * HOP * self.speed)  # input whose output is given out with this window
        end = max(middle + SEARCH + WINDOW, share)
        if self._start + len(self._audio) < max(end, self._next + HOP):
            return None
        at = 0 if self._count == 0 else self._best(middle)
        window = self._audio[at - self._start : at - self._start + WINDOW].copy()
        self._next = at + HOP
        self._count += 1
        if self._count > 1:
            keep = min(self._next, round(self._count * HOP * self.speed) - SEARCH)
            drop = max(0, keep - self._start)
            self._audio, self._start = self._audio[drop:], self._start + drop
        return window

    def _best(self, middle: int) -> int:
        """Where the window is most like the continuation of the one before: its first half is compared."""
        wanted = self._audio[self._next - self._start : self._next - self._start + HOP]
        first = max(self._start, middle - SEARCH)
        searched = self._audio[first - self._start : middle + SEARCH + HOP - self._start]
        scores = np.correlate(searched, wanted, "valid").astype(np.float64)
        energy = np.convolve(np.square(searched, dtype=np.float64), np.ones(HOP), "valid")
        return first + int(np.argmax(scores / np.sqrt(energy + 1e-9)))
