"""ASGI middleware before every route: ids, host, origin and key checks, limits of bodies, metrics.

A request body is read here, within its limits, and handed on in one piece.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import ExitStack

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vita.serve.auth import Tenant
from vita.serve.body import Body, checked_json, media_type, method_has_body
from vita.serve.errors import ApiError, ClientSlow, as_api_error, unavailable
from vita.serve.server import Server, new_id

log = logging.getLogger("vita.serve")
SECURITY_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


class Front:
    """The middleware.

    Args:
        app: what comes behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope["vita.request_id"] = new_id("req_")
        if len(scope["path"]) > 1 and scope["path"].endswith("/"):
            scope["path"] = scope["path"].rstrip("/") or "/"
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await _Request(self._app, scope, receive, send).run()

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            scope["vita.tenant"] = check_caller(scope)
            if not server_of_scope(scope).is_ready:
                raise unavailable("The model is not available.")
        except ApiError as error:
            await _deny(scope, receive, send, error)
            return
        await self._app(scope, receive, send)


def server_of_scope(scope: Scope) -> Server:
    """The server of an ASGI scope."""
    server = scope["app"].state.server
    assert isinstance(server, Server)
    return server


def check_caller(scope: Scope) -> Tenant:
    """Host, origin and key of a request or WebSocket.

    Raises:
        ApiError: 401 or 403.
    """
    return server_of_scope(scope).gate.caller(scope)


async def _deny(scope: Scope, receive: Receive, send: Send, error: ApiError) -> None:
    """Refuse a WebSocket with an HTTP status before the upgrade."""
    await receive()  # "websocket.connect"
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008, "reason": error.code or ""})
        return
    response = error.response()
    await send(
        {"type": "websocket.http.response.start", "status": response.status_code, "headers": response.raw_headers}
    )
    await send({"type": "websocket.http.response.body", "body": response.body})


class _Request:
    """One HTTP request on its way through the middleware."""

    def __init__(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        self._app, self._scope, self._receive, self._send = app, scope, receive, send
        self._server = server_of_scope(scope)
        self._limits = self._server.options.limits
        self._method: str = scope["method"]
        self._status = 0
        self._body = Body(scope, receive, self._limits, self._server.bodies)
        self._began = time.monotonic()
        self._sending = 0.0  # since when a piece of the answer waits for the client; 0: none does
        self._slow = False

    async def run(self) -> None:
        """Answer, count, log."""
        self._task = asyncio.current_task()
        self._watch = asyncio.get_running_loop().call_later(self._limits.idle_seconds, self._end_if_slow)
        try:
            await self._checked()
        except asyncio.CancelledError:
            if not self._slow:
                raise
            raise ClientSlow from None
        except ApiError as error:
            if self._status:
                raise
            await self._body.discard()
            await error.response()(self._scope, self._receive, self._reply)
        except Exception as error:
            if self._status:
                raise
            log.exception("request %s failed", self._scope["vita.request_id"])
            await as_api_error(error).response()(self._scope, self._receive, self._reply)
        finally:
            self._watch.cancel()
            seconds = time.monotonic() - self._began
            route = getattr(self._scope.get("route"), "path", "other")
            self._server.metrics.request(route, self._status, seconds)
            probed = route == "/health" and self._status == 200  # by routers and orchestrators, every few seconds
            log.log(
                logging.DEBUG if probed else logging.INFO, "%s %s %d %.3f s %s", self._method, route, self._status,
                seconds, self._scope["vita.request_id"],
            )  # fmt: skip

    def _end_if_slow(self) -> None:
        """Looks at the piece that waits, if one does: a timer for each piece would take longer than sending it."""
        waits = time.monotonic() - self._sending if self._sending else 0.0
        if waits >= self._limits.idle_seconds and self._task is not None:
            log.info("a client did not read its answer; its connection is closed")
            self._slow = True
            self._task.cancel()
            return
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(self._limits.idle_seconds - waits, self._end_if_slow)

    async def _checked(self) -> None:
        scope = self._scope
        scope["vita.tenant"] = check_caller(scope)
        if self._method == "HEAD":  # routes know GET only; the protocol leaves the body out
            scope = self._scope = {**scope, "method": "GET"}
        if not method_has_body(self._method):
            await self._app(scope, self._receive, self._reply)
            return
        with ExitStack() as stack:
            stack.enter_context(self._server.admit())
            body = await self._read_body(stack)
            handed_on = False

            async def receive() -> Message:
                nonlocal handed_on
                if handed_on:
                    return await self._receive()  # "http.disconnect"
                handed_on = True
                return {"type": "http.request", "body": body, "more_body": False}

            await self._app(scope, receive, self._reply)

    async def _reply(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            headers = [*message.get("headers", ()), *SECURITY_HEADERS]
            headers.append((b"x-request-id", self._scope["vita.request_id"].encode()))
            message = {**message, "headers": headers}
        self._sending = time.monotonic()
        await self._send(message)
        self._sending = 0.0

    async def _read_body(self, stack: ExitStack) -> bytes:
        """The body within its limits, and JSON that can be parsed.

        Raises:
            ApiError: as `Body.read` and `checked_json`.
        """
        try:
            body = await self._body.read(stack)
        except ApiError as error:
            if error.code == "body_too_large":
                self._server.metrics.refused("body")
            raise
        if media_type(self._scope["headers"]) == "multipart/form-data":
            return body
        return checked_json(body, self._limits)
