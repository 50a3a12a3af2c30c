"""Echo cancelling: what the loudspeaker plays is taken out of what the microphone records."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vita.errors import ResourceError
from vita.speech.extras import install
from vita.speech.vad import SAMPLE_RATE

Samples = NDArray[np.float32]
BLOCK = SAMPLE_RATE // 100  # samples; the canceller pads shorter blocks with zeros


class EchoCanceller:
    """WebRTC's, by the optional package pywebrtc-audio: 16 kHz, fed in pieces of any length. One thread at a time.

    The delay of the echo is found by itself, up to 0.3 s.

    Raises:
        ResourceError: the package is not installed.
    """

    def __init__(self) -> None:
        try:
            import pywebrtc_audio
        except ImportError as error:
            raise ResourceError("listening needs the package pywebrtc-audio", fix=install("listen")) from error
        self._canceller = pywebrtc_audio.EchoCanceller(sample_rate=SAMPLE_RATE)
        self._pending = np.zeros((2, 0), np.float32)

    def feed(self, recorded: Samples, played: Samples) -> Samples:
        """Take the next samples of both, float32 `[n]`, and return what was recorded without the echo, float32 `[m]`.

        The result lags by less than 10 ms, since whole blocks are computed; no sample is lost.
        """
        pending = np.concatenate([self._pending, np.stack([recorded, played])], axis=1)
        length = pending.shape[1] // BLOCK * BLOCK
        self._pending = pending[:, length:]
        if not length:
            return np.zeros(0, np.float32)
        near, far = (np.ascontiguousarray(row[:length]) for row in pending)
        return self._canceller.process(near, far)

    def reset(self) -> None:
        """As before the first sample."""
        self._canceller.reset()
        self._pending = np.zeros((2, 0), np.float32)
