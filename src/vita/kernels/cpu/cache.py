"""A cache folder that nobody else can write, and files in it that only this user wrote.

Owns who may have written what is read, whole files, and the lock. Does not know what the files hold.

The folder is opened once, without following a link, and every name is looked up in the open folder: exchanging its
path, or that of a file between check and use, changes nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

# A link is not followed and a named pipe is not waited for. Windows has none of these and no cache.
OPEN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UntrustedError(Exception):
    """A file or folder that others could have written, or that is not what was recorded; the text says why."""


class Cache:
    """A folder that nobody else can write, held open.

    Args:
        path: created with mode 0700 if it is not there.

    Raises:
        UntrustedError: it is a link, no folder, belongs to somebody else, can be written by others, or cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | OPEN)
        except OSError as error:
            what = "is a symbolic link" if path.is_symlink() else f"cannot be used ({error.strerror})"
            raise UntrustedError(f"{path} {what}") from error
        try:
            _check_owner(os.fstat(self._folder))
        except UntrustedError as error:
            self.close()
            raise UntrustedError(f"{path} {error}") from error

    def close(self) -> None:
        """Close the folder; what was loaded from it stays."""
        os.close(self._folder)

    def read(self, name: str) -> tuple[int, bytes]:
        """An open file and its content.

        Raises:
            FileNotFoundError: there is none. UntrustedError: it is no plain file or others could have written it.
        """
        try:
            file = os.open(name, os.O_RDONLY | OPEN, dir_fd=self._folder)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UntrustedError(f"is a symbolic link or cannot be read ({error.strerror})") from error
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise UntrustedError("is no plain file")
            _check_owner(status)
            with os.fdopen(file, "rb", closefd=False) as stream:
                return file, stream.read()
        except BaseException:
            os.close(file)
            raise

    def write(self, name: str, content: bytes) -> None:
        """Put a file there whole: a reader finds the old one, none or this one. A link there is replaced.

        Raises:
            OSError: it cannot be written.
        """
        temporary = f".{name}.{secrets.token_hex(8)}"
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | OPEN, 0o600, dir_fd=self._folder)
        try:
            with os.fdopen(file, "wb") as stream:
                stream.write(content)
            os.replace(temporary, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except BaseException:
            os.unlink(temporary, dir_fd=self._folder)
            raise

    def record(self, name: str) -> dict[str, object]:
        """A small JSON file; raises as `read` does."""
        file, content = self.read(name)
        os.close(file)
        try:
            found = json.loads(content)
        except ValueError as error:
            raise UntrustedError("is not JSON") from error
        if not isinstance(found, dict):
            raise UntrustedError("is no record")
        return found

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._folder)

    @contextlib.contextmanager
    def lock(self, longest: float) -> Iterator[None]:
        """One process or thread at a time, as far as the file system knows locks.

        Args:
            longest: seconds to wait for another one; then the caller goes on without it.

        Raises:
            OSError: the folder cannot be written.
        """
        import fcntl  # not there on Windows, where nothing is built

        file = os.open("lock", os.O_RDWR | os.O_CREAT | OPEN, 0o600, dir_fd=self._folder)
        try:
            end = time.monotonic() + longest
            while time.monotonic() < end:  # whoever holds it longer was stopped; files are whole even without it
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.05)
                except OSError:  # no locks on this file system: at worst two processes build the same
                    break
            yield
        finally:
            os.close(file)  # gives the lock back


def _check_owner(status: os.stat_result) -> None:
    """Root may write everything anyway, and may have compiled for everybody.

    Raises:
        UntrustedError: somebody else could have put something there.
    """
    if status.st_uid not in (os.geteuid(), 0):
        raise UntrustedError("belongs to another user")
    if status.st_mode & OTHERS_WRITE:
        raise UntrustedError(f"can be written by other users (mode {stat.S_IMODE(status.st_mode):04o})")
