"""Tools are accepted and sent back where the API has a place for them; the model neither sees nor calls them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.serve.realtime.client import connected
from tests.serve.running import Running

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FLAT = {"type": "function", "name": "weather", "description": "The weather of a city.", "parameters": PARAMETERS}
NESTED = {"type": "function", "function": {key: FLAT[key] for key in ("name", "description", "parameters")}}
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "What can you do?"}]}


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_chat_answers_as_without_them(served: Running, choice: str | None) -> None:
    plain = served.client.post("/v1/chat/completions", json=HELLO).json()
    body = {**HELLO, "tools": [NESTED], "parallel_tool_calls": True, **({"tool_choice": choice} if choice else {})}
    answer = served.client.post("/v1/chat/completions", json=body).json()
    assert answer["choices"] == plain["choices"] and answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_a_choice_that_forces_one_is_refused(served: Running, choice: object) -> None:
    for path, body in (("/v1/chat/completions", HELLO), ("/v1/responses", {"input": "Hello"})):
        answer = served.client.post(path, json={**body, "tools": [NESTED], "tool_choice": choice})
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "unsupported_parameter", "tool_choice")


def test_calls_in_the_history_are_refused_by_name(served: Running) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    history = [*HELLO["messages"], {"role": "assistant", "content": None, "tool_calls": [call]}, *HELLO["messages"]]
    answer = served.client.post("/v1/chat/completions", json={"messages": history})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages[1].tool_calls"


def test_responses_send_them_back(served: Running) -> None:
    body = {"input": "What can you do?", "tools": [FLAT], "tool_choice": "auto"}
    answer = served.client.post("/v1/responses", json=body).json()
    assert answer["tools"] == [FLAT] and answer["tool_choice"] == "auto"
    assert [item["type"] for item in answer["output"]] == ["message"]


def test_realtime_sends_them_back(served: Running) -> None:
    with connected(served) as client:
        session = client.update(output_modalities=["text"], tools=[FLAT], tool_choice="auto")
        assert session["tools"] == [FLAT] and session["tool_choice"] == "auto"
        client.create_text("What can you do?")
        output = {"type": "function_call_output", "call_id": "call_1", "output": "{}"}
        client.send("conversation.item.create", item=output)
        client.send("response.create", response={"tools": [FLAT], "tool_choice": "auto"})
        done = client.until("response.done")["response"]
        assert done["status"] == "completed" and [item["type"] for item in done["output"]] == ["message"]
