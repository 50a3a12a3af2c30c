"""The router by itself: what it refuses before a replica is asked, and before a body is read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.types import Message, Scope

from vita.serve.errors import ClientSlow
from vita.serve.options import Limits, ServeOptions
from vita.serve.replicas.router import Router

KEY = "a-long-enough-key"
CHAT = "/v1/chat/completions"
NAMES = {"host": "127.0.0.1:8000", "authorization": f"Bearer {KEY}", "content-type": "application/json"}


def options(**limits: Any) -> ServeOptions:
    return ServeOptions(port=0, api_keys=(KEY,), allow_origins=("https://a.example",), limits=Limits(**limits))


class Caller:
    """One request, its pieces sent one after another."""

    def __init__(self, pieces: Sequence[bytes], *, wait: float = 0.0, reads: bool = True, **headers: str) -> None:
        self.pieces, self.wait, self.reads = list(pieces), wait, reads
        self.headers = NAMES | {name.replace("_", "-"): value for name, value in headers.items()}
        self.sent: list[Message] = []
        self.received = 0

    async def receive(self) -> Message:
        if not self.pieces:
            await asyncio.Event().wait()
        await asyncio.sleep(self.wait)
        self.received += 1
        piece = self.pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}

    async def send(self, message: Message) -> None:
        if not self.reads:
            await asyncio.Event().wait()
        self.sent.append(message)

    @property
    def scope(self) -> Scope:
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items() if value]
        return {"type": "http", "method": "POST", "path": CHAT, "query_string": b"", "headers": headers}

    @property
    def answer(self) -> tuple[int, str]:
        return self.sent[0]["status"], json.loads(self.sent[1]["body"])["error"]["code"] or ""


def ask(caller: Caller, found: ServeOptions | None = None, forward: Any = None) -> Caller:
    async def once() -> None:
        router = Router(SimpleNamespace(replicas=[]), found or options())  # type: ignore[arg-type]
        if forward is not None:
            router.forwarder.forward = forward  # type: ignore[method-assign]
        await asyncio.wait_for(router.answer(caller.scope, caller.receive, caller.send), 30)

    asyncio.run(once())
    return caller


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"authorization": ""}, 401),
        ({"authorization": "Bearer wrong-key-of-somebody"}, 401),
        ({"origin": "https://b.example"}, 403),
        ({"host": "evil.example"}, 403),
    ],
)
def test_strangers_are_refused_before_their_body_is_kept(headers: dict[str, str], status: int) -> None:
    kept: list[int] = []
    caller = Caller([b"{"], **headers)
    assert ask(caller, forward=kept.append).answer[0] == status and not kept


def test_an_allowed_page_can_read_the_refusal() -> None:
    caller = ask(Caller([b"{"], authorization="", origin="https://a.example"))
    assert (b"access-control-allow-origin", b"https://a.example") in caller.sent[0]["headers"]


def test_bodies_have_limits() -> None:
    assert ask(Caller([b"x" * 60] * 3), options(body_bytes=100)).answer == (413, "body_too_large")
    assert ask(Caller([b"x" * 60] * 3), options(buffered_bytes=100)).answer == (429, "queue_full")
    assert ask(Caller([b"["] * 9, wait=0.06), options(idle_seconds=0.1)).answer[0] == 408
    many = b'{"messages": [' + b"{}," * 200_001 + b"{}]}"
    assert ask(Caller([many])).answer[0] == 400
    assert ask(Caller([b"[" * 100_000])).answer[0] == 400


def test_a_client_that_reads_nothing_is_cut_off() -> None:
    async def forward(request: Any) -> None:
        await request.send({"type": "http.response.start", "status": 200, "headers": []})

    with pytest.raises(ClientSlow):
        ask(Caller([b"{}"], reads=False), options(idle_seconds=0.1), forward)
