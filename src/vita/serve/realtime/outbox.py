"""Events on their way to one client: in order, bounded, and without deltas of a response that was cancelled."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Mapping

from vita.serve.realtime.dialect import server_event_to_beta
from vita.serve.realtime.events import DELTAS, Event

MAX_WAITING = 64  # events; generators wait while more than so many are not sent
MAX_UNREAD = 1024  # events; nothing more is read of a client that leaves so many unread


class Outbox:
    """Takes events at once, and sends them one after another.

    Args:
        send: sends a text message.
        beta: in the beta dialect.
    """

    def __init__(self, send: Callable[[str], Awaitable[None]], *, beta: bool) -> None:
        self._send, self._beta = send, beta
        self._events: deque[Event] = deque()
        self._changed = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()

    @property
    def waiting(self) -> int:
        """Events that are not sent yet."""
        return len(self._events)

    def put(self, event: Event) -> None:
        """Add an event. The end of a cancelled response takes back its deltas that were not sent yet."""
        response = event.get("response")
        if event["type"] == "response.done" and isinstance(response, Mapping) and response["status"] == "cancelled":
            kept = [one for one in self._events if not is_delta_of(one, response["id"])]
            self._events = deque(kept)
        self._events.append(event)
        self._changed.set()
        if len(self._events) > MAX_WAITING:
            self._drained.clear()

    async def wait_drained(self) -> None:
        """Wait while the client is far behind."""
        await self._drained.wait()

    async def wait_read(self) -> None:
        """Wait while the client reads nothing of what it causes."""
        while len(self._events) > MAX_UNREAD:
            await self._drained.wait()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            while self._events:
                event: Event | None = self._events.popleft()
                if len(self._events) <= MAX_WAITING // 2:
                    self._drained.set()
                if self._beta and event is not None:
                    event = server_event_to_beta(event)
                if event is not None:
                    await self._send(json.dumps(event, ensure_ascii=False, separators=(",", ":")))
            self._changed.clear()
            await self._changed.wait()


def is_delta_of(event: Event, response_id: object) -> bool:
    """Whether an event is a delta of this response."""
    return event["type"] in DELTAS and event["response_id"] == response_id
