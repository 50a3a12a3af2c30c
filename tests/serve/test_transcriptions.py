"""/v1/audio/transcriptions: forms and JSON, formats, streams, times."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import soundfile
from torch import Tensor

from tests.serve.conftest import ASSETS
from tests.serve.running import Running
from vita.events import TokenLogprob
from vita.model.kv_cache import KVCache
from vita.serve.server import load_vad_if_installed
from vita.serve.sse import DELTA_SECONDS
from vita.serve.transcribe import SAMPLE_RATE, TranscriptText, find_segments, transcript_tokens

URL = "/v1/audio/transcriptions"
FILE = ASSETS / "what_can_you_do.flac"
SAID = "can you do"  # the embedded model writes a word twice now and then


def post(served: Running, **fields: Any) -> Any:
    return served.client.post(URL, files={"file": (FILE.name, FILE.read_bytes())}, data=fields)


class TestWhole:
    def test_json_is_the_default(self, served: Running) -> None:
        for fields in ({}, {"model": "whisper-1", "response_format": "json", "language": "en", "prompt": "names"}):
            found = post(served, **fields)
            assert found.status_code == 200 and SAID in found.json()["text"], found.text
            usage = found.json()["usage"]
            assert usage["type"] == "tokens" and usage["input_token_details"]["audio_tokens"] > 0
            assert "\n" not in found.json()["text"]

    def test_text_is_plain(self, served: Running) -> None:
        found = post(served, response_format="text")
        assert found.headers["content-type"].startswith("text/plain") and SAID in found.text

    def test_verbose_json_has_times_of_speech(self, served: Running) -> None:
        found = post(served, response_format="verbose_json", language="en", **{"timestamp_granularities[]": "segment"})
        body = found.json()
        seconds = soundfile.info(FILE).duration
        assert body["task"] == "transcribe" and body["language"] == "en" and abs(body["duration"] - seconds) < 0.01
        assert body["usage"]["type"] == "duration" and len(body["segments"]) == 1
        segment = body["segments"][0]
        assert 0 <= segment["start"] < segment["end"] <= body["duration"] and segment["text"] == body["text"]
        assert segment["avg_logprob"] < 0 < segment["compression_ratio"] and segment["no_speech_prob"] < 0.5
        assert segment["tokens"] and SAID in body["text"]

    def test_two_utterances_are_two_segments(self, served: Running) -> None:
        samples, rate = soundfile.read(FILE, dtype="float32")
        gap = np.zeros(rate, np.float32)
        out = io.BytesIO()
        soundfile.write(out, np.concatenate([samples, gap, gap, samples]), rate, format="WAV")
        found = served.client.post(
            URL, files={"file": ("two.wav", out.getvalue())}, data={"response_format": "verbose_json"}
        )
        first, second = found.json()["segments"]
        length = len(samples) / rate
        assert first["end"] <= length + 2 and second["start"] >= length + 1 and second["start"] < length + 2.5
        assert found.json()["text"] == f"{first['text']} {second['text']}"

    def test_subtitles_have_those_times(self, served: Running) -> None:
        srt, vtt = (post(served, response_format=form).text for form in ("srt", "vtt"))
        assert srt.startswith("1\n00:00:00,") and " --> 00:00:0" in srt and SAID in srt
        assert vtt.startswith("WEBVTT\n\n00:00:00.") and SAID in vtt

    def test_subtitles_are_refused_without_times(self, served: Running) -> None:
        vad, served.server.vad = served.server.vad, None
        try:
            for form in ("srt", "vtt"):
                error = post(served, response_format=form)
                assert error.status_code == 400 and error.json()["error"]["code"] == "unsupported_parameter"
            assert post(served, response_format="verbose_json").json()["segments"][0]["start"] == 0
        finally:
            served.server.vad = vad

    def test_log_probabilities(self, served: Running) -> None:
        found = post(served, **{"include[]": "logprobs"}).json()
        tokens = "".join(entry["token"] for entry in found["logprobs"])
        assert tokens.strip().lower() == found["text"].lower() and SAID in tokens

    def test_open_webuis_json_body(self, served: Running, speech: str) -> None:
        found = served.client.post(URL, json={"model": "m", "input_audio": {"data": speech, "format": "flac"}})
        assert found.status_code == 200 and SAID in found.json()["text"]

    def test_silence_is_an_empty_transcript_or_short(self, served: Running) -> None:
        out = io.BytesIO()
        soundfile.write(out, np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE, format="WAV")
        found = served.client.post(
            URL, files={"file": ("silence.wav", out.getvalue())}, data={"response_format": "verbose_json"}
        )
        assert (found.json()["text"], found.json()["segments"]) == ("", [])


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ("I hear|:| what| can", " what| can"), ("I| hear:| it", " it"), ("I| hear| you", "I| hear| you"),
        (" I| hear|:| yes", " yes"), ("What| can", "What| can"), ("I hear:", ""), ("", ""),
    ],
)  # fmt: skip
def test_the_prefix_has_no_log_probabilities(said: str, left: str) -> None:
    tokens = [TokenLogprob(7, text, -0.1, ()) for text in said.split("|")]
    assert "|".join(token.text for token in transcript_tokens(tokens)) == left


def test_a_stream_adds_up(served: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = served.server.model.engine.core.runner
    decode = runner.decode

    def slow(tokens: Tensor, caches: Sequence[KVCache]) -> Tensor:
        time.sleep(2 * DELTA_SECONDS)  # tokens that come faster share a delta
        return decode(tokens, caches)

    monkeypatch.setattr(runner, "decode", slow)
    whole = post(served).json()["text"]
    found = post(served, stream="true")
    assert found.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(block[6:]) for block in found.text.strip().split("\n\n")]
    deltas = [e["delta"] for e in events if e["type"] == "transcript.text.delta"]
    assert "".join(deltas) == whole == events[-1]["text"] and len(deltas) > 1
    assert events[-1]["type"] == "transcript.text.done" and events[-1]["usage"]["total_tokens"] > 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"response_format": "diarized_json"}, "response_format"), ({"temperature": "hot"}, "temperature"),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities"), ({"include[]": "moon"}, "include"),
        ({"stream": "true", "response_format": "verbose_json"}, "stream"), ({"temperature": "nan"}, "temperature"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_is_refused_by_name(served: Running, fields: dict[str, str], said: str) -> None:
    found = post(served, **fields)
    assert found.status_code == 400 and found.json()["error"]["param"] == said, found.text


def test_bad_uploads_are_one_sentence(served: Running) -> None:
    client = served.client
    answers = [
        client.post(URL, data={"model": "x"}), client.post(URL, files={"file": ("a.wav", b"not audio at all")}),
        client.post(URL, files={"file": ("a.wav", b"")}), client.post(URL, json={}), client.post(URL, json=[]),
        client.post(URL, content=b"--x", headers={"content-type": "multipart/form-data; boundary=y"}),
        client.post(URL, content=b"", headers={"content-type": "multipart/form-data"}),
        client.post(URL, files=[("file", ("a", b"1")), ("other", ("b", b"2"))]),
        client.post(URL, content=b"x", headers={"content-type": "text/plain"}),
    ]  # fmt: skip
    for n, answer in enumerate(answers):
        assert answer.status_code == 400, (n, answer.text)
        assert answer.json()["error"]["message"].endswith("."), answer.text


class TestPieces:
    @pytest.mark.parametrize("cut", [1, 2, 3, 5, 100])
    def test_the_prefix_of_the_embedded_model_is_left_out(self, cut: int) -> None:
        for said, expected in (
            ("I hear: the red sun.", "The red sun."), ("I hear the sea.", "I hear the sea."), ("Hello", "Hello"),
            ("I hear:", ""), ("", ""), ("I", "I"),
        ):  # fmt: skip
            text = TranscriptText()
            pieces = [text.add(said[at : at + cut]) for at in range(0, len(said), cut)]
            assert "".join(pieces) + text.finish() == expected

    def test_without_voice_activity_a_recording_is_one_segment(self) -> None:
        samples = np.zeros(8000, np.float32)
        (segment,) = find_segments(samples, None, cut=True)
        assert (segment.start, segment.end) == (0, 0.5)

    @pytest.mark.parametrize("cut", [False, True])
    def test_where_nobody_speaks_there_is_nothing_to_write_down(self, cut: bool) -> None:
        vad = load_vad_if_installed()
        if vad is None:
            pytest.skip("SKIPPED LOUDLY: silero-vad is not installed")
        noise = np.random.default_rng(1).normal(0, 1e-4, 32000).astype(np.float32)
        for samples in (np.zeros(32000, np.float32), noise):
            assert find_segments(samples, vad, cut=cut) == []
