"""Open the standard streams that the caller closed, as in `vita info >&-`."""

from __future__ import annotations

import errno
import os
import sys

CLOSED = "stdout is closed; redirect it to a file or to /dev/null."


def open_closed_streams() -> bool:
    """Open each standard stream that the process was started without; returns whether stdout was one of them.

    stdin is empty then, stderr is discarded, and writing to stdout raises `OSError` with EBADF. Python sets such a
    stream to None, and the next file that is opened takes its descriptor: what a library prints would go there.
    """
    if sys.stdin is None:
        sys.stdin = os.fdopen(_occupy(0, os.O_RDONLY), encoding="utf-8")
    closed = sys.stdout is None
    if closed:
        sys.stdout = os.fdopen(_occupy(1, os.O_RDONLY), "w", encoding="utf-8")  # read-only: a write fails
    if sys.stderr is None:
        sys.stderr = os.fdopen(_occupy(2, os.O_WRONLY), "w", encoding="utf-8")
    return closed


def is_failed_write(error: BaseException) -> bool:
    """Whether a write to a descriptor that is not open for writing raised the error."""
    return isinstance(error, OSError) and error.errno == errno.EBADF and error.filename is None


def _occupy(descriptor: int, flags: int) -> int:
    """Open the null device as this descriptor, unless a file has it already; returns a descriptor of the device."""
    opened = os.open(os.devnull, flags)
    if opened != descriptor and not _is_open(descriptor):
        os.dup2(opened, descriptor)
        os.close(opened)
        return descriptor
    os.set_inheritable(opened, True)  # as the standard streams of child processes are
    return opened


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
