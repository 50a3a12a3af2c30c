"""Temporary folders for checkpoints that are not complete, and what a killed process left of them.

A folder is locked as long as its process lives, so that no other process takes it for a leftover.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from vita.errors import ResourceError
from vita.runtime.disk import full_sentence, is_full, try_lock

_NAME = re.compile(r"\.vita-convert-[0-9a-f]{16}\.partial")


@contextlib.contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """A new locked folder in `parent`; removed at the end of the block unless it was renamed.

    Raises:
        ResourceError: `parent` cannot be written to.
    """
    try:
        folder, descriptor = _make(parent)
    except OSError as error:
        what, fix = full_sentence(error) if is_full(error) else (f"cannot be written to ({error.strerror})", None)
        raise ResourceError(what, where=parent, fix=fix) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if descriptor is not None:
            os.close(descriptor)


def _make(parent: Path) -> tuple[Path, int | None]:
    """A new folder, and the descriptor that holds its lock."""
    while True:
        folder = parent / f".vita-convert-{secrets.token_hex(8)}.partial"
        try:
            folder.mkdir()
            descriptor = _open(folder)
        except BaseException:  # a signal
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if descriptor is None:
            if folder.is_dir():  # no locks here
                return folder, None
        elif try_lock(descriptor) is not False and folder.is_dir():
            return folder, descriptor
        else:  # between the two calls another process took it for a leftover
            os.close(descriptor)


def _open(folder: Path) -> int | None:
    """A descriptor of a folder; None where there is none, as on Windows."""
    try:
        return os.open(folder, os.O_RDONLY)
    except OSError:
        return None


def remove_leftovers(parent: Path) -> None:
    """Remove the folders that processes which were killed left in `parent`; what cannot be removed stays."""
    with contextlib.suppress(OSError):
        for folder in list(parent.iterdir()):
            if _NAME.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                _remove_unlocked(folder)


def _remove_unlocked(folder: Path) -> None:
    descriptor = _open(folder)
    if descriptor is None:
        return
    try:
        if try_lock(descriptor):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)
