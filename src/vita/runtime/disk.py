"""What is needed to write files safely: which errors mean a full disk, and locks that end with their process."""

from __future__ import annotations

import errno
import sys

_AGAIN = "free some and run the command again"
_FULL = {
    getattr(errno, "EDQUOT", errno.ENOSPC): ("no space is left in the disk quota", _AGAIN),  # Windows has none
    errno.EFBIG: ("the file would be larger than is allowed here", "raise the limit (ulimit -f), or use another disk"),
    errno.ENOSPC: ("no space is left", _AGAIN),
}
_NO_LOCKS = {getattr(errno, name) for name in ("ENOTSUP", "ENOSYS", "EINVAL", "ENOLCK") if hasattr(errno, name)}


def is_full(error: BaseException) -> bool:
    """Whether a write failed because the disk, the quota or the size limit of files is exhausted."""
    return isinstance(error, OSError) and error.errno in _FULL


def full_sentence(error: OSError) -> tuple[str, str]:
    """What is wrong and what to do about it, for an error that `is_full`."""
    return _FULL[error.errno or errno.ENOSPC]


def try_lock(descriptor: int) -> bool | None:
    """Take an open file or folder for this process, until it is closed.

    Returns:
        True; False if another process has it; None where there are no locks: on Windows, and on some file systems.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True
