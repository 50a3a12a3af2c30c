"""The results of a batch on disk: append, fsync, and what a kill left behind."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from vita.errors import RequestError, ResourceError, VitaError
from vita.runtime.clock import Clock
from vita.runtime.disk import full_sentence, is_full, try_lock
from vita.serve.errors import JSON

HEAD = b'{"id":"batch_req_'  # how every line begins
SYNC_SECONDS, SYNC_LINES = 1.0, 64  # results that are not yet synced are at most this old, and this many
_KEY = re.compile(r"batch_req_[0-9a-f]{32}(_[0-9]+)?")
OTHER = "holds something else than results of vita batch"


@dataclass(frozen=True)
class Kept:
    """What a results file holds.

    Attributes:
        size: bytes of its complete lines.
        keys: of its results.
        failed: how many of them are failures.
    """

    size: int
    keys: set[str]
    failed: int


def encode_line(fields: dict[str, JSON]) -> bytes:
    """One result as a line; ASCII, so that it can be cut at any byte."""
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def parse_line(line: bytes) -> tuple[str, bool] | None:
    """Key of a complete line and whether its request failed; None if the line is none of ours."""
    if not line.endswith(b"\n") or not line.startswith(HEAD):
        return None
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or "error" not in fields or not _KEY.fullmatch(str(fields.get("id"))):
        return None
    return str(fields["id"]), fields["error"] is not None


def scan(lines: Iterable[bytes], where: Path) -> Kept:
    """Read a results file up to a torn tail: a last line that has no newline or cannot be parsed.

    Raises:
        RequestError: there is something else than results in it.
    """
    keys: set[str] = set()
    size = failed = number = 0
    torn: bytes | None = None
    for line in lines:
        number += 1
        if torn is not None:
            what = OTHER if number == 2 else f"line {number - 1} is damaged"
            raise RequestError(what, where=where, fix="delete that line, or name another file")
        found = parse_line(line)
        if found is None:
            torn = line
            continue
        keys.add(found[0])
        failed += found[1]
        size += len(line)
    if torn is not None and not is_torn(torn):
        raise RequestError(f"{OTHER} (line {number})", where=where, fix="name another file")
    return Kept(size, keys, failed)


def is_torn(line: bytes) -> bool:
    """Whether a last line can be the beginning of one of ours, with the zeros that a power failure may leave."""
    begun = line.strip(b"\0\r\n")
    return begun.startswith(HEAD) or HEAD.startswith(begun)


class Results:
    """A results file, open for appending. A context manager; only one process at a time has it.

    A line counts as done when it is on disk: `synced` lags behind `append` by at most a second or 64 lines, if
    `sync_if_due` is called in between.

    Args:
        path: of the file; made if it is not there.
        retry_failed: drop the lines of failures first, so that these are asked again.
        clock: seconds, monotonic.

    Attributes:
        done: keys of results from earlier runs.
        failed_before: how many of `done` are failures.
        synced: lines of this run that are on disk.

    Raises:
        RequestError: the file holds something else, is no regular file, or another process has it.
        ResourceError: it cannot be written.
    """

    def __init__(self, path: Path, *, retry_failed: bool = False, clock: Clock = time.monotonic) -> None:
        self.path, self._clock = path, clock
        self._created = False
        self._file = self._open()
        try:
            kept = self._repair()
            if retry_failed and kept.failed:
                self._drop_failed()
                kept = self._repair()
        except BaseException:
            self.close()
            raise
        self.done, self.failed_before, self._size = kept.keys, kept.failed, kept.size
        self.synced = 0
        self._waiting = 0  # lines that are written and not synced
        self._oldest = 0.0  # when the first of them was written

    def _open(self) -> BinaryIO:
        try:
            self._created = not self.path.exists()
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise RequestError(f"cannot be written ({reason})", where=self.path, fix="name another file") from error
        file = os.fdopen(descriptor, "r+b", buffering=0)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RequestError("is no regular file, so a batch cannot resume in it", where=self.path,
                                   fix="name another file")  # fmt: skip
            lock(descriptor, self.path)
            if self._created:
                sync_folder(self.path.parent)
        except BaseException:
            file.close()
            raise
        return file

    def _lines(self) -> Iterator[bytes]:
        """The lines of the file. One that is not ours ends the reading where it could be very long."""
        with self.path.open("rb") as file:
            if not HEAD.startswith(file.read(len(HEAD)).rstrip(b"\0\r\n")):
                raise RequestError(OTHER, where=self.path, fix="name another file")
            file.seek(0)
            yield from file

    def _repair(self) -> Kept:
        """Read the file and cut off a torn tail."""
        kept = scan(self._lines(), self.path)
        descriptor = self._file.fileno()
        if os.fstat(descriptor).st_size > kept.size:
            self._file.truncate(kept.size)
            os.fsync(descriptor)
        return kept

    def _drop_failed(self) -> None:
        """Replace the file by a copy without failures; a kill leaves the one or the other."""
        target = self.path.resolve()
        copy = target.with_name(f"{target.name}.retry")
        try:
            with copy.open("wb") as out:
                for line in self._lines():
                    found = parse_line(line)
                    if found is not None and not found[1]:
                        out.write(line)
                out.flush()
                os.fsync(out.fileno())
            shutil.copymode(target, copy)
            copy.replace(target)
        except OSError as error:
            with contextlib.suppress(OSError):
                copy.unlink(missing_ok=True)
            raise write_error(error, copy) from error
        sync_folder(target.parent)
        self._file.close()
        self._file = self._open()

    def append(self, line: bytes) -> None:
        """Write a line. After an error the file ends with the line before.

        Raises:
            ResourceError: no space is left, or the file cannot be written.
        """
        descriptor, written = self._file.fileno(), 0
        try:
            while written < len(line):
                written += os.write(descriptor, line[written:])
        except OSError as error:
            with contextlib.suppress(OSError):  # the next start cuts it off
                os.ftruncate(descriptor, self._size)
            raise write_error(error, self.path) from error
        self._size += len(line)
        if not self._waiting:
            self._oldest = self._clock()
        self._waiting += 1

    def sync_if_due(self) -> None:
        """Sync if results have waited for a second, or are many. Errors as for `sync`."""
        if self._waiting >= SYNC_LINES or (self._waiting and self._clock() - self._oldest >= SYNC_SECONDS):
            self.sync()

    def sync(self) -> None:
        """Wait until all lines are on disk.

        Raises:
            ResourceError: they cannot be written.
        """
        if not self._waiting:
            return
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise write_error(error, self.path) from error
        self.synced, self._waiting = self.synced + self._waiting, 0

    def close(self) -> None:
        """Close the file; one that was made here and stayed empty is removed."""
        if self._created and not self._file.closed and os.fstat(self._file.fileno()).st_size == 0:
            self.path.unlink(missing_ok=True)
        self._file.close()

    def __enter__(self) -> Results:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            self.sync()
        except VitaError:
            if error is None:
                raise
        finally:
            self.close()


def write_error(error: OSError, path: Path) -> ResourceError:
    """The sentence for a write that failed."""
    if is_full(error):
        what, fix = full_sentence(error)
        return ResourceError(what, where=path, fix=fix)
    return ResourceError(f"cannot be written ({error.strerror or error})", where=path, fix="run the command again")


def lock(descriptor: int, path: Path) -> None:
    """Take the file for this process, until it is closed, where the system has locks.

    Raises:
        RequestError: another process has it.
    """
    if try_lock(descriptor) is False:
        fix = "wait for it, or name another file"
        raise RequestError("is in use by another vita batch", where=path, fix=fix)


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to disk, where the system can."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):  # a file system that cannot
            raise
    finally:
        os.close(descriptor)
