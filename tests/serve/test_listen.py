"""Connections: slow clients, too many of them, big headers; full queues; a stop that lets requests end."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from starlette.types import Receive, Scope, Send

import vita
from tests.serve.running import Running, running
from tests.serve.test_chat import wait_for
from vita.errors import RequestError
from vita.serve.body import check_json
from vita.serve.errors import ApiError, ClientSlow
from vita.serve.front import Front
from vita.serve.listen import base_url, make_certificate, open_socket
from vita.serve.options import Limits, ServeOptions

CHAT = "/v1/chat/completions"
HELLO = {"messages": [{"role": "user", "content": "What can you do?"}]}
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


def connect(served: Running) -> socket.socket:
    host, port = served.url.removeprefix("http://").split(":")
    made = socket.create_connection((host, int(port)), timeout=30)
    return made


def answer_of(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    found = b""
    try:
        while block := connection.recv(65536):
            found += block
    except ConnectionResetError:
        pass
    return found


class TestSlowClients:
    @pytest.fixture(scope="class")
    @classmethod
    def strict(cls, embedded: vita.Vita) -> object:
        with running(embedded, ServeOptions(port=0, limits=Limits(idle_seconds=1.0, min_rate=100_000))) as served:
            yield served

    def test_headers_that_never_end_are_cut_off(self, strict: Running) -> None:
        for start in (b"", b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"):
            with connect(strict) as connection:
                connection.sendall(start)
                assert answer_of(connection) == b""

    def test_headers_that_drip_are_cut_off(self, strict: Running) -> None:
        with connect(strict) as connection:
            began = time.monotonic()
            with pytest.raises(OSError):
                for _ in range(100):
                    connection.sendall(b"X")
                    time.sleep(0.1)
            assert time.monotonic() - began < 9

    def test_the_second_request_of_a_connection_may_not_drip_either(self, strict: Running) -> None:
        with connect(strict) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert b"200 OK" in connection.recv(65536)
            connection.sendall(b"GET /hea")
            assert b"200 OK" not in answer_of(connection)

    def test_headers_without_end_are_refused_at_their_limit(self, strict: Running) -> None:
        with connect(strict) as connection:
            try:
                for piece in range(200):
                    connection.sendall(b"GET /" if piece == 0 else b"a" * 5000)
                    time.sleep(0.001)
            except OSError:
                pass  # it was closed while we wrote
            else:
                raise AssertionError("a megabyte of headers was read")

    def test_a_socket_and_an_answer_outlast_the_time_for_headers(self, strict: Running) -> None:
        with connect(strict) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            found = b""
            while b'{"status":"ok"}' not in found:
                found += connection.recv(65536)
            connection.sendall(
                b"GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert b"101 Switching" in connection.recv(65536)
            connection.settimeout(2.5)
            with pytest.raises(TimeoutError):
                while connection.recv(65536):
                    pass  # session.created
        with strict.client.stream("POST", CHAT, json=HELLO | {"stream": True, "n": 8, "max_tokens": 400}) as response:
            time.sleep(2.5)
            assert "[DONE]" in response.read().decode()

    def test_a_body_that_stops_is_answered_with_408(self, strict: Running) -> None:
        with connect(strict) as connection:
            connection.sendall(POST + b"Content-Length: 1000\r\n\r\n{")
            assert b"408 Request Timeout" in answer_of(connection)

    def test_a_body_that_drips_is_answered_with_408(self, strict: Running) -> None:
        with connect(strict) as connection:
            connection.sendall(POST + b"Content-Length: 1000000\r\n\r\n")
            stop = threading.Event()

            def drip() -> None:
                while not stop.wait(0.2):
                    try:
                        connection.sendall(b" ")
                    except OSError:
                        return

            thread = threading.Thread(target=drip)
            thread.start()
            found = answer_of(connection)
            stop.set()
            thread.join()
            assert b"408 Request Timeout" in found

    def test_a_client_that_does_not_read_is_cut_off(self, strict: Running) -> None:
        async def endless(scope: Scope, receive: Receive, send: Send) -> None:
            await send({"type": "http.response.start", "status": 200, "headers": []})

        async def nobody() -> None:
            async def send(message: object) -> None:
                await asyncio.Event().wait()  # the buffers are full for ever

            scope = {
                "type": "http", "method": "GET", "path": "/health", "headers": [],
                "app": SimpleNamespace(state=SimpleNamespace(server=strict.server)),
            }  # fmt: skip
            await Front(endless)(scope, receive_nothing, send)  # type: ignore[arg-type]

        with pytest.raises(ClientSlow):
            asyncio.run(asyncio.wait_for(nobody(), 60))


async def receive_nothing() -> dict[str, object]:
    return {"type": "http.disconnect"}


class TestLimits:
    def test_too_many_connections_are_closed(self, embedded: vita.Vita) -> None:
        with running(embedded, ServeOptions(port=0, limits=Limits(sockets=4))) as served:
            held = [connect(served) for _ in range(4)]
            time.sleep(0.3)
            with connect(served) as extra:
                assert answer_of(extra) == b""
            for connection in held:
                connection.close()
            time.sleep(0.3)
            assert served.client.get("/health").status_code == 200

    def test_headers_and_injections(self, served: Running) -> None:
        for head in (
            b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nX: a\rSet-Cookie: x\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n",
            b"GET /health HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n", b"GET  HTTP/1.1\r\n\r\n", b"\x16\x03\x01\r\n\r\n",
            POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}", POST + b"Content-Length: -1\r\n\r\n",
            POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n3\r\n{} \r\n0\r\n\r\n",
        ):  # fmt: skip
            with connect(served) as connection:
                connection.sendall(head)
                found = answer_of(connection)
                assert b"500" not in found.split(b"\r\n")[0] and b"Set-Cookie" not in found, head[:60]
        name = "x%0d%0aSet-Cookie:%20a=b"
        answer = served.client.get(f"/v1/models/{name}")
        assert answer.status_code == 404 and "set-cookie" not in answer.headers

    def test_bodies_of_all_requests_share_a_budget(self, embedded: vita.Vita) -> None:
        limits = Limits(body_bytes=1 << 20, buffered_bytes=1 << 20)
        with running(embedded, ServeOptions(port=0, limits=limits)) as served:
            with connect(served) as slow:
                slow.sendall(POST + b"Content-Length: 900000\r\n\r\n" + b" " * 600_000)
                until = time.monotonic() + 30
                while served.server.bodies.used < 600_000 and time.monotonic() < until:
                    time.sleep(0.02)
                busy = served.client.post(CHAT, content=b" " * 600_000)
                assert busy.status_code == 429 and busy.headers["retry-after"] == "1"
            while served.server.bodies.used and time.monotonic() < until:
                time.sleep(0.02)
            assert served.client.post(CHAT, json=HELLO).status_code == 200
            wait_for(lambda: served.server.bodies.used == 0)

    @pytest.mark.slow
    def test_a_full_queue_is_429_and_the_others_finish(self, embedded: vita.Vita) -> None:
        with running(embedded, ServeOptions(port=0, limits=Limits(requests=6))) as served:
            body = {**HELLO, "max_tokens": 40}

            def post(_: int) -> httpx.Response:
                return httpx.post(served.url + CHAT, json=body, timeout=120, trust_env=False)

            with ThreadPoolExecutor(24) as pool:
                answers = list(pool.map(post, range(24)))
            codes = [a.status_code for a in answers]
            assert set(codes) == {200, 429} and codes.count(200) >= 6
            texts = {a.json()["choices"][0]["message"]["content"] for a in answers if a.status_code == 200}
            assert len(texts) == 1
            for answer in answers:
                if answer.status_code == 429:
                    assert answer.headers["retry-after"] == "1" and answer.json()["error"]["code"] == "queue_full"
            wait_for(lambda: served.server.active == 0)

    def test_a_request_that_takes_too_long_is_ended(self, embedded: vita.Vita) -> None:
        ends = {str(token): -100 for token in embedded.engine.model.stop_ids}
        body = {**HELLO, "logit_bias": ends, "max_tokens": 3500}
        with running(embedded, ServeOptions(port=0, limits=Limits(request_seconds=0.3))) as served:
            whole = served.client.post(CHAT, json=body)
            assert whole.status_code == 504 and whole.json()["error"]["code"] == "timeout"
            stream = served.client.post(CHAT, json={**body, "stream": True}).text
            assert '"code":"timeout"' in stream and "[DONE]" not in stream
            wait_for(lambda: served.server.active == 0 and embedded.stats().running == 0)

    def test_the_engines_own_queue_is_429(self, embedded: vita.Vita, served: Running) -> None:
        core = embedded.engine.core
        limit = core.options.max_queue + core.scheduler.limits.max_requests
        core.open += limit
        try:
            answer = served.client.post(CHAT, json=HELLO)
        finally:
            core.open -= limit
        assert answer.status_code == 429 and answer.headers["retry-after"]

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            (b"[" * 65 + b"]" * 65, "levels"),
            (b'{"a":' * 65 + b"1" + b"}" * 65, "levels"),
            (b"[" * 3_000_000, "JSON values"),
            (b"[" + b"{}," * 200_000 + b"{}]", "JSON values"),
            (b"[" + b"1," * 300_000 + b"1]", "JSON values"),
            (b"[" * 5000 + b"]" * 5000, "levels"),
        ],
        ids=["arrays", "objects", "unclosed", "many objects", "many numbers", "deep"],
    )
    def test_json_that_bloats_is_refused(self, body: bytes, said: str) -> None:
        with pytest.raises(ApiError, match=said):
            check_json(body, Limits())

    def test_text_full_of_commas_passes(self) -> None:
        check_json(b'{"text": "' + b"a,b[{\\\\," * 100_000 + b'"}', Limits())
        check_json(b"[" * 64 + b"]" * 64, Limits())
        check_json(b"not json {{{", Limits())

    def test_a_thousand_parts_are_refused(self, served: Running) -> None:
        parts = [{"type": "text", "text": "x"}] * 1000
        answer = served.client.post(CHAT, json={"messages": [{"role": "user", "content": parts}]})
        assert answer.status_code == 400 and "128 content parts at most" in answer.json()["error"]["message"]
        spread = [{"role": "user", "content": parts[:1]}] * 1000
        assert served.client.post(CHAT, json={"messages": spread}).status_code == 400
        many = served.client.post(CHAT, json={"messages": [{"role": "user", "content": "x"}] * 2000})
        assert many.status_code == 400 and "1024 messages at most" in many.json()["error"]["message"]


class TestStop:
    @pytest.mark.slow
    def test_requests_in_progress_end_and_new_ones_are_refused(self, embedded: vita.Vita) -> None:
        ends = {str(token): -100 for token in embedded.engine.model.stop_ids}
        body = {**HELLO, "logit_bias": ends, "max_tokens": 200}
        with running(embedded) as served, ThreadPoolExecutor(1) as pool:
            answer = pool.submit(httpx.post, served.url + CHAT, json=body, timeout=120, trust_env=False)
            until = time.monotonic() + 30
            while not served.server.active and time.monotonic() < until:
                time.sleep(0.01)
            served.listener.stop()
            health = served.client.get("/health")
            assert (health.status_code, health.json()["status"]) == (503, "draining")
            assert served.client.post(CHAT, json=HELLO).status_code == 503
            found = answer.result()
            assert found.status_code == 200 and found.json()["usage"]["completion_tokens"] == 200
            while served.listener.started and time.monotonic() < until + 60:
                try:
                    httpx.get(served.url + "/health", timeout=5, trust_env=False)
                except httpx.HTTPError:
                    break
                time.sleep(0.05)
            else:
                pytest.fail("the server went on listening")
        assert embedded.engine.is_healthy

    def test_what_does_not_end_in_time_is_cancelled(self, embedded: vita.Vita) -> None:
        ends = {str(token): -100 for token in embedded.engine.model.stop_ids}
        body = {**HELLO, "logit_bias": ends, "max_tokens": 3500, "stream": True}
        cancelled = embedded.stats().cancelled
        options = ServeOptions(port=0, limits=Limits(drain_seconds=0.2))
        with running(embedded, options) as served, served.client.stream("POST", CHAT, json=body) as answer:
            lines = answer.iter_lines()
            next(lines)
            served.listener.stop()
            with pytest.raises(httpx.HTTPError):
                for _ in lines:
                    pass
        until = time.monotonic() + 30
        while embedded.stats().cancelled == cancelled and time.monotonic() < until:
            time.sleep(0.05)
        assert embedded.stats().cancelled == cancelled + 1 and embedded.stats().running == 0


class TestAddress:
    def test_a_port_in_use_is_one_sentence(self, served: Running) -> None:
        port = int(served.url.rsplit(":", 1)[1])
        with pytest.raises(RequestError, match=r"^port: .*cannot be used.*choose another"):
            open_socket(ServeOptions(port=port)).listen()
        with pytest.raises(RequestError, match="is no address"):
            open_socket(ServeOptions(host="no-such-host.invalid", api_keys=("12345678",)))

    def test_the_address_is_what_a_browser_takes(self) -> None:
        for host, shown in (("127.0.0.1", "http://127.0.0.1:"), ("0.0.0.0", "http://127.0.0.1:")):
            options = ServeOptions(host=host, port=0, api_keys=("12345678",))
            with open_socket(options) as listening:
                assert base_url(options, listening).startswith(shown)

    def test_a_self_signed_certificate_serves_https(self, tmp_path: Path) -> None:
        import ssl

        certificate, key = make_certificate(tmp_path, "127.0.0.1")
        assert key.stat().st_mode & 0o077 == 0
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        with pytest.raises(RequestError, match="cannot be used with"):
            ServeOptions(self_signed=True, ssl_certfile=certificate, ssl_keyfile=key)
        with pytest.raises(RequestError, match="belong together"):
            ServeOptions(ssl_certfile=certificate)
