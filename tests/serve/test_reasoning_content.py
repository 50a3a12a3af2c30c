"""The reasoning in OpenAI's shapes: apart from the text, counted, and never part of what is spoken or kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

import vita
from tests.reasoning import scripted
from tests.serve.realtime.client import connected
from tests.serve.running import Running, running

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
ASKED = [{"role": "user", "content": "Is it blue?"}]


@pytest.fixture(scope="module")
def reasoner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = scripted(tmp_path_factory.mktemp("scripted"))
    with vita.load(folder, device="cpu") as model, running(model) as server:
        yield server


def post(server: Running, path: str, **fields: Any) -> Any:
    answer = server.client.post(path, json=fields)
    assert answer.status_code == 200, answer.text
    return answer


def test_a_completion_has_it_beside_the_content(reasoner: Running) -> None:
    answer = post(reasoner, CHAT, messages=ASKED, n=2, logprobs=True).json()
    for choice in answer["choices"]:
        assert choice["message"]["content"] == "Yes, blue."
        assert choice["message"]["reasoning_content"] == "a red star"
        assert [token["token"] for token in choice["logprobs"]["content"]] == ["Yes", ",", " blue", "."]
    usage = answer["usage"]
    assert usage["completion_tokens"] == 22 and usage["completion_tokens_details"]["reasoning_tokens"] == 10
    assert usage["completion_tokens_details"]["text_tokens"] == 12


def test_a_stream_has_it_in_deltas_of_its_own(reasoner: Running) -> None:
    options = {"include_usage": True}
    lines = post(reasoner, CHAT, messages=ASKED, stream=True, stream_options=options).text.split("\n\n")
    chunks = [json.loads(line[6:]) for line in lines if line and line != "data: [DONE]"]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "a red star"
    assert "".join(delta.get("content", "") for delta in deltas) == "Yes, blue."
    assert chunks[-1]["usage"]["completion_tokens_details"]["reasoning_tokens"] == 5


def test_effort_none_forbids_it(reasoner: Running) -> None:
    answer = post(reasoner, CHAT, messages=ASKED, reasoning_effort="none", max_completion_tokens=4).json()
    assert "reasoning_content" not in answer["choices"][0]["message"]
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
    answer = post(reasoner, RESPONSES, input="Is it blue?", reasoning={"effort": "none"}, max_output_tokens=4).json()
    assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": 0}


def test_a_response_counts_it_and_shows_the_answer(reasoner: Running) -> None:
    answer = post(reasoner, RESPONSES, input="Is it blue?").json()
    assert [part["text"] for item in answer["output"] for part in item["content"]] == ["Yes, blue."]
    assert answer["usage"]["output_tokens"] == 11
    assert answer["usage"]["output_tokens_details"] == {"reasoning_tokens": 5}
    stream = post(reasoner, RESPONSES, input="Is it blue?", stream=True).text
    assert "red star" not in stream and "Yes" in stream


def test_realtime_sends_the_answer_alone(reasoner: Running) -> None:
    with connected(reasoner) as client:
        client.update(output_modalities=["text"])
        for _ in range(2):
            client.create_text("Is it blue?")
            client.send("response.create")
            response = client.until("response.done")["response"]
            assert response["output"][0]["content"][0]["text"] == "Yes, blue."
        assert not any("red star" in json.dumps(event) for event in client.wire.events)
