"""A cache folder that no other user can write to, with atomic writes and a lock.

The folder is opened once, without following a link, and every name is looked up in the open folder. So replacing its
path, or a file between check and use, has no effect.
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

# Do not follow links, do not block on named pipes. Windows has none of these flags, and no cache.
OPEN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class UntrustedError(Exception):
    """A file or folder that other users could have written, or that does not match its record; the text says why."""


class Cache:
    """A folder that no other user can write to, held open.

    Args:
        path: created with mode 0700 if it does not exist.

    Raises:
        UntrustedError: it is a link or not a folder, has another owner, is writable by others, or cannot be created.
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
        """Close the folder; libraries loaded from it stay loaded."""
        os.close(self._folder)

    def read(self, name: str) -> tuple[int, bytes]:
        """An open file and its content.

        Raises:
            FileNotFoundError: there is none. UntrustedError: it is not a regular file, or others could have written it.
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
                raise UntrustedError("is not a regular file")
            _check_owner(status)
            with os.fdopen(file, "rb", closefd=False) as stream:
                return file, stream.read()
        except BaseException:
            os.close(file)
            raise

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically: a reader sees the old content or all of the new. A link is replaced.

        Raises:
            OSError: the file cannot be written.
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
            raise UntrustedError("is not a record")
        return found

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._folder)

    @contextlib.contextmanager
    def lock(self, timeout: float) -> Iterator[None]:
        """Hold an exclusive lock between processes and threads, if the file system supports locks.

        Args:
            timeout: seconds to wait for another holder; then the caller continues without the lock.

        Raises:
            OSError: the folder is not writable.
        """
        import fcntl  # not on Windows, where nothing is compiled

        file = os.open("lock", os.O_RDWR | os.O_CREAT | OPEN, 0o600, dir_fd=self._folder)
        try:
            end = time.monotonic() + timeout
            while time.monotonic() < end:  # a longer holder is stuck; writes are atomic even without the lock
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    time.sleep(0.05)
                except OSError:  # no locks on this file system: at worst two processes compile the same
                    break
            yield
        finally:
            os.close(file)  # releases the lock


def _check_owner(status: os.stat_result) -> None:
    """Accept files of this user, and of root, who can write everything anyway and may compile for all users.

    Raises:
        UntrustedError: another user could have written the file.
    """
    if status.st_uid not in (os.geteuid(), 0):
        raise UntrustedError("belongs to another user")
    if status.st_mode & OTHERS_WRITE:
        raise UntrustedError(f"is writable by other users (mode {stat.S_IMODE(status.st_mode):04o})")
