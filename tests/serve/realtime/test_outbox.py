"""The outbox: order, dialect, deltas of a cancelled response taken back, and a client that does not read."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from vita.serve.realtime.events import Event, make_event
from vita.serve.realtime.outbox import MAX_WAITING, Outbox


def delta(response_id: str, text: str) -> Event:
    return make_event(
        "response.output_text.delta", response_id=response_id, item_id="i", output_index=0, content_index=0, delta=text
    )


def done(response_id: str, status: str) -> Event:
    return make_event("response.done", response={"id": response_id, "status": status})


def sent(events: list[Event], *, beta: bool = False) -> list[Any]:
    """What is sent of events that were put before the client read any."""
    texts: list[str] = []

    async def run() -> None:
        async def send(text: str) -> None:
            texts.append(text)

        outbox = Outbox(send, beta=beta)
        for event in events:
            outbox.put(event)
        task = asyncio.create_task(outbox.run())
        while len(texts) == 0 or outbox.waiting:
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())
    return [json.loads(text) for text in texts]


def test_events_keep_their_order() -> None:
    events = [delta("r", str(number)) for number in range(5)]
    assert sent(events) == events


def test_deltas_of_a_cancelled_response_are_taken_back() -> None:
    events = [delta("a", "heard"), done("a", "completed"), delta("b", "late"), done("b", "cancelled")]
    assert [(e["type"].split(".")[-1], e.get("response_id")) for e in sent(events)] == [
        ("delta", "a"), ("done", None), ("done", None),
    ]  # fmt: skip


def test_a_completed_response_keeps_its_deltas() -> None:
    assert len(sent([delta("a", "1"), done("a", "completed")])) == 2


def test_beta_names() -> None:
    item = {"id": "i", "role": "user", "content": []}
    events = [
        make_event("conversation.item.added", previous_item_id=None, item=item),
        make_event("conversation.item.done", previous_item_id=None, item=item), delta("r", "x"),
    ]  # fmt: skip
    assert [e["type"] for e in sent(events, beta=True)] == ["conversation.item.created", "response.text.delta"]


def test_generators_wait_for_a_client_that_does_not_read() -> None:
    async def run() -> None:
        may_send = asyncio.Event()

        async def send(text: str) -> None:
            await may_send.wait()

        outbox = Outbox(send, beta=False)
        task = asyncio.create_task(outbox.run())
        for number in range(MAX_WAITING + 2):
            await asyncio.wait_for(outbox.wait_drained(), 5)
            outbox.put(delta("r", str(number)))
        waiting = asyncio.create_task(outbox.wait_drained())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        may_send.set()
        await asyncio.wait_for(waiting, 5)
        task.cancel()

    asyncio.run(run())
