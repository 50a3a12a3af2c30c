"""Views of a media file: a stretch of it, or the file with some bytes replaced."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import BinaryIO

from vita.media.source import Loaded


@dataclass(frozen=True)
class Patched(Loaded):
    """A file with some bytes replaced; the file itself is not changed."""

    source: Loaded | None = None
    patches: tuple[tuple[int, bytes], ...] = ()  # (offset, bytes) each

    def open(self) -> BinaryIO:
        assert self.source is not None
        return io.BufferedReader(_PatchedStream(self.source.open(), self.patches))


@dataclass(frozen=True)
class Stretch(Loaded):
    """The bytes from `start` up to `end` of a file."""

    source: Loaded | None = None
    start: int = 0
    end: int = 0

    def open(self) -> BinaryIO:
        assert self.source is not None
        return io.BufferedReader(_StretchStream(self.source.open(), self.start, self.end))


class _Stream(io.RawIOBase):
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self._stream.close()
        super().close()


class _PatchedStream(_Stream):
    def __init__(self, stream: BinaryIO, patches: tuple[tuple[int, bytes], ...]) -> None:
        super().__init__(stream)
        self._patches = patches

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        start = self._stream.tell()
        data = bytearray(self._stream.read(len(buffer)))
        for offset, new in self._patches:
            for k, byte in enumerate(new):
                if 0 <= offset + k - start < len(data):
                    data[offset + k - start] = byte
        buffer[: len(data)] = data
        return len(data)


class _StretchStream(_Stream):
    def __init__(self, stream: BinaryIO, start: int, end: int) -> None:
        super().__init__(stream)
        self._start, self._end = start, end
        stream.seek(start)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        origin = {io.SEEK_SET: self._start, io.SEEK_CUR: self._stream.tell(), io.SEEK_END: self._end}[whence]
        if origin + offset < self._start:
            raise ValueError("negative seek position")
        return self._stream.seek(origin + offset) - self._start

    def tell(self) -> int:
        return self._stream.tell() - self._start

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._end - self._stream.tell()))
        data = self._stream.read(count)
        buffer[: len(data)] = data
        return len(data)
