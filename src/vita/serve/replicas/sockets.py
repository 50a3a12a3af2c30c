"""Realtime sessions: a WebSocket of a client, connected to one replica."""

from __future__ import annotations

import asyncio
import logging

import httpx
import websockets
from starlette.types import Receive, Scope, Send
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

from vita.serve.auth import SECRET_PREFIX, offered_key
from vita.serve.errors import ApiError
from vita.serve.listen import SOCKET_MESSAGE_BYTES
from vita.serve.replicas.forward import HOP_BY_HOP
from vita.serve.replicas.router import Router
from vita.serve.replicas.routing import SESSION_HEADER

log = logging.getLogger("vita.serve")
GONE = 1012  # "service restart": the client may connect again
OPEN_SECONDS = 30.0
HANDSHAKE = (b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions", b"sec-websocket-protocol")


class SocketRouter:
    """The application for WebSockets.

    A session ends with its replica: the socket is closed with code 1012, and the client connects again.

    Args:
        router: whose replicas and short-lived keys these are.
    """

    def __init__(self, router: Router) -> None:
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # "websocket.connect"
        named = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        key = offered_key(named) or ""
        index = self._router.forwarder.secrets.get(key) if key.startswith(SECRET_PREFIX) else None
        session = named.get(SESSION_HEADER)
        try:
            replica = await self._router.pool.choose(
                b"session " + session.encode(errors="replace") if session else None, {}, index
            )
        except ApiError as error:
            await _deny(scope, send, error.status, error.response().raw_headers, bytes(error.response().body))
            return
        replica.active += 1
        try:
            await self._connect(scope, receive, send, httpx.URL(replica.url or ""))
        finally:
            replica.active -= 1

    async def _connect(self, scope: Scope, receive: Receive, send: Send, url: httpx.URL) -> None:
        target = scope["path"] + ("?" + scope["query_string"].decode("latin-1") if scope["query_string"] else "")
        headers = [
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]
            if name not in HOP_BY_HOP and name not in HANDSHAKE and name not in (b"host", b"user-agent")
        ]  # fmt: skip
        host = dict(scope["headers"]).get(b"host", b"").decode("latin-1") or f"{url.host}:{url.port}"
        offered = [Subprotocol(name) for name in scope.get("subprotocols", ())]
        try:
            async with connect(
                f"ws://{host}{target}", host=url.host, port=url.port,  # connects there and keeps the Host header
                additional_headers=headers, subprotocols=offered or None, proxy=None, compression=None,
                max_size=SOCKET_MESSAGE_BYTES, open_timeout=OPEN_SECONDS, user_agent_header=None, ping_interval=None,
            ) as there:  # fmt: skip
                await send({"type": "websocket.accept", "subprotocol": there.subprotocol})
                await _exchange(there, receive, send)
        except websockets.InvalidStatus as error:
            response = error.response
            sent = [(name.lower().encode(), value.encode()) for name, value in response.headers.raw_items()]
            sent = [(name, value) for name, value in sent if name not in HOP_BY_HOP]
            await _deny(scope, send, response.status_code, sent, bytes(response.body or b""))
        except (OSError, websockets.InvalidHandshake, websockets.InvalidURI, TimeoutError, asyncio.TimeoutError):
            log.warning("a realtime session cannot be opened: its replica is not there")
            await _deny(scope, send, 503, [], b"")


async def _exchange(there: ClientConnection, receive: Receive, send: Send) -> None:
    """Pass messages on in both directions until one side closes."""

    async def to_replica() -> None:
        while True:
            message = await receive()
            if message["type"] == "websocket.disconnect":
                await there.close(message.get("code") or 1000)
                return
            text = message.get("text")
            await there.send(message.get("bytes", b"") if text is None else text)

    async def to_client() -> None:
        try:
            async for data in there:
                kind = "text" if isinstance(data, str) else "bytes"
                await send({"type": "websocket.send", kind: data})
        except websockets.ConnectionClosed:
            pass  # the code is read below
        code = there.close_code if there.close_code not in (None, 1005, 1006) else GONE
        if there.close_code == 1005:
            code = 1000
        await send({"type": "websocket.close", "code": code, "reason": there.close_reason or ""})

    tasks = [asyncio.create_task(to_replica()), asyncio.create_task(to_client())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _deny(scope: Scope, send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Refuse a WebSocket with an HTTP status before the upgrade."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
