"""Events that are valid JSON and hard to handle: each is answered, and the session goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.serve.realtime.client import Client, connected
from tests.serve.running import Running

HUGE = "1" + "0" * 400
NO_IMAGE = "data:image/png;base64,iVBORw0KGgo="  # nothing behind the signature


@pytest.fixture
def client(served: Running) -> Iterator[Client]:
    with connected(served) as one:
        one.update(output_modalities=["text"])
        yield one


def answered(client: Client) -> str:
    """The status of a response."""
    client.send("response.create")
    return str(client.until("response.done")["response"]["status"])


@pytest.mark.parametrize(
    "event",
    [
        f'{{"type": "session.update", "session": {{"type": "realtime", "audio": {{"output": {{"speed": {HUGE}}}}}}}}}',
        f'{{"type": "session.update", "session": {{"type": "realtime", "temperature": {HUGE}}}}}',
        f'{{"type": "conversation.item.truncate", "item_id": "x", "content_index": 0, "audio_end_ms": -{HUGE}}}',
        '{"type": "session.update", "session": {"type": "realtime", "tools": [NaN]}}',
        '{"type": "conversation.item.create", "item": {"type": "message", "role": "user",'
        ' "content": [{"type": "input_audio", "audio": "AA=="}]}}',
        json.dumps({"type": "session.update", "session": {"audio": {"input": {"transcription": {"x": "a" * 70_000}}}}}),
    ],
)
def test_numbers_out_of_range_and_empty_audio_are_refused(client: Client, event: str) -> None:
    client.send_text(event)
    assert client.until("error")["error"]["type"] == "invalid_request_error"
    client.create_text("Hello")
    assert answered(client) == "completed"


def test_half_a_character_does_not_end_the_session(client: Client) -> None:
    client.send_text('{"type": "session.update", "session": {"type": "realtime", "instructions": "\\ud83d"}}')
    assert client.until("session.updated")["session"]["instructions"] == "\N{REPLACEMENT CHARACTER}"
    client.send_text('{"type": "response.cancel", "event_id": "\\ud83d"}')
    assert client.until("error")["error"]["event_id"] == "\N{REPLACEMENT CHARACTER}"
    client.create_text("Hello")
    assert answered(client) == "completed"


def test_an_image_that_cannot_be_read_fails_one_answer_only(client: Client) -> None:
    parts: list[dict[str, Any]] = [
        {"type": "input_text", "text": "What is this?"}, {"type": "input_image", "image_url": NO_IMAGE}
    ]  # fmt: skip
    client.send("conversation.item.create", item={"type": "message", "role": "user", "content": parts})
    assert answered(client) == "failed"
    client.create_text("Hello")
    assert answered(client) == "completed"
