"""/v1/audio/speech, the lists of voices, and spoken answers of chat completions."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import soundfile

import vita
from tests.serve.running import Running, running
from tests.speech.tone import tone
from tests.voices import espeak, voices_are_declared  # noqa: F401  fixtures
from vita.serve.audio_out import StreamEncoder, audio_tokens, encode_file
from vita.serve.auth import Tenant
from vita.serve.errors import ApiError
from vita.serve.options import ServeOptions
from vita.serve.transcripts import Transcripts
from vita.speech.audio_file import to_int16
from vita.speech.voice import ALIASES, SAMPLE_RATE, Voice

SPEECH, CHAT = "/v1/audio/speech", "/v1/chat/completions"
TYPES = {
    "mp3": "audio/mpeg", "opus": "audio/ogg", "aac": "audio/aac", "flac": "audio/flac", "wav": "audio/wav",
    "pcm": "audio/pcm",
}  # fmt: skip
HELLO = [{"role": "user", "content": "What can you do?"}]


@pytest.fixture(scope="module")
def spoken(embedded: vita.Vita, espeak: Voice) -> Iterator[Running]:  # noqa: F811
    with running(embedded, ServeOptions(port=0, voice="espeak")) as served:
        yield served


def decoded(data: bytes, form: str) -> np.ndarray:
    """Mono samples of a file."""
    if form in ("pcm", "pcm16"):
        return np.frombuffer(data, "<i2").astype(np.float32) / 32767
    if form in ("aac", "flac"):  # soundfile reads no FLAC of open length
        import av

        with av.open(io.BytesIO(data)) as container:
            return np.concatenate([frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)])
    samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    assert rate in (SAMPLE_RATE, 48_000) and samples.ndim == 1
    return samples[:: rate // SAMPLE_RATE]


class TestSpeech:
    @pytest.mark.parametrize("form", TYPES)
    def test_every_format_holds_the_speech(self, spoken: Running, embedded: vita.Vita, form: str) -> None:
        text = "Hello there. I am a very small model."
        body = {"input": text, "model": "tts-1", "voice": "alloy", "response_format": form}
        answer = spoken.client.post(SPEECH, json=body)
        assert answer.status_code == 200 and answer.headers["content-type"].split(";")[0] == TYPES[form], answer.text
        expected = embedded.speak(text, voice="espeak").read()
        found = decoded(answer.content, form)
        assert abs(len(found) - len(expected)) < 0.15 * SAMPLE_RATE  # espeak does not say a text twice the same way

    def test_mp3_is_the_default_and_all_of_openais_voices_are_accepted(self, spoken: Running) -> None:
        for voice in sorted(ALIASES):
            answer = spoken.client.post(SPEECH, json={"input": "Hi.", "model": "gpt-4o-mini-tts", "voice": voice})
            assert answer.status_code == 200 and answer.headers["content-type"] == "audio/mpeg"
        named = spoken.client.post(SPEECH, json={"input": "Hi.", "voice": {"id": "espeak"}})
        assert named.status_code == 200

    def test_speed_changes_the_duration(self, spoken: Running) -> None:
        slow, fast = (
            len(
                spoken.client.post(
                    SPEECH, json={"input": "One two three.", "response_format": "pcm", "speed": s}
                ).content
            )
            for s in (0.7, 1.6)
        )
        assert slow > 1.5 * fast

    def test_events(self, spoken: Running) -> None:
        body = {"input": "Hello there.", "response_format": "pcm", "stream_format": "sse"}
        answer = spoken.client.post(SPEECH, json=body)
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(block[6:]) for block in answer.text.strip().split("\n\n")]
        assert [e["type"] for e in events] == ["speech.audio.delta"] * (len(events) - 1) + ["speech.audio.done"]
        data = b"".join(base64.b64decode(e["audio"]) for e in events[:-1])
        plain = spoken.client.post(SPEECH, json=body | {"stream_format": "audio"}).content
        assert abs(len(data) - len(plain)) < 0.1 * len(plain)
        usage = events[-1]["usage"]
        assert usage["output_tokens"] == audio_tokens(len(data) // 2)
        assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"input": ""}, "input"), ({"input": "x" * 4097}, "input"), ({"speed": 5}, "speed"),
            ({"response_format": "midi"}, "response_format"), ({"voice": "nobody"}, "no voice 'nobody'"),
            ({"voice": 5}, "voice"), ({"instructions": "Whisper."}, "instructions"),
            ({"input": " \n"}, "nothing to say"),
        ],
    )  # fmt: skip
    def test_impossible_values_are_one_sentence(self, spoken: Running, fields: dict[str, Any], said: str) -> None:
        answer = spoken.client.post(SPEECH, json={"input": "Hi.", **fields})
        assert answer.status_code == 400 and said in answer.json()["error"]["message"], answer.text

    def test_lists(self, spoken: Running) -> None:
        voices = spoken.client.get("/v1/audio/voices").json()["voices"]
        assert any(voice["id"] == "espeak" and voice["name"] for voice in voices)
        assert spoken.client.get("/v1/audio/models").json() == {"models": [{"id": "default"}]}

    def test_a_server_without_a_voice_says_so_once(self, embedded: vita.Vita, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("vita.speech.voice.find_voices", dict)
        with running(embedded) as served:
            if embedded.checkpoint_voice is not None:
                pytest.skip("SKIPPED LOUDLY: the checkpoint has a voice of its own")
            for path, body in (
                (SPEECH, {"input": "Hi."}),
                (CHAT, {"messages": HELLO, "modalities": ["text", "audio"]}),
            ):
                answer = served.client.post(path, json=body)
                assert answer.status_code == 501 and answer.json()["error"]["code"] == "voice_not_installed"
                assert (
                    answer.headers["x-should-retry"] == "false" and "pip install" in answer.json()["error"]["message"]
                )
            assert served.client.get("/v1/audio/voices").json() == {"voices": []}


class TestSpokenAnswers:
    @pytest.mark.parametrize("form", ["wav", "mp3", "flac", "opus", "aac", "pcm16"])
    def test_an_answer_with_audio(self, spoken: Running, embedded: vita.Vita, form: str) -> None:
        body = {"messages": HELLO, "modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": form}}
        answer = spoken.client.post(CHAT, json=body)
        assert answer.status_code == 200, answer.text
        message = answer.json()["choices"][0]["message"]
        text = embedded.ask("What can you do?").text
        assert message["content"] is None and message["audio"]["transcript"] == text
        assert message["audio"]["id"].startswith("audio_") and message["audio"]["expires_at"] > 0
        expected = embedded.speak(text, voice="espeak").read()
        found = decoded(base64.b64decode(message["audio"]["data"]), form)
        assert abs(len(found) - len(expected)) < 0.3 * SAMPLE_RATE
        usage = answer.json()["usage"]
        made = usage["completion_tokens_details"]["audio_tokens"]
        assert made > 10 and usage["completion_tokens"] == made + usage["completion_tokens_details"]["text_tokens"]

    def test_a_stream_with_audio(self, spoken: Running, embedded: vita.Vita) -> None:
        body = {
            "messages": HELLO, "modalities": ["audio", "text"], "audio": {"voice": "alloy", "format": "pcm16"},
            "stream": True, "stream_options": {"include_usage": True},
        }  # fmt: skip
        lines = spoken.client.post(CHAT, json=body).text.strip().split("\n\n")
        assert lines[-1] == "data: [DONE]"
        found = [json.loads(line[6:]) for line in lines[:-1]]
        deltas = [c["choices"][0]["delta"] for c in found if c["choices"]]
        assert deltas[0] == {"role": "assistant", "content": ""} and set(deltas[1]["audio"]) == {"id"}
        audio = [d["audio"] for d in deltas if "audio" in d]
        text = embedded.ask("What can you do?").text
        assert "".join(a.get("transcript", "") for a in audio) == text and set(audio[-1]) == {"expires_at"}
        data = b"".join(base64.b64decode(a["data"]) for a in audio if "data" in a)
        expected = len(embedded.speak(text, voice="espeak").read())
        assert abs(len(data) // 2 - expected) < 0.1 * expected
        assert found[-1]["choices"] == [] and found[-1]["usage"]["completion_tokens_details"]["audio_tokens"] > 0
        assert found[-2]["choices"][0]["finish_reason"] == "stop"

    def test_history_refers_to_an_answer_by_its_id(self, spoken: Running, embedded: vita.Vita) -> None:
        body = {"messages": HELLO, "modalities": ["audio"], "audio": {"format": "pcm16"}}
        first = spoken.client.post(CHAT, json=body).json()["choices"][0]["message"]["audio"]
        again = {"role": "user", "content": "What else?"}
        messages = [*HELLO, {"role": "assistant", "audio": {"id": first["id"]}}, again]
        answer = spoken.client.post(CHAT, json={"messages": messages}).json()
        turns = [vita.user("What can you do?"), vita.assistant(first["transcript"]), vita.user("What else?")]
        assert answer["choices"][0]["message"]["content"] == embedded.submit(turns).result().text
        messages[1] = {"role": "assistant", "audio": {"id": "audio_unknown"}}
        wrong = spoken.client.post(CHAT, json={"messages": messages})
        assert wrong.status_code == 400 and wrong.json()["error"]["param"] == "messages[1].audio.id"

    @pytest.mark.parametrize(
        ("fields", "param"),
        [
            ({"stream": True}, "audio.format"), ({"n": 2}, "n"), ({"logprobs": True}, "logprobs"),
            ({"audio": {"format": "midi"}}, "audio.format"), ({"audio": {"voice": 5}}, "audio.voice"),
        ],
    )  # fmt: skip
    def test_what_is_not_spoken_is_refused_by_name(self, spoken: Running, fields: dict[str, Any], param: str) -> None:
        answer = spoken.client.post(CHAT, json={"messages": HELLO, "modalities": ["text", "audio"], **fields})
        assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_transcripts_expire_and_belong_to_their_tenant() -> None:
    now = [0.0]
    kept = Transcripts(lambda: now[0])
    assert kept.keep("a", "one", Tenant("x")) == 3600
    assert kept.find("a", Tenant("x"), "p") == "one"
    for id, tenant in (("a", Tenant("y")), ("b", Tenant("x"))):
        with pytest.raises(ApiError, match="no such audio"):
            kept.find(id, tenant, "p")
    now[0] = 3600
    with pytest.raises(ApiError, match="expired"):
        kept.find("a", Tenant("x"), "p")
    for n in range(5000):
        kept.keep(str(n), "word", Tenant())
    assert len(kept._texts) == 4096


@pytest.mark.parametrize("form", TYPES)
def test_pieces_of_a_file_add_up_to_one_that_can_be_read(form: str) -> None:
    samples = tone("a tone of some length")
    encoder = StreamEncoder(form)
    data = b"".join(encoder.add(samples[at : at + 1920]) for at in range(0, len(samples), 1920)) + encoder.finish()
    assert abs(len(decoded(data, form)) - len(samples)) < 3000
    found, whole = decoded(data, form), decoded(encode_file(samples, form), form)
    assert abs(len(whole) - len(samples)) < 3000
    if form in ("pcm", "wav", "flac"):
        exact = to_int16(samples).astype(np.float32)
        for one in (found, whole):  # readers scale by 32,767 or 32,768
            assert np.abs(one * (1 if form == "flac" else 32767) - exact).max() <= 2
