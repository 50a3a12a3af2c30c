"""Mixing audio channels down to mono without losing a channel to cancellation."""

from __future__ import annotations

import numpy as np

from vita.media.resample import Samples

WINDOW_SECONDS = 0.5
FADE_SECONDS = 0.01
# Energy of the loudest channel over that of the mean above which the mean loses too much (9 dB). Two channels in
# opposite phase are far above it, one voice in one of two channels (6 dB) is below.
MOST_LOST = 8.0


class Downmix:
    """Mixes blocks `[channels, n]` of one stream down to mono `[n]`.

    The mean of all channels, except in windows of half a second in which the mean has less than an eighth of the
    loudest channel's energy (opposite phase, or one voice in many channels): there the loudest channel. A change
    between the two is cross-faded.
    """

    def __init__(self, rate: int) -> None:
        self._window = max(1, int(rate * WINDOW_SECONDS))
        self._fade = max(1, int(rate * FADE_SECONDS))
        self._last: int | None = None  # channel the last window was taken from; None: the mean
        self._started = False

    def __call__(self, block: Samples) -> Samples:
        """Mix one block.

        Args:
            block: float32 `[channels, n]`, finite.

        Returns:
            float32 `[n]`.
        """
        if block.shape[0] == 1:
            self._last = None
            return block[0]
        mono: Samples = block.mean(axis=0, dtype=np.float32)
        if self._last is not None and self._last >= block.shape[0]:
            self._last = None  # the stream has fewer channels from here on
        for start in range(0, block.shape[1], self._window):
            part = block[:, start : start + self._window]
            mixed = mono[start : start + self._window]
            source = self._choose(part, mixed)
            before, self._last = (self._last if self._started else source), source
            self._started = True
            if source is None and before is None:
                continue
            old = mixed.copy() if before is None else part[before]
            if source is not None:
                mixed[:] = part[source]
            if source != before:
                count = min(self._fade, mixed.size)
                weight = np.linspace(0, 1, count, dtype=np.float32)
                mixed[:count] = weight * mixed[:count] + (1 - weight) * old[:count]
        return mono

    def _choose(self, part: Samples, mean: Samples) -> int | None:
        """The channel that stands for this window, or None for the mean."""
        energy = [float(np.dot(channel, channel)) for channel in part]
        loudest = int(np.argmax(energy))
        if energy[loudest] <= MOST_LOST * float(np.dot(mean, mean)):
            return None
        if self._last is not None and 2 * energy[self._last] >= energy[loudest]:
            return self._last  # nearly as loud: a change would only add a fade
        return loudest
