"""/v1/responses: objects, streams of typed events, refusals."""

from __future__ import annotations

import json
from typing import Any

import pytest

import vita
from tests.serve.conftest import ASSETS
from tests.serve.running import Running

URL = "/v1/responses"
REQUIRED = ("id", "created_at", "model", "object", "output", "parallel_tool_calls", "tool_choice", "tools", "status")


def test_a_text_is_answered(served: Running, embedded: vita.Vita) -> None:
    answer = served.client.post(URL, json={"input": "What can you do?", "model": "vita", "metadata": {"a": "b"}})
    found = answer.json()
    assert answer.status_code == 200 and all(name in found for name in REQUIRED)
    assert found["id"].startswith("resp_") and found["object"] == "response" and found["status"] == "completed"
    message = found["output"][0]
    assert (message["type"], message["role"], message["status"]) == ("message", "assistant", "completed")
    result = embedded.ask("What can you do?")
    assert message["content"][0]["type"] == "output_text" and message["content"][0]["text"] == result.text
    usage = found["usage"]
    assert usage["output_tokens"] == result.usage.completion_tokens and found["metadata"] == {"a": "b"}
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens_details"] == {"reasoning_tokens": 0}


def test_items_with_images_and_audio_and_instructions(
    served: Running, embedded: vita.Vita, logo: str, speech: str
) -> None:
    items = [
        {"role": "user", "content": [
            {"type": "input_text", "text": "What does it say?"},
            {"type": "input_image", "image_url": logo, "detail": "auto"},
        ]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "VITA."}]},
        {"role": "user", "content": "What color is the text?"},
    ]  # fmt: skip
    found = served.client.post(URL, json={"input": items, "instructions": "Be brief."}).json()
    messages = [
        vita.system("Be brief."),
        vita.Message("user", (vita.Text("What does it say?"), vita.Image(ASSETS / "vita_logo.png"))),
        vita.assistant("VITA."), vita.user("What color is the text?"),
    ]  # fmt: skip
    assert found["output"][0]["content"][0]["text"] == embedded.submit(messages).result().text
    audio = {"type": "input_audio", "input_audio": {"data": speech, "format": "flac"}}
    spoken = served.client.post(URL, json={"input": [{"role": "user", "content": [audio]}]}).json()
    assert spoken["output"][0]["content"][0]["text"] == embedded.ask(audio=ASSETS / "what_can_you_do.flac").text


def test_an_answer_that_is_cut_is_incomplete(served: Running) -> None:
    found = served.client.post(URL, json={"input": "What can you do?", "max_output_tokens": 3}).json()
    assert found["status"] == "incomplete" and found["incomplete_details"] == {"reason": "max_output_tokens"}
    assert found["output"][0]["status"] == "incomplete" and found["usage"]["output_tokens"] == 3


def test_a_stream_in_order(served: Running, embedded: vita.Vita) -> None:
    answer = served.client.post(URL, json={"input": "What can you do?", "stream": True})
    events = [dict(line.split(": ", 1) for line in block.split("\n")) for block in answer.text.strip().split("\n\n")]
    data: list[dict[str, Any]] = [json.loads(event["data"]) for event in events]
    assert [e["event"] for e in events] == [d["type"] for d in data]
    assert [d["sequence_number"] for d in data] == list(range(len(data)))
    kinds = [d["type"].removeprefix("response.") for d in data if d["type"] != "response.output_text.delta"]
    assert kinds == [
        "created", "in_progress", "output_item.added", "content_part.added", "output_text.done", "content_part.done",
        "output_item.done", "completed",
    ]  # fmt: skip
    said = "".join(d["delta"] for d in data if d["type"] == "response.output_text.delta")
    assert said == embedded.ask("What can you do?").text == data[-1]["response"]["output"][0]["content"][0]["text"]
    item = data[2]["item"]["id"]
    assert all(d["item_id"] == item for d in data if "item_id" in d)
    assert data[0]["response"]["status"] == "in_progress" and data[-1]["response"]["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("previous_response_id", "resp_1"), ("store", True), ("background", True), ("conversation", "conv_1"),
        ("tool_choice", "required"), ("text.format", None), ("reasoning.effort", None), ("top_logprobs", 3),
        ("input[0].type", None), ("input[0].role", None),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(served: Running, name: str, value: Any) -> None:
    bodies: dict[str, dict[str, Any]] = {
        "text.format": {"text": {"format": {"type": "json_schema"}}},
        "reasoning.effort": {"reasoning": {"effort": "high"}},
        "input[0].type": {"input": [{"type": "item_reference", "id": "x"}]},
        "input[0].role": {"input": [{"role": "robot", "content": "x"}]},
    }
    answer = served.client.post(URL, json={"input": "x", **bodies.get(name, {name: value})})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == name, answer.text


def test_neutral_values_pass(served: Running) -> None:
    body = {
        "input": "Hello", "store": False, "tools": [], "tool_choice": "auto", "truncation": "disabled",
        "text": {"format": {"type": "text"}, "verbosity": "medium"}, "reasoning": None, "previous_response_id": None,
        "include": [], "parallel_tool_calls": True, "temperature": 0.5, "top_p": 1.0, "user": "me",
    }  # fmt: skip
    assert served.client.post(URL, json=body).status_code == 200
