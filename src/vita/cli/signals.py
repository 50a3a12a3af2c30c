"""Signals that end the process raise SystemExit, so that files that are not complete are removed."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

NAMES = ("SIGTERM", "SIGHUP")  # Windows has no SIGHUP


@contextlib.contextmanager
def exit_by_signals() -> Iterator[None]:
    """Within the block, SIGTERM and SIGHUP raise SystemExit with the exit code of shells, 128 and the number.

    A signal that is ignored, as by nohup, or has a handler keeps what it has.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    changed: list[signal.Signals] = []
    if threading.current_thread() is threading.main_thread():
        found = [signal.Signals[name] for name in NAMES if name in signal.Signals.__members__]
        changed = [number for number in found if signal.getsignal(number) == signal.SIG_DFL]
    for number in changed:
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)
