"""Write audio files piece by piece: WAV, FLAC, Ogg Opus, MP3, AAC, raw PCM."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import secrets
import stat
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

import numpy as np

from vita.errors import RequestError, ResourceError
from vita.runtime.disk import is_full
from vita.speech.callbacks import Value, call_outside_main
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


PATCHED = ("wav", "flac")  # formats whose header holds the duration, which is known at the end


class Encoder(Protocol):
    """Writes to an open file."""

    def write(self, samples: NDArray[np.float32]) -> None: ...

    def close(self) -> None: ...


def format_of(path: str | Path) -> str:
    """The format of a file by its name; a pipe or device without a suffix takes raw PCM, like standard output.

    Raises:
        RequestError: the suffix is none of an audio format, or it is a folder.
    """
    if not str(path):
        raise RequestError("the name of the file is empty", fix="give one, such as speech.wav")
    found = _stat(path)
    if str(path).endswith("/") or (found is not None and stat.S_ISDIR(found.st_mode)):
        raise RequestError("it is a folder", where=path, fix=f"name a file in it, such as {Path(path) / 'speech.wav'}")
    suffix = Path(path).suffix.lower()
    if not suffix and _is_stream(path, found):
        return "raw"
    if suffix not in SUFFIXES:
        raise RequestError(
            f"{suffix} is not an audio format" if suffix.strip(".") else "the name has no suffix of an audio format",
            where=path,
            fix=f"use one of {', '.join(SUFFIXES)}",
        )
    return SUFFIXES[suffix]


def _stat(path: str | Path) -> os.stat_result | None:
    """What a path names, symbolic links followed; None if there is nothing yet.

    Raises:
        RequestError: it cannot be used at all, for instance since it is too long.
    """
    try:
        return Path(path).stat()
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _refused(path, error) from error


def _is_stream(path: str | Path, found: os.stat_result | None) -> bool:
    """Whether this is a pipe or device, or stands for a file that is open already."""
    named = str(path).startswith(("/dev/stdout", "/dev/stderr", "/dev/fd/", "/proc/self/fd/"))
    return named or (found is not None and not stat.S_ISREG(found.st_mode))


def _refused(path: str | Path, error: Exception) -> RequestError:
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    fix = "free some space, or name a file elsewhere" if is_full(error) else "name a file in a folder you may write to"
    return RequestError(f"cannot be written ({reason})", where=path, fix=fix)


def encoder(file: BinaryIO, format: str) -> Encoder:
    """Encode mono audio at 24 kHz into an open binary file; it is not closed.

    Args:
        file: writable; WAV and FLAC need one that can seek to hold the duration in their header.
        format: one of `FORMATS`.

    Raises:
        RequestError: there is no such format. ResourceError: the installed libsndfile does not know it.
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

        if not soundfile.check_format(format, subtype):
            raise ResourceError(
                f"libsndfile {soundfile.__libsndfile_version__} cannot write {subtype}",
                fix="update the package soundfile, or write a .wav file",
            )
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


class _Written(io.RawIOBase):
    """What an encoder wrote and is not in the file yet. It is in memory, so that an encoder's callback never fails: an
    exception in a callback is lost."""

    def __init__(self) -> None:
        self._writes: list[tuple[int, bytes]] = []  # position and data
        self._position = self._size = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self._writes.append((self._position, bytes(data)))
        self._position += len(self._writes[-1][1])
        self._size = max(self._size, self._position)
        return len(self._writes[-1][1])

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def take(self) -> list[tuple[int, bytes]]:
        """The writes since the last call, in their order."""
        taken, self._writes = self._writes, []
        return taken


class AudioFile:
    """A file on disk that appears under its name once it is complete; after an error, or without audio, there is none.

    A symbolic link stays, and what it names is written. A pipe or device is written while the audio is made; WAV and
    FLAC at the end, when their header is known.

    libsndfile and FFmpeg call Python back, so the encoder does not run in the main thread (`call_outside_main`).

    Args:
        path: its suffix names the format.

    Raises:
        RequestError: no such format, or the file cannot be written; also by `write` and at the end of the block.
    """

    def __init__(self, path: str | Path) -> None:
        self._path, format = path, format_of(path)
        self._length = self._sent = 0  # samples, and bytes of a stream
        self._ended = False
        self._written = _Written()
        self._lock = threading.Lock()  # of the encoder: after Ctrl-C its last call may still run
        self._encoder = self._run(lambda: encoder(cast(BinaryIO, self._written), format))
        self._part: Path | None = None
        self._file: BinaryIO
        try:
            found = _stat(path)
            if _is_stream(path, found):
                self._file = Path(path).open("wb")  # noqa: SIM115 closed by `__exit__`
            else:
                self._target = Path(path).resolve()
                self._part = self._target.with_name(f".vita-{secrets.token_hex(8)}.part")
                self._file = self._part.open("xb")
                if found is not None:
                    self._part.chmod(stat.S_IMODE(found.st_mode))
            self._out = io.BytesIO() if self._part is None and format in PATCHED else self._file
        except BaseException as error:  # Ctrl-C, too: `__exit__` is not called yet
            self._unlink()
            if isinstance(error, (OSError, ValueError, RuntimeError)):
                raise _refused(path, error) from error
            raise

    def _run(self, call: Callable[[], Value]) -> Value:
        def call_alone() -> Value:
            with self._lock:
                return call()

        return call_outside_main(call_alone)

    def write(self, samples: NDArray[np.float32]) -> None:
        """Add mono audio at 24 kHz, [n] float32 in -1..1."""
        if len(samples):
            self._run(lambda: self._encoder.write(samples))
            self._length += len(samples)
            self._flush()

    def _flush(self) -> None:
        """Write what the encoder wrote. A stream cannot be patched: only MP3 would, with a duration that it need not
        have."""
        try:
            for position, data in self._written.take():
                if self._out.seekable():
                    self._out.seek(position)
                elif position < self._sent:
                    continue
                self._out.write(data)
                self._sent = position + len(data)
            self._out.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _refused(self._path, error) from error

    def __enter__(self) -> AudioFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._length:
                self._finish()
        finally:
            self._discard()

    def _finish(self) -> None:
        """Write the rest; then the file has its name."""
        self._end()
        self._flush()
        try:
            if isinstance(self._out, io.BytesIO):
                self._file.write(self._out.getvalue())
            self._file.close()
            if self._part is not None:
                self._part.replace(self._target)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _refused(self._path, error) from error
        self._part = None

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._run(self._encoder.close)

    def _discard(self) -> None:
        """Remove what is not complete, and free the encoder."""
        self._unlink()
        self._end()
        with contextlib.suppress(OSError):  # what it still holds was told about, or is not wanted
            self._file.close()

    def _unlink(self) -> None:
        if self._part is not None:
            with contextlib.suppress(OSError):  # its folder may be gone
                self._part.unlink()


def encode(chunks: Iterable[NDArray[np.float32]], format: str) -> bytes:
    """Encode audio in memory."""
    out = io.BytesIO()
    writer = encoder(out, format)
    for samples in chunks:
        if len(samples):
            call_outside_main(functools.partial(writer.write, samples))
    call_outside_main(writer.close)
    return out.getvalue()
