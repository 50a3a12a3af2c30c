"""`vllm serve` on the embedded checkpoint, over HTTP: no flag but the limits that a test asks for."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

import vita
from tests.vllm.cases import cases
from tests.vllm.running import as_openai, ask_engine, data_url
from tests.vllm.serving import serving
from vita.checkpoint.files import DEFAULT

INPUTS = Path(__file__).parents[1] / "goldens" / "mini" / "inputs"
CASES = cases(INPUTS)
SERVED = ["text", "image", "several images", "frames", "audio", "image and audio", "turns with speech"]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of the embedded checkpoint."""
    with serving(DEFAULT, tmp_path_factory.mktemp("serve"), ("--limit-mm-per-prompt", '{"image": 3}')) as address:
        yield address


@pytest.fixture(scope="module")
def engine() -> vita.Vita:
    return vita.load(dtype="float32", device="cpu")


def request(messages: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"model": "vita", "messages": messages, "temperature": 0, "max_tokens": 24, "return_token_ids": True} | more


def post(url: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)


def deltas(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """The `delta`s of a stream."""
    for line in lines:
        if line.startswith("data: {"):
            choices = json.loads(line.removeprefix("data: "))["choices"]
            if choices:
                yield choices[0]["delta"]


@pytest.mark.parametrize("name", SERVED)
def test_answers_equal_the_engines(url: str, engine: vita.Vita, name: str) -> None:
    answered = post(url, request(as_openai(CASES[name]))).json()["choices"][0]
    assert tuple(answered["token_ids"]) == ask_engine(engine, CASES[name])


@pytest.mark.parametrize(("name", "state"), [("text", "typed"), ("turns with speech", "noise")])
def test_the_response_state_is_reported_beside_the_text(url: str, name: str, state: str) -> None:
    message = post(url, request(as_openai(CASES[name]))).json()["choices"][0]["message"]
    assert message["reasoning"].split("\n")[0] == state  # then the reasoning, if there is one
    assert not set(message["content"] or "") & set("☜☞☟<")


def test_a_stream_holds_the_same_text(url: str) -> None:
    body = request(as_openai(CASES["image"]))
    whole = post(url, body).json()["choices"][0]["message"]
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body | {"stream": True}, timeout=120) as answer:
        pieces = list(deltas(answer.iter_lines()))
    assert "".join(piece.get("content") or "" for piece in pieces) == whole["content"]
    assert "".join(piece.get("reasoning") or "" for piece in pieces) == whole["reasoning"]
    assert whole["reasoning"].split("\n")[0] == "typed"


def test_a_client_that_leaves_ends_its_request(url: str) -> None:
    body = request(as_openai(CASES["image"]), max_tokens=2000, ignore_eos=True, stream=True)
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=120) as answer:
        for number, _ in enumerate(answer.iter_lines()):
            if number == 8:
                break
    for _ in range(100):
        metrics = httpx.get(f"{url}/metrics", timeout=10).text
        running = [line for line in metrics.splitlines() if line.startswith("vllm:num_requests_running")]
        if running and all(line.endswith(" 0.0") for line in running):
            break
        time.sleep(0.2)
    else:
        pytest.fail(f"still running: {running}")
    assert post(url, request(as_openai(CASES["text"]))).status_code == 200


def test_more_images_than_the_limit_are_refused(url: str) -> None:
    part = as_openai(CASES["image"])[0]["content"][0]
    answer = post(url, request([{"role": "user", "content": [part] * 4}]))
    assert answer.status_code == 400
    assert "At most 3 image" in answer.json()["error"]["message"]


def bad_media(kind: str) -> list[dict[str, Any]]:
    address = data_url(b"this is text, and not what it says it is", f"{kind}/x")
    return [{"role": "user", "content": [{"type": f"{kind}_url", f"{kind}_url": {"url": address}}]}]


@pytest.mark.parametrize("kind", ["image", "video", "audio"])
def test_a_broken_file_is_the_clients_error(url: str, kind: str) -> None:
    answer = post(url, request(bad_media(kind)))
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert message.startswith(f"<{kind}>: ") and "Traceback" not in message, message


def test_tools_are_refused_by_name(url: str) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    answer = post(url, request(as_openai(CASES["text"]), tools=[tool], tool_choice="none"))
    assert answer.status_code == 400 and "tools" in answer.json()["error"]["message"], answer.text


def test_a_prompt_that_is_text(url: str, engine: vita.Vita) -> None:
    """The template written out gives the same prompt."""
    text = "<|im_start|>system\nYou are brief.<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n"
    body = {"model": "vita", "prompt": text + "<|im_start|>assistant\n", "temperature": 0, "max_tokens": 24}
    answer = httpx.post(f"{url}/v1/completions", json=body | {"return_token_ids": True}, timeout=120).json()
    assert tuple(answer["choices"][0]["token_ids"]) == ask_engine(engine, CASES["system text"])
