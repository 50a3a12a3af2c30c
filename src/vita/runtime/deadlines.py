"""Earliest deadline first: a few threads compute at a time, and the most urgent of the others is next."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator


class EarliestDeadlineFirst:
    """Lets a few threads compute at the same time.

    Args:
        threads: that may compute at the same time.
    """

    def __init__(self, threads: int) -> None:
        self._free = threads
        self._changed = threading.Condition()
        self._waiting: set[tuple[float, int]] = set()  # deadlines; equal ones in order of arrival
        self._numbers = itertools.count()

    @contextlib.contextmanager
    def admit(self, deadline: float) -> Iterator[None]:
        """Wait until this thread may compute; it computes within the block.

        Args:
            deadline: when the result is needed, in seconds of any clock that all callers use.
        """
        entry = (deadline, next(self._numbers))
        with self._changed:
            self._waiting.add(entry)
            try:
                self._changed.wait_for(lambda: self._free and min(self._waiting) == entry)
                self._free -= 1
            finally:  # also if the wait was interrupted
                self._waiting.remove(entry)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += 1
                self._changed.notify_all()
