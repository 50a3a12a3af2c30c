"""Encode speech while it is made: bytes of an audio file, piece by piece."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from vita.serve.parts import wav_header
from vita.speech.audio_file import encoder, to_int16
from vita.speech.voice import SAMPLE_RATE

if TYPE_CHECKING:
    from vita.events import SpeechChunk
    from vita.speech.stream import SpeechStream

Samples: TypeAlias = np.ndarray[Any, np.dtype[np.float32]]

# OpenAI's names of formats, and their media types.
MEDIA_TYPES = {
    "mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav",
    "pcm": "audio/pcm", "pcm16": "audio/pcm",
}  # fmt: skip
TOKEN_SAMPLES = SAMPLE_RATE * 80 // 1000  # of audio that `usage` counts as one token
OPEN_END = 0xFFFFFFFF - 36  # bytes of a WAV file whose length is not known yet


def audio_tokens(samples: int) -> int:
    """What `usage` says of so much audio: a token for each 80 ms."""
    return -(-samples // TOKEN_SAMPLES)


class StreamEncoder:
    """Audio in, bytes of a file out; the bytes that were given out never change.

    Args:
        form: a name of `MEDIA_TYPES`.
    """

    def __init__(self, form: str) -> None:
        self._raw = form in ("pcm", "pcm16", "wav")
        self._head = wav_header(OPEN_END, SAMPLE_RATE) if form == "wav" else b""
        self._file, self._taken = io.BytesIO(), 0
        self._encoder = None if self._raw else encoder(self._file, form)

    def add(self, samples: Samples) -> bytes:
        """The next bytes; none while the encoder collects a frame.

        Args:
            samples: float32 `[n]` at 24 kHz.
        """
        if self._encoder is None:
            head, self._head = self._head, b""
            return head + to_int16(samples).tobytes()
        self._encoder.write(samples)
        return self._take()

    def finish(self) -> bytes:
        """The rest."""
        if self._encoder is None:
            head, self._head = self._head, b""
            return head
        self._encoder.close()
        return self._take()

    def _take(self) -> bytes:
        new = self._file.getvalue()[self._taken :]
        self._taken += len(new)
        return new


def encode_file(samples: Samples, form: str) -> bytes:
    """A complete file, its length in its header.

    Args:
        samples: float32 `[n]` at 24 kHz.
        form: a name of `MEDIA_TYPES`.
    """
    pcm = to_int16(samples).tobytes()
    if form in ("pcm", "pcm16"):
        return pcm
    if form == "wav":
        return wav_header(len(pcm), SAMPLE_RATE) + pcm
    file = io.BytesIO()
    writer = encoder(file, form)
    if len(samples):
        writer.write(samples)
    writer.close()
    return file.getvalue()


async def chunks_of(stream: SpeechStream, threads: Executor) -> AsyncGenerator[SpeechChunk, None]:
    """The chunks of a stream, made in a thread and only as fast as they are taken.

    Leaving the loop early cancels the stream.
    """
    loop = asyncio.get_running_loop()
    chunks: Iterator[SpeechChunk] = iter(stream)
    try:
        while (chunk := await loop.run_in_executor(threads, next, chunks, None)) is not None:
            yield chunk
    finally:
        stream.cancel()
        with contextlib.suppress(RuntimeError):  # the server has stopped, and the process ends
            threads.submit(stream.close)  # behind the step that may still run
