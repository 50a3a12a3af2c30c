"""File of earlier input, kept between chats."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory

MAX_ENTRIES = 1000
VARIABLE = "VITA_HISTORY"  # a file, or "off"


def history_file() -> Path | None:
    """Where input is kept; None if it is not."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return None if chosen == "off" else Path(chosen)
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "vita" / "chat_history"
    except RuntimeError:  # no home folder
        return None


def open_history() -> History:
    """The history on disk, shortened to its newest entries; one in memory where no file can be written."""
    file = history_file()
    if file is None:
        return InMemoryHistory()
    try:
        file = file.resolve()  # a link is kept when the file is replaced by a shorter one
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(mode=0o600)
        shorten(file)
        with file.open("ab"):
            pass
    except (OSError, RuntimeError):  # RuntimeError: a link to itself, before Python 3.13
        return InMemoryHistory()
    return SafeHistory(str(file))


class SafeHistory(FileHistory):
    """A file that may fill its disk or lose its permissions while the chat runs; then input is kept in memory only."""

    def store_string(self, string: str) -> None:
        """Append an entry."""
        try:
            super().store_string(string)
        except OSError:
            return


def shorten(file: Path, most: int = MAX_ENTRIES) -> None:
    """Keep the newest entries of a file that holds over twice as many.

    Raises:
        OSError: it cannot be read or written.
    """
    entries = list(FileHistory(str(file)).load_history_strings())  # newest first
    if len(entries) <= 2 * most:
        return
    new = file.with_name(f"{file.name}.{os.getpid()}")
    new.touch(mode=0o600)
    _write(new, reversed(entries[:most]))
    new.replace(file)


def _write(file: Path, entries: Iterable[str]) -> None:
    history = FileHistory(str(file))
    for entry in entries:
        history.store_string(entry)
