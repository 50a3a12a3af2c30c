"""Forward one request: choose a replica, pass its answer on, and try another if it is lost.

A whole answer is sent only when it is complete, and a stream is replayed where its text is repeatable.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import anyio
import httpx
from starlette.types import Send

from vita.serve.errors import ApiError
from vita.serve.options import ServeOptions
from vita.serve.replicas.metrics import Counters
from vita.serve.replicas.pool import WAIT_SECONDS, Pool, Replica
from vita.serve.replicas.replay import PATHS_OF_RESPONSES, Diverged, Replay
from vita.serve.replicas.routing import parse_object
from vita.serve.sse import data_event

log = logging.getLogger("vita.serve")
MAX_LOSSES = 3  # replicas that one request may lose: it may be what ends them
RETRY_SECONDS = 0.25  # that it avoids one that it did not reach
LOST_SECONDS = 2.0  # that a request avoids a replica it lost, if that one is not started again before
HOP_BY_HOP = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"expect",
})  # fmt: skip
REPLICA_HEADER = b"x-vita-replica"  # of answers: the number of the replica that began it
MAX_SECRETS = 4096
MARGIN_SECONDS = 30.0  # a replica's own limit of time comes first
LOST = "The replica that answered was lost, and this answer cannot be repeated; send the request again."


class ReplicaLost(Exception):
    """The connection to a replica broke."""


class NotReached(ReplicaLost):
    """There was no connection: the replica has not seen the request."""


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
    avoid: dict[tuple[int, int], float] = field(default_factory=dict)


@dataclass(frozen=True)
class CompleteAnswer:
    """A complete answer of a replica."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Forwarder:
    """Forwards requests to the replicas of a pool.

    Args:
        pool: started.
        options: of the address that clients use.

    Attributes:
        client: connections to the replicas.
        counters: what happened so far.
        secrets: short-lived keys: which replica made them.
    """

    def __init__(self, pool: Pool, options: ServeOptions) -> None:
        self.pool, self.counters = pool, Counters()
        self.secrets: OrderedDict[str, int] = OrderedDict()
        self.client = httpx.AsyncClient(
            trust_env=False, follow_redirects=False,
            timeout=httpx.Timeout(options.limits.request_seconds + MARGIN_SECONDS, connect=10.0, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )  # fmt: skip

    async def forward(self, request: Forwarded) -> None:
        """Try replicas until one has answered.

        Raises:
            ApiError: none did, and the client has no status yet.
        """
        refused: CompleteAnswer | None = None
        losses, end = 0, time.monotonic() + WAIT_SECONDS
        while losses < MAX_LOSSES:
            try:
                replica = await self.pool.choose(request.key, request.avoid, request.index)
            except ApiError:
                if refused is None or request.started:
                    break
                await self._send_complete(request, refused)
                return
            replica.active += 1
            generation = replica.generation
            try:
                refused = await self._try(replica, request)
                if refused is None:
                    return
                request.avoid[replica.index, generation] = math.inf
            except NotReached:
                request.avoid[replica.index, generation] = time.monotonic() + RETRY_SECONDS
                if time.monotonic() > end:
                    break
            except ReplicaLost:
                losses += 1
                request.avoid[replica.index, generation] = time.monotonic() + LOST_SECONDS
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

    async def _try(self, replica: Replica, request: Forwarded) -> CompleteAnswer | None:
        """Forward to one replica; its answer if it refuses the request because it is busy or stops.

        Raises:
            ReplicaLost: the connection broke. Diverged: a replayed stream is another one.
        """
        url = replica.url
        if url is None:
            raise NotReached
        sent = self.client.build_request(
            request.method, url + request.target, headers=request.headers, content=request.body or None
        )
        try:
            response = await self.client.send(sent, stream=True)
            try:
                return await self._pass_on(replica, request, response)
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        except httpx.ConnectError as error:
            raise NotReached from error
        except httpx.TransportError as error:
            log.debug("replica %d: %r", replica.index, error)
            raise ReplicaLost from error

    async def _pass_on(self, replica: Replica, request: Forwarded, response: httpx.Response) -> CompleteAnswer | None:
        kind = response.headers.get("content-type", "")
        headers = [(name.lower(), value) for name, value in response.headers.raw if name.lower() not in HOP_BY_HOP]
        headers.append((REPLICA_HEADER, str(replica.index).encode()))
        streamed = "content-length" not in response.headers and request.method != "HEAD"
        if streamed and response.status_code == 200:
            await self._start(request, response.status_code, headers)
            pieces = _events(response) if kind.startswith("text/event-stream") else response.aiter_raw()
            async for piece in pieces:
                passed = piece if request.replay is None else request.replay(piece)
                if passed is not None:
                    await request.send({"type": "http.response.body", "body": passed, "more_body": True})
            await request.send({"type": "http.response.body", "body": b"", "more_body": False})
            return None
        answer = CompleteAnswer(
            response.status_code, headers, b"".join([piece async for piece in response.aiter_raw()])
        )
        if answer.status in (429, 503) or request.started:
            return answer
        self._note_secret(replica, request, answer)
        await self._send_complete(request, answer)
        return None

    async def _start(self, request: Forwarded, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        if request.started:
            return
        request.started = True
        await request.send({"type": "http.response.start", "status": status, "headers": headers})

    async def _send_complete(self, request: Forwarded, answer: CompleteAnswer) -> None:
        await self._start(request, answer.status, answer.headers)
        await request.send({"type": "http.response.body", "body": answer.body})

    def _note_secret(self, replica: Replica, request: Forwarded, answer: CompleteAnswer) -> None:
        """Remember who made a short-lived key: only that replica knows it."""
        if not request.path.endswith("/realtime/client_secrets") or answer.status != 200:
            return
        value = (parse_object(answer.body) or {}).get("value")
        if isinstance(value, str):
            self.secrets[value] = replica.index
            while len(self.secrets) > MAX_SECRETS:
                self.secrets.popitem(last=False)


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    """Complete server-sent events; half of one is dropped."""
    waiting = b""
    async for piece in response.aiter_raw():
        waiting += piece
        *complete, waiting = waiting.split(b"\n\n")
        for event in complete:
            yield event + b"\n\n"
