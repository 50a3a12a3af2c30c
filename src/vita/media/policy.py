"""Deadline and cancel of the media of one request, checked between blocks."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, cast

from vita.errors import Cancelled, MediaError

SLOW = "pass a smaller file, or in Python raise MediaPolicy(deadline=...)"


def _never() -> bool:
    return False


@dataclass(frozen=True)
class ReadGuard:
    """Ends the reading of media in time. Every reader calls `check` between blocks, packets or frames.

    Attributes:
        until: `time.monotonic()` value at which the deadline passes; None: no deadline.
        cancelled: whether the caller no longer wants the result.
    """

    until: float | None = None
    cancelled: Callable[[], bool] = _never

    @classmethod
    def start(cls, seconds: float | None, cancelled: Callable[[], bool] = _never) -> ReadGuard:
        """A guard whose deadline is `seconds` from now."""
        return cls(None if seconds is None else time.monotonic() + seconds, cancelled)

    def check(self, name: str) -> None:
        """Go on, or stop.

        Args:
            name: of the source, for the error sentence.

        Raises:
            Cancelled: the caller cancelled. MediaError: the deadline has passed.
        """
        if self.cancelled():
            raise Cancelled
        if self.until is not None and time.monotonic() > self.until:
            raise MediaError("took too long to read", where=name, fix=SLOW)

    def watch(self, stream: BinaryIO, name: str) -> BinaryIO:
        """The stream with a `check` before each read, for libraries that read it block by block."""
        return cast(BinaryIO, _WatchedStream(stream, self, name))

    def remaining(self) -> float | None:
        """Seconds left, at least 0; None: no deadline."""
        return None if self.until is None else max(0.0, self.until - time.monotonic())


UNGUARDED = ReadGuard()


class _WatchedStream(io.IOBase):
    """A readable, seekable stream that checks a guard before each read."""

    def __init__(self, stream: BinaryIO, guard: ReadGuard, name: str) -> None:
        self._stream, self._guard, self._name = stream, guard, name

    def read(self, size: int = -1) -> bytes:
        self._guard.check(self._name)
        return self._stream.read(size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def fileno(self) -> int:
        return self._stream.fileno()
