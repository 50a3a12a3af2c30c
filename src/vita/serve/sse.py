"""Server-sent events with pings; when the client is gone, the request is cancelled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from vita.serve.errors import JSON, as_api_error

PING_SECONDS = 15.0
DELTA_SECONDS = 0.01  # text that comes within this time of the last delta is sent with the next one
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"


def data_event(value: JSON, event: str | None = None) -> bytes:
    """One event with a JSON value. ASCII only: some clients split lines at Unicode's line separators."""
    head = "" if event is None else f"event: {event}\n"
    return f"{head}data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


class EventStream(Response):
    """A response that sends events while they come.

    Args:
        events: encoded events. An error in it is sent as an event with OpenAI's error object, and ends the stream.
        cancel: called when the client is gone, or when the stream ends for any reason.
        media_type: of the response; pings are sent in event streams only.
    """

    media_type = "text/event-stream"
    charset = "utf-8"

    def __init__(
        self, events: AsyncGenerator[bytes, None], cancel: Callable[[], None], media_type: str = "text/event-stream"
    ) -> None:
        super().__init__(media_type=media_type, headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events, self._cancel = events, cancel
        self._pings = media_type == "text/event-stream"
        self._quiet = True  # nothing was sent since the last ping
        self._gone = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with cancelled_when_gone(receive, self._client_gone), _beside(self._ping(send)):
                await self._send_all(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._cancel()
            await self._events.aclose()

    def _client_gone(self) -> None:
        self._gone = True
        self._cancel()

    async def _send_all(self, send: Send) -> None:
        try:
            async for event in self._events:
                self._quiet = False
                await send({"type": "http.response.body", "body": event, "more_body": True})
                if self._gone:
                    return
        except Exception as error:
            if not self._pings:  # bytes of a file: its client sees that it breaks off
                raise
            body = data_event(as_api_error(error).body())
            await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _ping(self, send: Send) -> None:
        while self._pings:
            await asyncio.sleep(PING_SECONDS)
            if self._quiet:
                await send({"type": "http.response.body", "body": PING, "more_body": True})
            self._quiet = True


@asynccontextmanager
async def cancelled_when_gone(receive: Receive, cancel: Callable[[], None]) -> AsyncIterator[None]:
    """Cancel a request whose client closes the connection inside the block.

    Args:
        receive: of a request whose body was read.
        cancel: of the request.
    """

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        cancel()

    async with _beside(watch()):
        yield


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Run something in a task of its own as long as the block lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
