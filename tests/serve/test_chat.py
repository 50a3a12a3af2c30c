"""/v1/chat/completions: what is answered, streamed, counted, and refused by name."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

import vita
from tests.serve.conftest import ASSETS
from tests.serve.running import Running
from vita.types import SamplingParams

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "What can you do?"}]


def ask(served: Running, messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    answer = served.client.post(CHAT, json={"messages": messages, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def chunks(served: Running, messages: list[dict[str, Any]], **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a stream, which ends with [DONE]."""
    answer = served.client.post(CHAT, json={"messages": messages, "stream": True, **fields})
    assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
    lines = [line for line in answer.text.split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    return [json.loads(line[6:]) for line in lines[:-1]]


def refused(served: Running, status: int = 400, **fields: Any) -> dict[str, Any]:
    answer = served.client.post(CHAT, json={"messages": HELLO, **fields})
    assert answer.status_code == status, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"] and "Traceback" not in error["message"] and error["message"].endswith(".")
    return error


def user(*parts: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def image(url: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


class TestWholeAnswers:
    def test_the_answer_is_the_engines(self, served: Running, embedded: vita.Vita) -> None:
        found = ask(served, HELLO, model="vita")
        result = embedded.ask("What can you do?")
        message = {"role": "assistant", "content": result.text, "refusal": None}
        assert found["choices"] == [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}]
        assert found["object"] == "chat.completion" and found["id"].startswith("chatcmpl-")
        usage = found["usage"]
        assert usage["prompt_tokens"] == result.usage.prompt_tokens
        assert usage["completion_tokens"] == result.usage.completion_tokens
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
        assert found["vita"]["state"] == "typed" and found["vita"]["timings"]["total"] > 0

    def test_an_image_audio_and_a_video(self, served: Running, embedded: vita.Vita, logo: str, speech: str) -> None:
        found = ask(served, user(text("What color is the text?"), image(logo)))
        whole = embedded.submit(
            vita.Message("user", (vita.Text("What color is the text?"), vita.Image(ASSETS / "vita_logo.png")))
        ).result()
        assert found["choices"][0]["message"]["content"] == whole.text
        details = found["usage"]["prompt_tokens_details"]
        assert details["image_tokens"] == whole.usage.image_tokens > 0 and details["audio_tokens"] == 0
        spoken = ask(served, user({"type": "input_audio", "input_audio": {"data": speech, "format": "flac"}}))
        assert spoken["vita"]["state"] == "spoken" and spoken["usage"]["prompt_tokens_details"]["audio_tokens"] > 0
        assert spoken["choices"][0]["message"]["content"] == embedded.ask(audio=ASSETS / "what_can_you_do.flac").text
        clip = next((ASSETS.parent / "tests/default/heldout").glob("*.mp4"))
        url = "data:video/mp4;base64," + base64.b64encode(clip.read_bytes()).decode()
        seen = ask(served, user({"type": "video_url", "video_url": {"url": url}}, text("What happens?")))
        whole = embedded.submit(vita.Message("user", (vita.Video(clip), vita.Text("What happens?")))).result()
        assert seen["choices"][0]["message"]["content"] == whole.text
        assert seen["usage"]["prompt_tokens_details"]["image_tokens"] == whole.usage.image_tokens

    def test_low_detail_is_one_tile_of_that_image_only(self, mini_model: vita.Vita, logo: str) -> None:
        from tests.serve.running import running

        with running(mini_model) as served:  # the embedded checkpoint cuts no tiles
            low, high = (
                ask(served, user(image(logo, detail=detail), text("?")), max_tokens=1) for detail in ("low", "high")
            )
            both = ask(served, user(image(logo, detail="low"), image(logo), text("?")), max_tokens=1)
        counts = [a["usage"]["prompt_tokens_details"]["image_tokens"] for a in (low, high, both)]
        assert counts[0] == mini_model.engine.model.config.vision.tokens_per_tile < counts[1]
        assert counts[2] == counts[0] + counts[1]

    def test_a_conversation_of_several_turns(self, served: Running, embedded: vita.Vita, logo: str) -> None:
        turns = [
            {"role": "system", "content": "Be brief."}, {"role": "developer", "content": "Be kind."},
            *user(image(logo), text("What does it say?")),
            {"role": "assistant", "content": [text("VITA.")]}, {"role": "user", "content": "What color is the text?"},
        ]  # fmt: skip
        found = ask(served, turns)
        messages = [
            vita.system("Be brief.\n\nBe kind."),
            vita.Message("user", (vita.Image(ASSETS / "vita_logo.png"), vita.Text("What does it say?"))),
            vita.assistant("VITA."), vita.user("What color is the text?"),
        ]  # fmt: skip
        assert found["choices"][0]["message"]["content"] == embedded.submit(messages).result().text

    def test_n_seed_temperature_and_stop(self, served: Running, embedded: vita.Vita) -> None:
        fields = {"n": 3, "seed": 11, "temperature": 1.5, "top_p": 0.9}
        first, second = ask(served, HELLO, **fields), ask(served, HELLO, **fields)
        contents = [choice["message"]["content"] for choice in first["choices"]]
        assert contents == [choice["message"]["content"] for choice in second["choices"]]
        assert [choice["index"] for choice in first["choices"]] == [0, 1, 2]
        params = SamplingParams(n=3, seed=11, temperature=1.5, top_p=0.9)
        assert contents == [r.text for r in embedded.submit(vita.user("What can you do?"), params).results()]
        whole = ask(served, HELLO)["choices"][0]["message"]["content"]
        word = whole.split()[3]
        for stop in (word, [word, "zzz"]):
            choice = ask(served, HELLO, stop=stop)["choices"][0]
            assert (
                choice["message"]["content"] == whole[: whole.index(word)].rstrip()
                and choice["finish_reason"] == "stop"
            )

    @pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
    def test_a_length_is_kept(self, served: Running, name: str) -> None:
        found = ask(served, HELLO, **{name: 3})
        assert found["usage"]["completion_tokens"] == 3 and found["choices"][0]["finish_reason"] == "length"

    def test_penalties_and_biases_reach_the_sampler(self, served: Running, embedded: vita.Vita) -> None:
        first = embedded.ask("What can you do?").token_ids[1]
        plain = ask(served, HELLO)["choices"][0]["message"]["content"]
        banned = ask(served, HELLO, logit_bias={str(first): -100})["choices"][0]["message"]["content"]
        params = SamplingParams(max_tokens=1024, logit_bias={first: -100})
        assert banned == embedded.ask("What can you do?", params=params).text != plain
        both = {"frequency_penalty": 1.5, "presence_penalty": 0.5}
        params = SamplingParams(max_tokens=1024, frequency_penalty=1.5, presence_penalty=0.5)
        found = ask(served, HELLO, **both)["choices"][0]["message"]["content"]
        assert found == embedded.ask("What can you do?", params=params).text

    def test_log_probabilities_cover_the_text(self, served: Running) -> None:
        choice = ask(served, HELLO, logprobs=True, top_logprobs=2)["choices"][0]
        content = choice["logprobs"]["content"]
        assert b"".join(bytes(entry["bytes"]) for entry in content).decode() == choice["message"]["content"]
        for entry in content:
            assert entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 2
            assert entry["top_logprobs"][0]["logprob"] >= entry["top_logprobs"][1]["logprob"]
        plain = ask(served, HELLO, logprobs=True)["choices"][0]["logprobs"]["content"]
        assert [e["token"] for e in plain] == [e["token"] for e in content] and not plain[0]["top_logprobs"]

    def test_a_prefix_is_found_in_the_cache(self, served: Running) -> None:
        turn = [{"role": "user", "content": "Say something about shapes, please, in one sentence."}]
        ask(served, turn)
        assert ask(served, turn)["usage"]["prompt_tokens_details"]["cached_tokens"] > 5


class TestStreams:
    def test_a_stream_adds_up_to_the_whole_answer(self, served: Running) -> None:
        whole = ask(served, HELLO)
        found = chunks(served, HELLO)
        assert len({c["id"] for c in found}) == 1 and all(c["object"] == "chat.completion.chunk" for c in found)
        assert found[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        said = "".join(c["choices"][0]["delta"].get("content", "") for c in found)
        assert said == whole["choices"][0]["message"]["content"]
        assert [c["choices"][0]["finish_reason"] for c in found] == [None] * (len(found) - 1) + ["stop"]
        assert all("usage" not in c for c in found)

    def test_usage_comes_last_with_no_choices(self, served: Running) -> None:
        found = chunks(served, HELLO, stream_options={"include_usage": True, "include_obfuscation": False})
        assert all(c["usage"] is None for c in found[:-1]) and found[-1]["choices"] == []
        whole = ask(served, HELLO)["usage"]
        for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
            assert found[-1]["usage"][name] == whole[name]

    def test_several_answers_in_one_stream(self, served: Running) -> None:
        fields: dict[str, Any] = {"n": 2, "seed": 5, "temperature": 1.5, "logprobs": True}
        whole, found = ask(served, HELLO, **fields), chunks(served, HELLO, **fields)
        for index in (0, 1):
            mine = [c["choices"][0] for c in found if c["choices"][0]["index"] == index]
            said = "".join(c["delta"].get("content", "") for c in mine)
            assert said == whole["choices"][index]["message"]["content"]
            assert mine[0]["delta"] == {"role": "assistant", "content": ""} and mine[-1]["finish_reason"] == "stop"
            assert mine[-1]["logprobs"] == whole["choices"][index]["logprobs"]

    def test_errors_before_the_first_token_have_a_status(self, served: Running) -> None:
        body = {"messages": user(image("data:image/png;base64,AAAA")), "stream": True}
        answer = served.client.post(CHAT, json=body)
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_media"

    def test_a_client_that_leaves_frees_its_row(self, served: Running) -> None:
        before = served.client.get("/health")
        assert before.status_code == 200
        cancelled = served.server.model.stats().cancelled
        fields = {"messages": HELLO, "stream": True, "max_tokens": 3000, "logit_bias": ban_the_end(served)}
        with served.client.stream("POST", CHAT, json=fields) as answer:
            next(answer.iter_lines())
        wait_for(lambda: served.server.model.stats().cancelled == cancelled + 1 and served.server.active == 0)

    def test_a_client_that_leaves_before_a_whole_answer_frees_its_row(self, served: Running) -> None:
        cancelled = served.server.model.stats().cancelled
        fields = {"messages": HELLO, "max_tokens": 3000, "logit_bias": ban_the_end(served)}
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(served.url + CHAT, json=fields, timeout=1.0, trust_env=False)
        wait_for(lambda: served.server.model.stats().cancelled == cancelled + 1 and served.server.active == 0)


def ban_the_end(served: Running) -> dict[str, int]:
    """A bias that keeps an answer from ending."""
    return {str(token): -100 for token in served.server.model.engine.model.stop_ids}


def wait_for(condition: Any) -> None:
    import time

    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, "it did not happen within a minute"
        time.sleep(0.02)


NEUTRAL: dict[str, Any] = {
    "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "tool_choice": "auto", "tools": [],
    "response_format": {"type": "text"}, "user": "me", "metadata": {"a": "b"}, "store": False,
    "service_tier": "auto", "parallel_tool_calls": True, "reasoning_effort": None, "verbosity": "medium",
    "logprobs": False, "stop": None, "seed": None, "modalities": ["text"], "stream": False, "max_tokens": None,
    "safety_identifier": "x", "prompt_cache_key": "y", "a_field_of_next_year": 1,
}  # fmt: skip


class TestFields:
    def test_neutral_values_pass(self, served: Running) -> None:
        assert ask(served, HELLO, **NEUTRAL)["choices"][0]["message"]["content"]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("response_format", {"type": "json_object"}), ("response_format", {"type": "json_schema"}),
            ("tool_choice", "required"), ("tool_choice", {"type": "function", "function": {"name": "f"}}),
            ("reasoning_effort", "high"), ("verbosity", "low"), ("service_tier", "flex"), ("store", True),
            ("modalities", ["text", "video"]), ("prediction", {"type": "content", "content": "x"}),
            ("web_search_options", {}),
        ],
    )  # fmt: skip
    def test_what_cannot_be_honoured_is_refused_by_name(self, served: Running, name: str, value: Any) -> None:
        error = refused(served, **{name: value})
        assert (error["code"], error["param"]) == ("unsupported_parameter", name)

    @pytest.mark.parametrize(
        ("field", "value", "said"),
        [
            ("temperature", 3, "temperature"), ("temperature", "1", "temperature"), ("top_p", -0.1, "top_p"),
            ("max_tokens", 0, "max_tokens"), ("n", 17, "n: must be between 1 and 16"), ("n", 0, "n"),
            ("logit_bias", {"x": 1}, "logit_bias"), ("logit_bias", {"1": 101}, "logit_bias"),
            ("logit_bias", {"999999999": 1}, "not in the vocabulary"), ("stop", [""], "stop"),
            ("stop", ["a"] * 17, "stop"), ("seed", 2**63, "seed"), ("top_logprobs", 2, "needs logprobs"),
            ("messages", [], "messages"), ("messages", [{"role": "robot", "content": "x"}], "messages[0].role"),
            ("messages", [{"role": "user", "content": 5}], "messages[0].content"),
            ("messages", [{"role": "user", "content": [5]}], "messages[0].content[0]"),
            ("messages", [{"role": "user", "content": [{"type": "hologram"}]}], "'hologram' is not a content part"),
            ("messages", [{"role": "user", "content": [{"type": "file", "file": {}}]}], "files are not read"),
            ("messages", [{"role": "user", "content": ""}], "there is no question"),
            ("messages", [{"role": "system", "content": "x"}], "there is no question"),
            ("messages", [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}], "last message"),
            ("messages", user({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "midi"}}), "format"),
            ("messages", user({"type": "input_audio", "input_audio": {"data": "!", "format": "wav"}}), "base64"),
            ("messages", user(image("data:image/png;base64,AA", detail="huge")), "detail"),
            ("messages", user({"type": "image_url", "image_url": 5}), "must name a URL"),
            ("messages", user(text("x" * 30_000)), "context is 4096"),
        ],
    )  # fmt: skip
    def test_impossible_values_are_one_sentence_about_the_field(
        self, served: Running, field: str, value: Any, said: str
    ) -> None:
        assert said in refused(served, **{field: value})["message"]

    def test_a_model_that_is_not_loaded(self, served: Running) -> None:
        error = refused(served, 404, model="gpt-4o")
        assert (error["code"], error["param"]) == ("model_not_found", "model")

    def test_a_body_that_is_no_json_object(self, served: Running) -> None:
        for content in (b"", b"{", b"[]", b"5", b'"x"', b"\xff\xfe", b'{"messages": [NaN]}', b"[" * 200_000):
            answer = served.client.post(CHAT, content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error", content[:9]
        untyped = served.client.post(CHAT, content=json.dumps({"messages": HELLO}))
        assert untyped.status_code == 400 and "Content-Type: application/json" in untyped.json()["error"]["message"]
