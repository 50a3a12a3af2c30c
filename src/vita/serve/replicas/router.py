"""The router in front of the replicas: chooses one, forwards, and tries another if it is lost.

A request counts as accepted when its body was read. From then on it has an answer as long as replicas can be started: a
whole answer is sent only when it is complete, and a stream is replayed where its text is repeatable.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import anyio
import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vita.serve.errors import ApiError, too_busy, unavailable
from vita.serve.options import ServeOptions
from vita.serve.replicas.pool import Pool, Replica
from vita.serve.replicas.replay import PATHS_OF_RESPONSES, Diverged, Replay, replay_for
from vita.serve.replicas.routing import routing_key
from vita.serve.server import State
from vita.serve.sse import data_event

log = logging.getLogger("vita.serve")
MAX_LOSSES = 3  # replicas that one request may lose: it may be what ends them
HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
MAX_SECRETS = 4096
BIG_JSON = 256 << 10  # bytes; parsed beside the event loop
MARGIN_SECONDS = 30.0  # a replica's own limit of time comes first
LOST = "The replica that answered was lost, and this answer cannot be repeated; send the request again."


class ReplicaLost(Exception):
    """The connection to a replica broke."""


@dataclass
class Counters:
    """What happened so far."""

    requests: int = 0
    lost: int = 0  # tries that a replica did not survive
    replayed: int = 0  # streams that went on at another replica


@dataclass
class Forwarded:
    """One request on its way.

    Attributes:
        headers: names in lower case, without those of the connection.
        key: of its routing.
        index: of the replica that it must have, if it is there.
        replay: how its stream is replayed; None: not at all.
        started: the client has the status of the answer.
    """

    method: str
    target: str
    path: str
    headers: list[tuple[bytes, bytes]]
    body: bytes
    send: Send
    key: bytes | None = None
    index: int | None = None
    replay: Replay | None = None
    started: bool = False
    avoid: set[tuple[int, int]] = field(default_factory=set)


class Router:
    """The application.

    Args:
        pool: started.
        options: of the address that clients use.
        websocket: answers WebSockets.
    """

    def __init__(self, pool: Pool, options: ServeOptions) -> None:
        self.pool, self._options = pool, options
        self.state: State = "ready"
        self.active = 0
        self.counters = Counters()
        self.secrets: OrderedDict[str, int] = OrderedDict()  # short-lived keys: which replica made them
        self._buffered = 0
        self._client = httpx.AsyncClient(
            trust_env=False, follow_redirects=False,
            timeout=httpx.Timeout(options.limits.request_seconds + MARGIN_SECONDS, connect=10.0, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )  # fmt: skip

    @property
    def options(self) -> ServeOptions:
        """How it listens."""
        return self._options

    async def close(self) -> None:
        """Close the connections to the replicas."""
        await self._client.aclose()

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request."""
        started = False

        async def reply(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        if scope["path"] == "/health" and scope["method"] in ("GET", "HEAD"):
            await self._send_json(send, *self._health())
            return
        self.active += 1
        self.counters.requests += 1
        size = 0
        try:
            if self.state != "ready":
                raise unavailable("The server is stopping.")
            body = await self._read_body(scope, receive)
            size = len(body)
            self._buffered += size
            if self._buffered > self._options.limits.buffered_bytes:
                raise too_busy("The bodies of the requests in progress take too much memory; try again later.")
            request = await self._read(scope, body, reply)
            await self._until_gone(receive, request)
        except ApiError as error:
            if started:
                raise
            await self._send_json(send, error.status, error.body(), error.headers)
        finally:
            self._buffered -= size
            self.active -= 1

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

    async def _read_body(self, scope: Scope, receive: Receive) -> bytes:
        """The body, within its limits of size and time.

        Raises:
            ApiError: 408 or 413.
        """
        limits = self._options.limits
        declared = dict(scope["headers"]).get(b"content-length", b"")
        too_large = ApiError(
            413, f"The body of a request may have {limits.body_bytes:,} bytes at most.", code="body_too_large",
            headers={"Connection": "close"},
        )  # fmt: skip
        if declared.isdigit() and (len(declared) > 18 or int(declared) > limits.body_bytes):
            raise too_large
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            with anyio.move_on_after(limits.idle_seconds) as timer:
                message = await receive()
            if timer.cancelled_caught:
                raise ApiError(408, "The body of the request arrived too slowly.", headers={"Connection": "close"})
            if message["type"] == "http.disconnect":
                raise ApiError(400, "The client closed the connection.")
            chunks.append(message.get("body", b""))
            size, more = size + len(chunks[-1]), message.get("more_body", False)
            if size > limits.body_bytes:
                raise too_large
        return b"".join(chunks)

    async def _read(self, scope: Scope, body: bytes, send: Send) -> Forwarded:
        headers = [(name, value) for name, value in scope["headers"] if name not in HOP_BY_HOP]
        named = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        target = scope.get("raw_path", scope["path"].encode()).decode("latin-1").partition("?")[0]
        if scope["query_string"]:
            target += "?" + scope["query_string"].decode("latin-1")
        fields = None
        if "json" in named.get("content-type", ""):
            fields = await anyio.to_thread.run_sync(_parse, body) if len(body) > BIG_JSON else _parse(body)
        path = scope["path"].rstrip("/")
        replay = replay_for(path, fields) if fields is not None and fields.get("stream") is True else None
        return Forwarded(
            scope["method"], target, path, headers, body, send, routing_key(named, fields), replay=replay
        )

    async def _until_gone(self, receive: Receive, request: Forwarded) -> None:
        """Forward; a client that leaves ends it, and the replica sees a closed connection."""
        async with anyio.create_task_group() as group:

            async def watch() -> None:
                while (await receive())["type"] != "http.disconnect":
                    pass
                group.cancel_scope.cancel()

            group.start_soon(watch)
            await self._forward(request)
            group.cancel_scope.cancel()

    async def _forward(self, request: Forwarded) -> None:
        """Try replicas until one has answered.

        Raises:
            ApiError: none did, and the client has no status yet.
        """
        refused: httpx.Response | None = None
        losses = 0
        while losses < MAX_LOSSES:
            try:
                replica = await self.pool.choose(request.key, request.avoid, request.index)
            except ApiError:
                if refused is None or request.started:
                    break
                await self._send_whole(request, refused)
                return
            replica.active += 1
            generation = replica.generation
            try:
                refused = await self._try(replica, request)
                if refused is None:
                    return
            except ReplicaLost:
                losses += 1
                self.counters.lost += 1
                log.warning("a request has lost replica %d", replica.index)
                if request.started and request.replay is None:
                    break
                if request.started and request.replay is not None:
                    self.counters.replayed += 1
                    request.replay.restart()
            except Diverged:
                break
            finally:
                replica.active -= 1
            request.avoid.add((replica.index, generation))
        if not request.started:
            raise ApiError(502, "The replicas that took this request were lost.", "server_error", code="replica_lost")
        await self._end_with_error(request)

    async def _end_with_error(self, request: Forwarded) -> None:
        error = ApiError(502, LOST, "server_error", code="replica_lost")
        event = data_event(error.body())
        if request.path in PATHS_OF_RESPONSES:
            event = data_event({"type": "error", "code": error.code, "message": error.message, "param": None}, "error")
        await request.send({"type": "http.response.body", "body": event, "more_body": True})
        await request.send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _try(self, replica: Replica, request: Forwarded) -> httpx.Response | None:
        """Forward to one replica; its answer if it refuses the request because it is busy or stops.

        Raises:
            ReplicaLost: the connection broke. Diverged: a replayed stream is another one.
        """
        url, generation = replica.url, replica.generation
        if url is None:
            raise ReplicaLost
        sent = self._client.build_request(
            request.method, url + request.target, headers=request.headers, content=request.body or None
        )
        try:
            response = await self._client.send(sent, stream=True)
            try:
                return await self._pass_on(replica, request, response)
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        except httpx.TransportError as error:
            if replica.url == url and replica.generation == generation:
                log.debug("replica %d: %r", replica.index, error)
            raise ReplicaLost from error

    async def _pass_on(self, replica: Replica, request: Forwarded, response: httpx.Response) -> httpx.Response | None:
        kind = response.headers.get("content-type", "")
        streamed = "content-length" not in response.headers and request.method != "HEAD"
        if streamed and response.status_code == 200:
            await self._start(request, response)
            pieces = _events(response) if kind.startswith("text/event-stream") else response.aiter_raw()
            async for piece in pieces:
                passed = piece if request.replay is None else request.replay(piece)
                if passed is not None:
                    await request.send({"type": "http.response.body", "body": passed, "more_body": True})
            await request.send({"type": "http.response.body", "body": b"", "more_body": False})
            return None
        response._content = b"".join([piece async for piece in response.aiter_raw()])
        if response.status_code in (429, 503) or request.started:
            return response
        self._note_secret(replica, request, response)
        await self._send_whole(request, response)
        return None

    async def _start(self, request: Forwarded, response: httpx.Response) -> None:
        if request.started:
            return
        request.started = True
        headers = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in HOP_BY_HOP]
        await request.send({"type": "http.response.start", "status": response.status_code, "headers": headers})

    async def _send_whole(self, request: Forwarded, response: httpx.Response) -> None:
        await self._start(request, response)
        await request.send({"type": "http.response.body", "body": response._content})

    def _note_secret(self, replica: Replica, request: Forwarded, response: httpx.Response) -> None:
        """Remember who made a short-lived key: only that replica knows it."""
        if not request.path.endswith("/realtime/client_secrets") or response.status_code != 200:
            return
        value = (_parse(response._content) or {}).get("value")
        if isinstance(value, str):
            self.secrets[value] = replica.index
            while len(self.secrets) > MAX_SECRETS:
                self.secrets.popitem(last=False)


def _parse(body: bytes) -> dict[str, object] | None:
    """The JSON object of a body; None if it is none, which a replica will say."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    """Complete server-sent events; half of one is dropped."""
    waiting = b""
    async for piece in response.aiter_raw():
        waiting += piece
        *complete, waiting = waiting.split(b"\n\n")
        for event in complete:
            yield event + b"\n\n"


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


