"""Audio of realtime events: base64 of PCM16 or G.711, to and from samples."""

from __future__ import annotations

import base64
import binascii
from typing import cast

import numpy as np
from numpy.typing import NDArray

from vita.serve.realtime import g711
from vita.serve.realtime.events import RealtimeError
from vita.serve.realtime.session import Format

MAX_APPEND = 15 << 20  # bytes of one event, as at OpenAI


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
    raw = pcm.astype("<i2").tobytes() if form == "audio/pcm" else g711.encode(pcm, cast(g711.Law, form[6:]))
    return base64.b64encode(raw).decode()
