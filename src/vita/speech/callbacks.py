"""Call C libraries that call Python back, so that Ctrl-C is not lost."""

from __future__ import annotations

import _thread
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")


def call_outside_main(call: Callable[[], Value]) -> Value:
    """Run a call in another thread if this is the main one, and wait for it.

    Python runs signal handlers in the main thread alone. Where the main thread is in a callback from C, ctypes and cffi
    print the handler's KeyboardInterrupt and go on. The main thread waits here instead, where a handler's exception
    ends the wait at once; the call then goes on to its end without anybody who reads its result.

    The queue and the thread are those of C: an exception within `threading.Condition` would leave its lock held.

    Raises:
        Whatever the call or a signal handler raises.
    """
    if threading.get_ident() == threading.main_thread().ident:
        results: queue.SimpleQueue[tuple[Value | None, BaseException | None]] = queue.SimpleQueue()

        def run() -> None:
            try:
                results.put((call(), None))
            except BaseException as error:
                results.put((None, error))

        _thread.start_new_thread(run, ())
        value, error = results.get()
        if error is not None:
            raise error
        return value  # type: ignore[return-value]
    return call()
