"""`vita serve --engine vllm`: our surfaces answer with vLLM as they answer with our own engine."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import soundfile

import vita
from tests.vllm.cases import cases
from tests.vllm.running import ENVIRONMENT, as_openai, data_url
from vita.checkpoint.files import DEFAULT

INPUTS = Path(__file__).parents[1] / "goldens" / "mini" / "inputs"
CASES = cases(INPUTS)
SERVED = ["text", "system text", "image", "several images", "video", "audio", "image and audio", "turns with speech"]
# fmt: off
ARGUMENTS = json.dumps({"enforce_eager": True, "kv_cache_memory_bytes": 64 << 20, "max_num_seqs": 8})
# fmt: on
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A server of the embedded checkpoint: its process, url and a client. Ctrl-C must end it with 0."""
    log = tmp_path_factory.mktemp("serve") / "log"
    command = [sys.executable, "-m", "vita", "serve", str(DEFAULT), "--port", "0", "--engine", "vllm"]
    command += ["--engine-args", ARGUMENTS, "--dtype", "float32"]
    variables = os.environ | ENVIRONMENT | {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    with log.open("wb") as out:
        process = subprocess.Popen(command, env=variables, stdout=out, stderr=out, start_new_session=True)
    try:
        while not (found := re.search(r"API base URL: (\S+)/v1", log.read_text(errors="replace"))):
            assert process.poll() is None, log.read_text(errors="replace")[-4000:]
            time.sleep(0.2)
        with httpx.Client(base_url=found[1], timeout=120, trust_env=False) as client:
            yield SimpleNamespace(process=process, url=found[1], client=client)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: vLLM's processes get it, too
        assert process.wait(120) == 0, log.read_text(errors="replace")[-4000:]
        assert "Traceback" not in log.read_text(errors="replace"), "a client's mistake is no fault of the server"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)


@pytest.fixture(scope="module")
def own() -> Iterator[vita.Vita]:
    """Our engine."""
    with vita.load(dtype="float32", device="cpu") as model:
        yield model


def body(name: str, **more: Any) -> dict[str, Any]:
    return {"messages": as_openai(CASES[name]), "max_tokens": 24} | more


def post(served: SimpleNamespace, name: str, **more: Any) -> dict[str, Any]:
    answer = served.client.post(CHAT, json=body(name, **more))
    assert answer.status_code == 200, answer.text
    return answer.json()


def metric(served: SimpleNamespace, name: str) -> float:
    text = served.client.get("/metrics").text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"vita_engine_{name} "))


def streamed(served: SimpleNamespace, **fields: Any) -> list[dict[str, Any]]:
    """The chunks of a stream."""
    with served.client.stream("POST", CHAT, json=fields | {"stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize("name", SERVED)
def test_answers_equal_the_engines(served: SimpleNamespace, own: vita.Vita, name: str) -> None:
    want = own.submit(CASES[name], vita.SamplingParams(max_tokens=24)).result()
    whole = post(served, name)
    assert whole["choices"][0]["message"]["content"] == want.text
    assert whole["choices"][0]["finish_reason"] == ("length" if want.finish_reason == "length" else "stop")
    assert whole["vita"]["state"] == want.state
    usage = whole["usage"]
    assert usage["prompt_tokens"] == want.usage.prompt_tokens
    assert usage["completion_tokens"] == want.usage.completion_tokens
    assert usage["prompt_tokens_details"]["audio_tokens"] == want.usage.audio_tokens
    chunks = streamed(served, **body(name))
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == want.text


def test_responses_answer_too(served: SimpleNamespace, own: vita.Vita) -> None:
    answer = served.client.post("/v1/responses", json={"input": "Hello, who are you?", "max_output_tokens": 24}).json()
    want = own.submit(CASES["text"], vita.SamplingParams(max_tokens=24)).result()
    assert answer["output"][0]["content"][0]["text"] == want.text


def test_a_stop_sequence_ends_the_answer(served: SimpleNamespace, own: vita.Vita) -> None:
    want = own.submit(CASES["text"], vita.SamplingParams(max_tokens=24, stop=("small",))).result()
    choice = post(served, "text", stop="small")["choices"][0]
    assert choice["message"]["content"] == want.text and choice["finish_reason"] == "stop"


def test_several_answers_with_a_seed_are_repeatable(served: SimpleNamespace) -> None:
    def ask() -> list[str]:
        found = post(served, "image", n=3, temperature=1.5, seed=7, max_tokens=12)["choices"]
        return [choice["message"]["content"] for choice in found]

    first = ask()
    assert len(first) == 3 and ask() == first


def test_log_probabilities_are_our_engines(served: SimpleNamespace, own: vita.Vita) -> None:
    want = own.submit(CASES["text"], vita.SamplingParams(max_tokens=6, logprobs=2)).result().logprobs[1:]
    got = post(served, "text", max_tokens=6, logprobs=True, top_logprobs=2)["choices"][0]["logprobs"]["content"]
    assert [token["token"] for token in got] == [token.text for token in want]
    assert [token["logprob"] for token in got] == pytest.approx([token.logprob for token in want], abs=1e-3)
    tops = [[one["token"] for one in token["top_logprobs"]] for token in got]
    assert tops == [[text for _, text, _ in token.top] for token in want]


@pytest.mark.parametrize("field", ["frequency_penalty", "presence_penalty", "repetition_penalty"])
def test_a_penalty_beside_every_kind_of_media(served: SimpleNamespace, field: str) -> None:
    """vLLM counts the prompt's ids for penalties, placeholders too."""
    for name in ("image", "video and audio"):
        post(served, name, **{field: 1.5})
    assert served.client.get("/health").status_code == 200


def test_a_client_that_leaves_ends_its_request(served: SimpleNamespace) -> None:
    before = metric(served, "cancelled_total")
    ends = json.loads((DEFAULT / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    never = {str(token): -100 for token in ends}
    fields = body("image", max_tokens=4000, logit_bias=never, stream=True)  # never ends by itself
    with served.client.stream("POST", CHAT, json=fields) as answer:
        for number, _ in enumerate(answer.iter_lines()):
            if number == 8:
                break
    until = time.monotonic() + 60
    while metric(served, "cancelled_total") != before + 1:
        assert time.monotonic() < until, "the request was not cancelled"
        time.sleep(0.1)
    post(served, "text")  # vLLM reports its queues after a step
    assert metric(served, "running") <= 1


def test_clients_that_leave_at_once_leave_nothing(served: SimpleNamespace) -> None:
    for n in range(30):
        with suppress(httpx.TimeoutException):
            served.client.post(CHAT, json=body("text"), timeout=0.001 * (n + 1))
    until = time.monotonic() + 60
    while metric(served, "submitted_total") != sum(metric(served, f"{n}_total") for n in ("finished", "cancelled")):
        assert time.monotonic() < until, "a request has not ended"
        time.sleep(0.1)


BROKEN = data_url(b"this is text, and not what it says it is", "image/png")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": BROKEN}}]}]}, "image"),
        ({"messages": [{"role": "user", "content": "word " * 60_000}]}, "context"),
        ({"messages": [{"role": "user", "content": ""}]}, "no question"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"), ({"temperature": 3}, "temperature"),
        ({"top_logprobs": 2}, "top_logprobs"), ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_a_mistake_is_the_clients_error(served: SimpleNamespace, fields: Any, said: str, stream: bool) -> None:
    answer = served.client.post(CHAT, json=body("text") | fields | {"stream": stream})
    assert answer.status_code == 400, answer.text
    message = answer.json()["error"]["message"]
    assert said in message and "Traceback" not in message


def test_the_answer_is_spoken(served: SimpleNamespace, own: vita.Vita) -> None:
    pytest.importorskip("espeakng_loader", reason="SKIPPED LOUDLY: no voice is installed")
    want = own.submit(CASES["text"], vita.SamplingParams(max_tokens=24)).result()
    spoken = post(served, "text", modalities=["text", "audio"], audio={"voice": "espeak", "format": "wav"})
    message = spoken["choices"][0]["message"]["audio"]
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(message["data"])))
    assert message["transcript"] == want.text
    assert len(samples) / rate > 2 and abs(samples).max() > 0.1
    answer = served.client.post("/v1/audio/speech", json={"input": "Hello.", "voice": "espeak"})
    assert answer.status_code == 200 and len(answer.content) > 1000


def test_the_checkpoints_own_voice_is_refused_by_name(served: SimpleNamespace) -> None:
    answer = served.client.post("/v1/audio/speech", json={"input": "Hello.", "voice": "vita"})
    assert answer.status_code == 501 and "the checkpoint's own voice" in answer.json()["error"]["message"]


def test_a_recording_is_written_down(served: SimpleNamespace) -> None:
    file = Path(__file__).parents[2] / "assets" / "what_can_you_do.flac"
    answer = served.client.post("/v1/audio/transcriptions", files={"file": file.read_bytes()})
    assert answer.status_code == 200 and "can you do" in answer.json()["text"].lower(), answer.text


@pytest.mark.parametrize("spoken", [False, True], ids=["typed", "spoken"])
def test_a_realtime_turn(served: SimpleNamespace, spoken: bool) -> None:
    pytest.importorskip("silero_vad", reason="SKIPPED LOUDLY: silero-vad is not installed")
    from tests.serve.realtime.client import connected

    with connected(served) as client:
        client.until("session.created")
        client.update(output_modalities=["text"])
        if spoken:
            client.speak()
        else:
            client.create_text("What can you do?")
            client.send("response.create")
        done = client.until("response.done")["response"]
        assert done["status"] == "completed", done
        (content,) = done["output"][0]["content"]
        assert len(content["text"]) > 20
        assert done["usage"]["output_tokens"] > 5


def test_metrics_of_the_engine(served: SimpleNamespace) -> None:
    before = metric(served, "finished_total"), metric(served, "completion_tokens_total")
    usage = post(served, "text")["usage"]
    assert metric(served, "finished_total") == before[0] + 1
    assert metric(served, "completion_tokens_total") == before[1] + usage["completion_tokens"]
    assert 32 << 20 <= metric(served, "kv_budget") <= 64 << 20
    assert metric(served, "healthy") == 1 and metric(served, "decode_steps_total") > 0


def test_an_argument_that_vllm_does_not_have_is_one_sentence() -> None:
    command = [sys.executable, "-m", "vita", "serve", "--port", "0", "--engine", "vllm"]
    command += ["--engine-args", '{"no_such_argument": 1}']
    done = subprocess.run(command, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "--engine-args" in last and "no_such_argument" in last and "Traceback" not in done.stderr
