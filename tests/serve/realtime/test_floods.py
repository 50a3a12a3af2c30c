"""Floods over WebSockets: oversize frames, events without end, clients that read nothing, too many connections."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import connect

import vita
from tests.serve.realtime.client import connected
from tests.serve.realtime.wire import CATALOG
from tests.serve.running import Running, running
from vita.serve.auth import Tenant
from vita.serve.listen import SOCKET_MESSAGE_BYTES
from vita.serve.options import Limits, ServeOptions
from vita.serve.realtime.connection import Connection
from vita.serve.realtime.outbox import MAX_UNREAD
from vita.serve.realtime.session import new_session
from vita.speech.listener import ListenerThread
from vita.speech.vad import load_vad


def answers(served: Running) -> bool:
    """Whether another client gets an answer."""
    with connected(served) as client:
        client.update(output_modalities=["text"])
        client.create_text("Hello")
        client.send("response.create")
        return bool(client.until("response.done")["response"]["status"] == "completed")


def test_an_oversize_frame_ends_its_connection_only(served: Running) -> None:
    with connected(served) as client:
        client.receive()
        with pytest.raises(ConnectionClosed) as closed:
            client.send_text(json.dumps({"type": "x", "x": "a" * SOCKET_MESSAGE_BYTES}))
            client.receive()
        assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
    assert answers(served)


def test_a_flood_of_events_does_not_hold_up_other_clients(served: Running) -> None:
    with connected(served) as flood:
        for n in range(300):
            flood.send("response.cancel", event_id=str(n))
            flood.send("session.update", session={"type": "realtime"})
            if n == 150:
                assert answers(served)
        flood.send("session.update", session={"type": "realtime", "instructions": "last"})
        flood.until("session.updated", lambda event: event["session"]["instructions"] == "last")
        assert flood.wire.kinds().count("error") == 300 and flood.wire.kinds().count("session.updated") == 301


def test_nothing_piles_up_for_a_client_that_reads_nothing(served: Running) -> None:
    class Deaf:
        """Sends events for ever, and its connection takes nothing."""

        received = 0

        async def receive(self) -> str | None:
            self.received += 1
            await asyncio.sleep(0)
            return json.dumps({"type": "response.cancel"})

        async def send(self, text: str) -> None:
            await asyncio.Event().wait()

    async def main() -> None:
        thread = ListenerThread()
        socket, session = Deaf(), new_session("sess", CATALOG, 0)
        connection = Connection(socket, served.server, Tenant(), session, load_vad(), thread)
        task = asyncio.create_task(connection.run())
        await asyncio.sleep(1)
        assert MAX_UNREAD <= socket.received < MAX_UNREAD + 10
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        thread.close()

    asyncio.run(main())


def test_connections_have_a_limit_and_come_back(embedded: vita.Vita) -> None:
    with running(embedded, ServeOptions(port=0, limits=Limits(sockets=4))) as served:
        held = [connected(served) for _ in range(4)]
        for one in held:
            one.__enter__().receive()
        with pytest.raises((InvalidHandshake, ConnectionClosed, ConnectionError, EOFError)), connected(served):
            pass
        for one in held:
            one.__exit__(None, None, None)
        until = time.monotonic() + 30
        while True:
            try:
                assert answers(served)
                break
            except (InvalidHandshake, ConnectionClosed, ConnectionError, EOFError):
                assert time.monotonic() < until
                time.sleep(0.1)


@pytest.mark.parametrize("header", [{"Origin": "https://evil.example"}, {"Host": "evil.example"}])
def test_pages_of_other_sites_get_no_connection(served: Running, header: dict[str, str]) -> None:
    url = served.url.replace("http", "ws", 1) + "/v1/realtime"
    more = {"origin": header["Origin"]} if "Origin" in header else {"additional_headers": header}
    with pytest.raises(InvalidStatus) as refused, connect(url, proxy=None, **more):  # type: ignore[arg-type]
        pass
    assert refused.value.response.status_code in (400, 403)
