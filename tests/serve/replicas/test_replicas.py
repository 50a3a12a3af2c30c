"""Two replicas: killed under load, sticky, streams replayed, refusals, sockets, restart."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from websockets import ConnectionClosed, InvalidStatus, Origin
from websockets.sync.client import connect

import vita
from tests.serve.replicas.running import Routed, replicas

CHAT = "/v1/chat/completions"
KEY = "a-long-enough-key"


@pytest.fixture(scope="module")
def two() -> Iterator[Routed]:
    with replicas(2) as found:
        yield found


def asked(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 8, **fields}


def streamed(lines: Iterator[str]) -> tuple[list[str], list[str]]:
    """The texts of a stream, and the messages of its error events."""
    texts: dict[int, str] = {}
    errors: list[str] = []
    for line in lines:
        if line.startswith("data: {"):
            found = json.loads(line[6:])
            errors += [found["error"]["message"]] if "error" in found else []
            for choice in found.get("choices", ()):
                texts[choice["index"]] = texts.get(choice["index"], "") + choice["delta"].get("content", "")
    return [texts[index] for index in sorted(texts)], errors


def ask(served: Routed, text: str, *, stream: bool) -> str:
    with served.client.stream("POST", CHAT, json=asked(text, stream=stream)) as response:
        assert response.status_code == 200, response.read()
        if not stream:
            response.read()
            return str(response.json()["choices"][0]["message"]["content"])
        found, errors = streamed(response.iter_lines())
        assert not errors, errors
        return found[0]


def none_lost(served: Routed, embedded: vita.Vita, count: int) -> None:
    """Kill one of two replicas under load, and the other while the first is away or has just come back."""
    served.wait_ready()
    texts = [f"Say {n % 10}" for n in range(count)]
    expected = {text: embedded.ask(text, params=vita.SamplingParams(max_tokens=8)).text for text in set(texts)}
    finished = threading.Semaphore(0)

    def one(number: int) -> str:
        try:
            return ask(served, texts[number], stream=number % 2 == 0)
        finally:
            finished.release()

    with ThreadPoolExecutor(8) as threads:
        answers = threads.map(one, range(count))
        for index in (0, 1):
            for _ in range(count // 4):
                finished.acquire()
            served.kill(index)
        assert list(answers) == [expected[text] for text in texts]


def test_a_killed_replica_loses_no_request(two: Routed, embedded: vita.Vita) -> None:
    none_lost(two, embedded, 100)


@pytest.mark.slow
def test_a_killed_replica_loses_none_of_1000_requests(two: Routed, embedded: vita.Vita) -> None:
    none_lost(two, embedded, 1000)


def endless(embedded: vita.Vita, **fields: Any) -> dict[str, Any]:
    """A request whose answer has 400 tokens, so that it can be killed in its middle."""
    bias = {str(token): -100 for token in embedded.engine.model.stop_ids}
    return asked("Tell me a story", stream=True, max_tokens=400, logit_bias=bias) | fields


def killed_in_its_middle(two: Routed, body: dict[str, Any]) -> tuple[list[str], list[str]]:
    two.wait_ready()
    before = two.router.counters.lost
    with two.client.stream("POST", CHAT, json=body) as response:
        lines = response.iter_lines()
        first = [next(lines) for _ in range(8)]
        two.kill(int(response.headers["x-vita-replica"]))
        texts, errors = streamed(iter([*first, *lines]))
    assert two.router.counters.lost == before + 1, "it was over before the kill"
    return texts, errors


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({}, id="greedy"),
        pytest.param({"temperature": 1.0, "seed": 5}, id="seeded", marks=pytest.mark.slow),
        pytest.param({"n": 2, "temperature": 1.0, "seed": 7}, id="two", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_stream_is_replayed_without_doubled_text(two: Routed, embedded: vita.Vita, fields: dict[str, Any]) -> None:
    body = endless(embedded, **fields)
    texts, errors = killed_in_its_middle(two, body)
    assert not errors
    two.wait_ready()
    answer = two.client.post(CHAT, json=body | {"stream": False}).json()
    assert texts == [choice["message"]["content"] for choice in answer["choices"]]


@pytest.mark.slow
def test_a_stream_that_cannot_be_repeated_ends_with_an_error(two: Routed, embedded: vita.Vita) -> None:
    _, errors = killed_in_its_middle(two, endless(embedded, temperature=1.0))
    assert len(errors) == 1 and "send the request again" in errors[0]


def test_an_image_and_a_session_stay_at_one_replica(two: Routed, logo: str) -> None:
    two.wait_ready()
    image = {"type": "image_url", "image_url": {"url": logo}}
    found = set()
    for question in ("What is this?", "What does it say?", "Which colour?"):
        content = [image, {"type": "text", "text": question}]
        response = two.client.post(CHAT, json=asked("") | {"messages": [{"role": "user", "content": content}]})
        found.add(response.headers["x-vita-replica"])
    assert len(found) == 1 and response.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 60
    by_session = {
        session: {two.client.post(CHAT, json=asked(text), headers={"x-session-id": session}).headers["x-vita-replica"]
                  for text in ("Hello", "And you?")}
        for session in map(str, range(8))
    }  # fmt: skip
    assert all(len(there) == 1 for there in by_session.values())
    assert set.union(*by_session.values()) == {"0", "1"}


def test_refusals_and_other_routes_are_passed_on(two: Routed) -> None:
    two.wait_ready()
    assert two.client.post(CHAT, json={"messages": []}).json()["error"]["param"] == "messages"
    assert two.client.post(CHAT, json=asked("Hello", model="gpt-4o")).status_code == 404
    assert two.client.post(CHAT, content=b"{", headers={"content-type": "application/json"}).status_code == 400
    assert two.client.get("/none").json()["error"]["code"] == "unknown_url"
    assert two.client.get("/v1/models").json()["data"][0]["id"] == "default"
    assert "text/html" in two.client.get("/").headers["content-type"]
    assert two.client.head("/").content == b""
    health = two.client.get("/health").json()
    assert (health["status"], health["replicas"], health["ready"]) == ("ok", 2, [0, 1])
    metrics = two.client.get("/metrics").text
    assert 'vita_replica_up{replica="1"} 1' in metrics and 'replica="0"' in metrics
    with httpx.Client(base_url=two.url, headers={"origin": "https://elsewhere.example"}, trust_env=False) as other:
        assert other.post(CHAT, json=asked("Hello")).status_code == 403


def test_a_realtime_session_is_passed_on(two: Routed) -> None:
    two.wait_ready()
    secret = two.client.post("/v1/realtime/client_secrets", json={}).json()["value"]
    for headers in ({}, {"Authorization": f"Bearer {secret}"}):
        address = two.url.replace("http", "ws", 1) + "/v1/realtime?model=vita"
        with connect(address, additional_headers=headers, proxy=None) as socket:
            assert json.loads(socket.recv(60))["type"] == "session.created"
            socket.send(json.dumps({"type": "none"}))
            assert json.loads(socket.recv(60))["type"] == "error"


def test_a_realtime_session_of_another_page_is_refused(two: Routed) -> None:
    """The replica compares the page's origin with the address that the client knows."""
    two.wait_ready()
    address = two.url.replace("http", "ws", 1) + "/v1/realtime"
    with connect(address, origin=Origin(two.url), proxy=None) as socket:
        assert json.loads(socket.recv(60))["type"] == "session.created"
    with pytest.raises(InvalidStatus) as refused, connect(address, origin=Origin("https://a.example"), proxy=None):
        pass
    assert refused.value.response.status_code == 403 and b"--allow-origin" in (refused.value.response.body or b"")


@pytest.mark.slow
def test_a_lost_realtime_session_is_closed(two: Routed) -> None:
    two.wait_ready()
    with connect(two.url.replace("http", "ws", 1) + "/v1/realtime", proxy=None) as socket:
        socket.recv(60)
        (index,) = [replica.index for replica in two.router.pool.replicas if replica.active]
        two.kill(index)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(60)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1012


@pytest.mark.slow
def test_a_client_that_leaves_frees_its_replica(two: Routed, embedded: vita.Vita) -> None:
    two.wait_ready()
    with two.client.stream("POST", CHAT, json=endless(embedded, max_tokens=2000)) as response:
        next(response.iter_lines())
    end = time.monotonic() + 60
    while any(replica.active for replica in two.router.pool.replicas):
        assert time.monotonic() < end
        time.sleep(0.01)
