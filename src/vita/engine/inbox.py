"""Inbox: messages to the engine thread, from any thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator

MAX_WAIT = 3600.0  # seconds; what a lock can wait for is bounded, a deadline is not

Message = Callable[[], None]  # runs in the engine thread


class Inbox:
    """A queue that the engine thread empties between steps and waits on when there is nothing to compute."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._changed = threading.Condition()
        self._woken = False

    def post(self, message: Message) -> None:
        """Have a function called in the engine thread before its next step."""
        with self._changed:
            self._messages.append(message)
            self._changed.notify()

    def wake(self) -> None:
        """End a `wait`, or the next one if the engine thread does not wait now."""
        with self._changed:
            self._woken = True
            self._changed.notify()

    @property
    def changed(self) -> bool:
        """Whether there is a message or a `wake` that was not taken."""
        return bool(self._messages) or self._woken

    def drain(self) -> Iterator[Message]:
        """Messages, oldest first, until there is none. If one raises, the rest stay in the queue."""
        with self._changed:
            self._woken = False
        while self._messages:
            yield self._messages.popleft()  # atomic: only the engine thread takes messages

    def wait(self, timeout: float | None) -> None:
        """Until there is a message, a `wake`, or `timeout` seconds passed."""
        if timeout is not None:
            timeout = min(timeout, MAX_WAIT)
        with self._changed:
            self._changed.wait_for(lambda: self.changed, timeout)
            self._woken = False
