"""The router in front of the replicas: chooses one, forwards, and tries another if it is lost.

A request counts as accepted when its body was read. From then on it has an answer as long as replicas can be started: a
whole answer is sent only when it is complete, and a stream is replayed where its text is repeatable.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack

import anyio
import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vita.serve.auth import ClientSecrets, Gate
from vita.serve.body import Body, BodyMemory, check_json, media_type
from vita.serve.errors import ApiError, ClientSlow, unavailable
from vita.serve.options import ServeOptions
from vita.serve.replicas.forward import HOP_BY_HOP, Forwarded, Forwarder
from vita.serve.replicas.metrics import METRICS_TYPE, joined_metrics, router_metrics
from vita.serve.replicas.pool import Pool
from vita.serve.replicas.replay import replay_for
from vita.serve.replicas.routing import parse_object, routing_key
from vita.serve.server import State

log = logging.getLogger("vita.serve")
BIG_JSON = 256 << 10  # bytes; parsed beside the event loop


class Router:
    """The application.

    Args:
        pool: started.
        options: of the address that clients use.
        websocket: answers WebSockets.
    """

    def __init__(self, pool: Pool, options: ServeOptions) -> None:
        self._options = options
        self.forwarder = Forwarder(pool, options)
        self.pool, self._client, self.counters = pool, self.forwarder.client, self.forwarder.counters
        self.state: State = "ready"
        self.active = 0
        self._bodies = BodyMemory(options.limits.buffered_bytes)
        self._gate = Gate(options, ClientSecrets())  # each replica has its secrets, which open WebSockets only

    @property
    def options(self) -> ServeOptions:
        """How it listens."""
        return self._options

    async def close(self) -> None:
        """Close the connections to the replicas."""
        await self._client.aclose()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        if scope["path"] == "/health" and scope["method"] in ("GET", "HEAD"):
            await self._send_json(send, *self._health())
            return
        if scope["path"] == "/metrics" and scope["method"] == "GET":
            await self._send_metrics(scope, send)
            return
        started = False

        async def reply(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            with anyio.move_on_after(self._options.limits.idle_seconds) as timer:
                await send(message)
            if timer.cancelled_caught:
                log.info("a client did not read its answer; its connection is closed")
                raise ClientSlow

        self.active += 1
        self.counters.requests += 1
        body = Body(scope, receive, self._options.limits, self._bodies)
        try:
            if self.state != "ready":
                raise unavailable("The server is stopping.")
            if scope["method"] != "OPTIONS":  # a browser asks without a key if it may send one; a replica answers
                self._gate.caller(scope)
            with ExitStack() as stack:
                request = await self._read(scope, await body.read(stack), reply)
                await self._until_gone(receive, request)
        except ApiError as error:
            if started:
                raise
            await body.discard()
            await self._send_json(send, error.status, error.body(), {**error.headers, **self._cors(scope)})
        finally:
            self.active -= 1

    def _cors(self, scope: Scope) -> Mapping[str, str]:
        """So that a page of an allowed origin can read an error of the router; replicas send their headers."""
        origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1")
        allowed = self._options.allow_origins
        if not origin or not ("*" in allowed or origin.lower() in allowed):
            return {}
        return {"Access-Control-Allow-Origin": origin, "Vary": "Origin"}

    def _health(self) -> tuple[int, Mapping[str, object]]:
        ready = [replica.index for replica in self.pool.replicas if replica.url is not None]
        draining = self.state != "ready"
        status = "draining" if draining else "ok" if ready else "unavailable"
        counts = {"requests": self.counters.requests, "lost": self.counters.lost, "replayed": self.counters.replayed}
        fields = {"status": status, "replicas": len(self.pool.replicas), "ready": ready, **counts}
        return (200 if ready and not draining else 503), fields

    async def _send_json(
        self, send: Send, status: int, fields: Mapping[str, object], headers: Mapping[str, str] | None = None
    ) -> None:
        body = json.dumps(fields).encode()
        sent = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        sent += [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        await send({"type": "http.response.start", "status": status, "headers": sent})
        await send({"type": "http.response.body", "body": body})

    async def _send_metrics(self, scope: Scope, send: Send) -> None:
        """The metrics of all replicas that answer, and of the router; a refusal of one of them is passed on."""
        headers = [(name, value) for name, value in scope["headers"] if name not in HOP_BY_HOP]
        found: dict[int, str] = {}
        for replica in self.pool.replicas:
            if replica.url is None:
                continue
            try:
                response = await self._client.get(f"{replica.url}/metrics", headers=headers)
            except httpx.TransportError:
                continue
            if response.status_code != 200:
                kind = response.headers.get("content-type", "").encode()
                start = [(b"content-type", kind), (b"content-length", str(len(response.content)).encode())]
                await send({"type": "http.response.start", "status": response.status_code, "headers": start})
                await send({"type": "http.response.body", "body": response.content})
                return
            found[replica.index] = response.text
        body = (joined_metrics(found) + router_metrics(self.pool, self.counters)).encode()
        start = [(b"content-type", METRICS_TYPE), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": start})
        await send({"type": "http.response.body", "body": body})

    async def _read(self, scope: Scope, body: bytes, send: Send) -> Forwarded:
        headers = [(name, value) for name, value in scope["headers"] if name not in HOP_BY_HOP]
        named = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        target = scope.get("raw_path", scope["path"].encode()).decode("latin-1").partition("?")[0]
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("latin-1")
        fields = None
        if "json" in media_type(headers):
            if len(body) > BIG_JSON:
                await anyio.to_thread.run_sync(check_json, body, self._options.limits)
                fields = await anyio.to_thread.run_sync(parse_object, body)
            else:
                check_json(body, self._options.limits)
                fields = parse_object(body)
        path = scope["path"].rstrip("/")
        replay = replay_for(path, fields) if fields is not None and fields.get("stream") is True else None
        return Forwarded(scope["method"], target, path, headers, body, send, routing_key(named, fields), replay=replay)

    async def _until_gone(self, receive: Receive, request: Forwarded) -> None:
        """Forward; a client that leaves ends it, and the replica sees a closed connection.

        Raises:
            ApiError: as `Forwarder.forward`.
        """

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        work, watcher = asyncio.create_task(self.forwarder.forward(request)), asyncio.create_task(watch())
        try:
            await asyncio.wait({work, watcher}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                work.result()
        finally:
            work.cancel()
            watcher.cancel()
            await asyncio.gather(work, watcher, return_exceptions=True)


def as_app(router: Router, websocket: ASGIApp) -> ASGIApp:
    """The router as an application.

    Args:
        router: answers HTTP.
        websocket: answers WebSockets.
    """

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await websocket(scope, receive, send)
        elif scope["type"] == "http":
            await router.answer(scope, receive, send)

    return app
