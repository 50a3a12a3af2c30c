"""Write audio files piece by piece: WAV, FLAC, Ogg Opus, MP3, AAC, raw PCM."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Protocol

import numpy as np

from vita.errors import RequestError
from vita.speech.voice import SAMPLE_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

# libsndfile's format and subtype; AAC is written by FFmpeg, raw PCM by us.
SOUNDFILE = {
    "wav": ("WAV", "PCM_16"), "flac": ("FLAC", "PCM_16"), "opus": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III")
}  # fmt: skip
FORMATS = (*SOUNDFILE, "aac", "raw")
SUFFIXES = {
    ".wav": "wav", ".flac": "flac", ".opus": "opus", ".ogg": "opus", ".mp3": "mp3", ".aac": "aac", ".raw": "raw",
    ".pcm": "raw",
}  # fmt: skip


class Encoder(Protocol):
    """Writes to an open file."""

    def write(self, samples: NDArray[np.float32]) -> None: ...

    def close(self) -> None: ...


def format_of(path: str | Path) -> str:
    """The format of a file by its name.

    Raises:
        RequestError: the suffix is none of an audio format.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise RequestError(
            f"{suffix or 'no suffix'} is not an audio format", where=path, fix=f"use one of {', '.join(SUFFIXES)}"
        )
    return SUFFIXES[suffix]


def encoder(file: BinaryIO, format: str) -> Encoder:
    """Encode mono audio at 24 kHz into an open binary file; it is not closed.

    Args:
        file: writable; WAV and FLAC need one that can seek to hold the duration in their header.
        format: one of `FORMATS`.

    Raises:
        RequestError: there is no such format.
    """
    if format in SOUNDFILE:
        return _Libsndfile(file, *SOUNDFILE[format])
    if format == "aac":
        return _Aac(file)
    if format == "raw":
        return _Raw(file)
    raise RequestError(f"there is no audio format {format!r}", where="format", fix=f"use one of {', '.join(FORMATS)}")


def to_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """[n] float32 in -1..1 as 16-bit PCM."""
    scaled: NDArray[np.int16] = np.round(np.clip(samples, -1, 1) * 32767).astype("<i2")
    return scaled


class _Raw:
    """Signed 16-bit little-endian PCM without a header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, samples: NDArray[np.float32]) -> None:
        self._file.write(to_int16(samples).tobytes())
        self._file.flush()

    def close(self) -> None:
        self._file.flush()


class _Libsndfile:
    def __init__(self, file: BinaryIO, format: str, subtype: str) -> None:
        import soundfile

        self._out = soundfile.SoundFile(file, "w", samplerate=SAMPLE_RATE, channels=1, format=format, subtype=subtype)

    def write(self, samples: NDArray[np.float32]) -> None:
        self._out.write(samples)

    def close(self) -> None:
        self._out.close()


class _Aac:
    """AAC in an ADTS stream."""

    def __init__(self, file: BinaryIO) -> None:
        import av

        self._container = av.open(file, "w", format="adts")
        self._stream = self._container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        self._position = 0

    def write(self, samples: NDArray[np.float32]) -> None:
        import av

        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = SAMPLE_RATE, self._position
        self._position += len(samples)
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        self._container.mux(self._stream.encode(None))
        self._container.close()


class AudioFile:
    """A file on disk that appears under its name once it is complete; after an error, or without audio, there is none.

    Args:
        path: its suffix names the format.

    Raises:
        RequestError: no such format, or the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self._path, format = Path(path), format_of(path)
        self._part = self._path.with_name(f".{self._path.name}.part")
        try:
            if self._path.is_dir():
                raise IsADirectoryError(21, "it is a folder")
            self._file = self._part.open("wb+")
        except OSError as error:
            raise RequestError(
                f"cannot be written ({error.strerror or error})",
                where=path,
                fix="name a file in a folder you may write to",
            ) from error
        self._encoder, self._length = encoder(self._file, format), 0

    def write(self, samples: NDArray[np.float32]) -> None:
        """Add mono audio at 24 kHz, [n] float32 in -1..1."""
        if len(samples):
            self._encoder.write(samples)
            self._length += len(samples)

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._encoder.close()
        finally:
            self._file.close()
            if kind is None and self._length:
                self._part.replace(self._path)
            else:
                self._part.unlink(missing_ok=True)


def encode(chunks: Iterable[NDArray[np.float32]], format: str) -> bytes:
    """Encode audio in memory."""
    import io

    out = io.BytesIO()
    writer = encoder(out, format)
    for samples in chunks:
        if len(samples):
            writer.write(samples)
    writer.close()
    return out.getvalue()
