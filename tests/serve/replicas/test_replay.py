"""Routing and replay without a model: what a client sees of a stream that was cut off and asked for again."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vita.serve.replicas.metrics import joined_metrics
from vita.serve.replicas.replay import ChatReplay, Diverged, Replay, ResponsesReplay, parse, replay_for
from vita.serve.replicas.routing import Ring, routing_key
from vita.serve.sse import DONE, PING, data_event

TEXT = st.text(min_size=1, max_size=20)


def cut(text: str, at: list[int]) -> list[str]:
    marks = sorted({0, len(text), *(place % (len(text) + 1) for place in at)})
    return [text[a:b] for a, b in itertools.pairwise(marks)]


def chat(id: str, texts: list[list[str]]) -> list[bytes]:
    """A stream as the server sends it: the choices in turn."""

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": None}
        return data_event({"id": id, "created": len(id), "object": "chat.completion.chunk", "choices": [choice]})

    events = [PING]
    for index, pieces in enumerate(texts):
        events.append(chunk(index, {"role": "assistant", "content": ""}))
        events += [chunk(index, {"reasoning_content": piece}) for piece in pieces]
        events += [chunk(index, {"content": piece}) for piece in pieces]
        events.append(chunk(index, {}, "stop"))
    return [*events, data_event({"id": id, "created": len(id), "choices": [], "usage": {}}), DONE]


def responses(id: str, pieces: list[str]) -> list[bytes]:
    text, item = "".join(pieces), f"msg_{id}"
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": {"id": id, "created_at": len(id)}}),
        ("response.output_item.added", {"item": {"id": item}}),
        *(("response.output_text.delta", {"item_id": item, "delta": piece}) for piece in pieces),
        ("response.output_text.done", {"item_id": item, "text": text}),
        ("response.completed", {"response": {"id": id, "created_at": len(id), "output": [{"id": item}]}}),
    ]
    return [data_event({"type": k, "sequence_number": n, **fields}, k) for n, (k, fields) in enumerate(kinds)]


def seen(replay: Replay, first: list[bytes], second: list[bytes], broken: list[int]) -> list[dict[str, Any]]:
    """What the client gets if the first stream breaks off after some events, and so does the first replay."""
    out = [replay(event) for event in first[: broken[0]]]
    for count in (broken[1], len(second)):
        replay.restart()
        out += [replay(event) for event in second[:count]]
    return [found for event in out if event is not None and (found := parse(event)) is not None]


@given(texts=st.lists(TEXT, min_size=1, max_size=2), one=st.lists(st.integers(0, 99)), two=st.lists(st.integers(0, 99)),
       broken=st.lists(st.integers(0, 30), min_size=2, max_size=2))  # fmt: skip
def test_a_replayed_chat_has_every_character_once(
    texts: list[str], one: list[int], two: list[int], broken: list[int]
) -> None:
    first, second = chat("first", [cut(t, one) for t in texts]), chat("the second", [cut(t, two) for t in texts])
    chunks = seen(ChatReplay(), first, second, [min(broken[0], len(first) - 1), broken[1]])
    assert len({(c["id"], c["created"]) for c in chunks}) == 1
    for index, text in enumerate(texts):
        mine = [choice for c in chunks for choice in c["choices"] if choice["index"] == index]
        assert "".join(choice["delta"].get("content", "") for choice in mine) == text
        assert "".join(choice["delta"].get("reasoning_content", "") for choice in mine) == text
        assert [choice["delta"].get("role") for choice in mine].count("assistant") == 1
        assert [choice["finish_reason"] for choice in mine].count("stop") == 1 and mine[-1]["finish_reason"] == "stop"


@given(text=TEXT, one=st.lists(st.integers(0, 99)), two=st.lists(st.integers(0, 99)),
       broken=st.lists(st.integers(0, 30), min_size=2, max_size=2))  # fmt: skip
def test_a_replayed_response_has_every_event_once(text: str, one: list[int], two: list[int], broken: list[int]) -> None:
    first, second = responses("resp_first", cut(text, one)), responses("resp_the_second", cut(text, two))
    events = seen(ResponsesReplay(), first, second, [min(broken[0], len(first) - 1), broken[1]])
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert "".join(e.get("delta", "") for e in events) == text
    others = [e["type"] for e in events if "delta" not in e]
    assert others == [parse(e)["type"] for e in first if b'"delta"' not in e]  # type: ignore[index]
    assert len({i for e in events for i in ("resp_first", "resp_the_second") if i in json.dumps(e)}) == 1
    assert len({e["response"]["created_at"] for e in events if "response" in e}) == 1


@pytest.mark.parametrize("second", [["Hello", " there"], ["Hel"]])
def test_another_text_is_not_passed_on(second: list[str]) -> None:
    for replay, first, again in (
        (ChatReplay(), chat("a", [["Hello", " world"]])[:-3], chat("b", [second])),
        (ResponsesReplay(), responses("a", ["Hello", " world"])[:-2], responses("b", second)),
    ):
        for event in first:
            replay(event)
        replay.restart()
        with pytest.raises(Diverged):
            [replay(event) for event in again]


@pytest.mark.parametrize(
    ("path", "fields", "replayed"),
    [
        ("/v1/chat/completions", {}, True), ("/v1/chat/completions", {"temperature": 0.0}, True),
        ("/v1/chat/completions", {"temperature": 0.7}, False),
        ("/v1/chat/completions", {"temperature": 0.7, "seed": 3}, True),
        ("/v1/chat/completions", {"modalities": ["text", "audio"]}, False), ("/v1/responses", {}, True),
        ("/v1/responses", {"temperature": 1}, False), ("/v1/audio/transcriptions", {}, False),
    ],
)  # fmt: skip
def test_only_repeatable_text_is_replayed(path: str, fields: dict[str, Any], replayed: bool) -> None:
    assert (replay_for(path, fields) is not None) == replayed


@given(keys=st.lists(st.binary(max_size=9), min_size=1), count=st.integers(2, 5), gone=st.integers(0, 4))
def test_a_replica_that_is_away_moves_its_own_keys_alone(keys: list[bytes], count: int, gone: int) -> None:
    ring = Ring(count)
    for key in keys:
        order = ring.order(key)
        assert sorted(order) == list(range(count)) == sorted(Ring(count).order(key))
        left = [index for index in order if index != gone]
        assert order[0] == gone or left[0] == order[0]


def test_keys_are_spread() -> None:
    ring = Ring(4)
    shares = [ring.order(str(n).encode())[0] for n in range(4000)]
    assert all(600 < shares.count(index) < 1500 for index in range(4)), [shares.count(i) for i in range(4)]


def test_a_conversation_and_an_image_keep_their_key() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    hello, answer = {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}
    first = routing_key({}, {"messages": [hello]})
    assert first == routing_key({}, {"messages": [hello, answer, {"role": "user", "content": "And?"}]}) is not None
    assert first != routing_key({}, {"messages": [{"role": "user", "content": "Other"}]})
    one = routing_key({}, {"messages": [{"role": "user", "content": [image, {"type": "text", "text": "What?"}]}]})
    two = routing_key({}, {"messages": [hello, {"role": "user", "content": [{"type": "text", "text": "A"}, image]}]})
    asked = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    assert one == two == routing_key({}, {"input": [{"role": "user", "content": [asked]}]}) is not None
    assert routing_key({"x-session-id": "7"}, {"messages": [hello]}) == routing_key({}, {"prompt_cache_key": "7"})
    assert routing_key({}, None) is None and routing_key({}, {"messages": 3}) is None


def test_metrics_of_two_replicas_are_one_text() -> None:
    text = '# HELP a_total What.\n# TYPE a_total counter\na_total{x="1"} 2.0\n# HELP b B.\n# TYPE b gauge\nb 3.0\n'
    assert joined_metrics({0: text, 1: text}).splitlines() == [
        "# HELP a_total What.", "# TYPE a_total counter", 'a_total{replica="0",x="1"} 2.0',
        'a_total{replica="1",x="1"} 2.0', "# HELP b B.", "# TYPE b gauge", 'b{replica="0"} 3.0', 'b{replica="1"} 3.0',
    ]  # fmt: skip
