"""A download on disk: a file without a name, which the system frees however the process ends."""

from __future__ import annotations

import io
import tempfile
import threading
import weakref
from typing import TYPE_CHECKING, BinaryIO, cast

from vita.errors import MediaError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

FIX = "free some space, or set TMPDIR to a folder on another disk"


class TemporaryContent:
    """Written once, then read by any number of streams. It is freed with the last reference to it or to a stream.

    Args:
        name: of the source, for error sentences.

    Attributes:
        file: to write to; unbuffered.

    Raises:
        MediaError: there is no folder for temporary files, or it is full.
    """

    def __init__(self, name: str) -> None:
        try:
            self.file = cast(BinaryIO, tempfile.TemporaryFile(prefix="vita-", buffering=0))  # noqa: SIM115 see below
        except OSError as error:
            raise not_stored(name, error) from error
        self._lock = threading.Lock()  # the streams share one position
        weakref.finalize(self, self.file.close)

    def open(self) -> BinaryIO:
        """A fresh seekable stream."""
        return io.BufferedReader(_Reader(self))

    def size(self) -> int:
        """Bytes that were written."""
        with self._lock:
            return self.file.seek(0, io.SEEK_END)

    def read_at(self, position: int, size: int) -> bytes:
        """At most `size` bytes; none at the end."""
        with self._lock:
            self.file.seek(position)
            return self.file.read(size)


class _Reader(io.RawIOBase):
    def __init__(self, content: TemporaryContent) -> None:
        self._content, self._position = content, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self._content.read_at(self._position, len(view))
        view[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = (0, self._position, self._content.size())[whence]
        if start + offset < 0:
            raise ValueError("negative position")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position


def write_all(file: BinaryIO, block: bytes, name: str) -> None:
    """Write a block to a file that may take a part of it at a time.

    Raises:
        MediaError: the disk is full.
    """
    left = memoryview(block)
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as error:
        raise not_stored(name, error) from error


def not_stored(name: str, error: OSError) -> MediaError:
    """The sentence for a download that cannot be kept."""
    return MediaError(f"cannot be stored while it is read ({error.strerror or error})", where=name, fix=FIX)
