"""Audio of realtime events: base64 of PCM16 or G.711, to and from samples."""

from __future__ import annotations

import base64
import binascii
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vita.serve.realtime import g711
from vita.serve.realtime.events import RealtimeError
from vita.serve.realtime.session import PCM_RATE, Format, rate_of
from vita.speech.resample import StreamResampler

MAX_APPEND = 15 << 20  # bytes of one event, as at OpenAI
MAX_PIECE = 24_000  # samples of one event: 64,000 characters of base64


def decode_audio(data: str, form: Format, param: str = "audio") -> NDArray[np.int16]:
    """Base64 to PCM16, int16 `[n]` at the format's rate. Half a sample at the end is dropped.

    Raises:
        RealtimeError: too long, or not base64.
    """
    if len(data) > MAX_APPEND * 4 // 3 + 4:
        raise RealtimeError(f"{param} may have {MAX_APPEND:,} bytes at most.", "invalid_value", param)
    try:
        raw = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise RealtimeError(f"{param} must be base64.", "invalid_value", param) from None
    if form != "audio/pcm":
        return g711.decode(raw, cast(g711.Law, form.removeprefix("audio/")))
    return np.frombuffer(raw, "<i2", len(raw) // 2).astype(np.int16, copy=False)


def encode_audio(samples: NDArray[np.float32], form: Format) -> str:
    """Mono samples, float32 `[n]` in -1..1 at the format's rate, to base64."""
    pcm = np.clip(np.rint(samples * 32_767), -32_768, 32_767).astype(np.int16)
    if form == "audio/pcm":
        return base64.b64encode(pcm.astype("<i2").tobytes()).decode()
    return base64.b64encode(g711.encode(pcm, cast(g711.Law, form.removeprefix("audio/")))).decode()


class AudioEncoder:
    """A stream of speech at 24 kHz as the base64 pieces of events.

    Args:
        form: of the output.
    """

    def __init__(self, form: Format) -> None:
        self._form: Format = form
        self._resampler = StreamResampler(PCM_RATE, rate_of(form))

    def feed(self, samples: NDArray[np.float32]) -> list[str]:
        """The next samples, float32 `[n]`; the pieces that are ready, none of them empty."""
        return self._encode(self._resampler.feed(samples))

    def finish(self) -> list[str]:
        """What the resampler still holds."""
        return self._encode(self._resampler.finish())

    def _encode(self, samples: NDArray[np.float32]) -> list[str]:
        starts = range(0, len(samples), MAX_PIECE)
        return [encode_audio(samples[start : start + MAX_PIECE], self._form) for start in starts]
