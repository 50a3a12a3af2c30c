"""The session object: defaults, merge, null against absent, aliases, both dialects, and refusals."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vita.serve.realtime.dialect import session_to_beta
from vita.serve.realtime.events import RealtimeError
from vita.serve.realtime.session import Catalog, Session, TurnDetection, new_session

CATALOG = Catalog("vita-nano", "piper", frozenset(("piper", "espeak")))


def session(**update: Any) -> Session:
    return new_session("sess_1", CATALOG, 1_900_000_000).merge(update)


def audio_input(found: Session) -> Any:
    return found.as_json()["audio"]["input"]  # type: ignore[index,call-overload]


def test_the_session_before_any_update() -> None:
    assert session().as_json() == {
        "type": "realtime", "object": "realtime.session", "id": "sess_1", "expires_at": 1_900_000_000,
        "model": "vita-nano", "output_modalities": ["audio"], "instructions": "", "max_output_tokens": "inf",
        "tools": [], "tool_choice": "auto",
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24_000}, "transcription": None, "noise_reduction": None,
                "turn_detection": {
                    "type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500,
                    "idle_timeout_ms": None, "create_response": True, "interrupt_response": True,
                },
            },
            "output": {"format": {"type": "audio/pcm", "rate": 24_000}, "voice": "piper", "speed": 1.0},
        },
    }  # fmt: skip


def test_answers_are_text_where_no_voice_is_installed() -> None:
    silent = new_session("sess_1", Catalog("vita-nano", "", frozenset()), 1_900_000_000)
    assert silent.as_json()["output_modalities"] == ["text"]
    assert silent.merge({"instructions": "Be brief."}).modality == "text"
    assert silent.merge({"output_modalities": ["audio"]}).modality == "audio", (
        "a client that asks for audio is told why not"
    )


def test_absent_keeps_and_null_clears() -> None:
    manual = session(audio={"input": {"turn_detection": None, "transcription": {"model": "whisper-1"}}})
    assert manual.turn_detection is None
    later = manual.merge({"instructions": "Be brief.", "audio": {"input": {"noise_reduction": None}}})
    assert later.turn_detection is None and later.transcription is not None and later.instructions == "Be brief."
    assert later.merge({"audio": {"input": {"transcription": None}}}).transcription is None
    assert later.merge({"instructions": None}).instructions == ""
    assert later.merge({"audio": None}).instructions == "Be brief."


def test_false_stands_for_null() -> None:
    assert session(audio={"input": {"turn_detection": False}}).turn_detection is None


def test_an_update_of_turn_detection_merges_within_one_type() -> None:
    first = session(audio={"input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 200}}})
    second = first.merge({"audio": {"input": {"turn_detection": {"create_response": False}}}})
    assert second.turn_detection == TurnDetection(silence_duration_ms=200, create_response=False)


def test_semantic_vad_is_accepted() -> None:
    """LiveKit's default."""
    wanted = {"type": "semantic_vad", "eagerness": "medium", "create_response": True, "interrupt_response": True}
    found = session(audio={"input": {"turn_detection": wanted}})
    assert audio_input(found)["turn_detection"] == wanted


def test_names_of_models_and_voices_that_are_not_here_stand_for_ours() -> None:
    found = session(
        model="gpt-realtime",
        audio={"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}}, "output": {"voice": "marin"}},
    )
    assert found.as_json()["model"] == "vita-nano" and found.voice == "piper"
    assert audio_input(found)["transcription"] == {"model": "vita-nano"}
    assert found.merge({"audio": {"output": {"voice": {"id": "espeak"}}}}).voice == "espeak"


def test_what_is_not_used_is_sent_back() -> None:
    extra = {"tracing": None, "truncation": "auto", "parallel_tool_calls": True, "include": []}
    tools = [{"type": "function", "name": "f", "parameters": {}}]
    sent = session(**extra, tools=tools).as_json()
    assert {key: sent[key] for key in extra} == extra and sent["tools"] == tools


def test_text_and_audio_is_audio() -> None:
    assert session(output_modalities=["text", "audio"]).modality == "audio"
    assert session(output_modalities=["text"]).modality == "text"


BETA = {
    "modalities": ["text", "audio"], "instructions": "Hi", "voice": "espeak", "input_audio_format": "g711_ulaw",
    "output_audio_format": "g711_alaw", "input_audio_transcription": {"model": "whisper-1"},
    "turn_detection": {"type": "server_vad", "threshold": 0.6}, "temperature": 0.8,
    "max_response_output_tokens": 100, "input_audio_noise_reduction": {"type": "near_field"},
}  # fmt: skip


def test_a_flat_session_is_understood() -> None:
    found = session(**BETA)
    assert (found.input_format, found.output_format, found.voice) == ("audio/pcmu", "audio/pcma", "espeak")
    assert found.turn_detection is not None and found.turn_detection.threshold == 0.6
    assert (found.max_output_tokens, found.temperature, found.modality) == (100, 0.8, "audio")


def test_a_session_goes_to_beta_and_back() -> None:
    found = session(**BETA)
    flat = session_to_beta(found.as_json())
    assert flat["modalities"] == ["text", "audio"] and flat["input_audio_format"] == "g711_ulaw"
    assert "audio" not in flat and "output_modalities" not in flat
    again = new_session("sess_1", CATALOG, 1_900_000_000).merge(flat)
    assert again.as_json() == found.as_json()


@pytest.mark.parametrize(
    ("update", "param"),
    [
        ({"type": "other"}, "session.type"),
        ({"output_modalities": ["video"]}, "session.output_modalities"),
        ({"output_modalities": [{}]}, "session.output_modalities"),
        ({"instructions": 3}, "session.instructions"),
        ({"max_output_tokens": 0}, "session.max_output_tokens"),
        ({"max_output_tokens": True}, "session.max_output_tokens"),
        ({"tools": {}}, "session.tools"),
        ({"tool_choice": "maybe"}, "session.tool_choice"),
        ({"audio": 3}, "session.audio"),
        ({"audio": {"input": {"format": {"type": "audio/mp3"}}}}, "session.audio.input.format.type"),
        ({"audio": {"input": {"format": {"type": "audio/pcm", "rate": 16_000}}}}, "session.audio.input.format.rate"),
        ({"audio": {"input": {"turn_detection": {"type": "none"}}}}, "session.audio.input.turn_detection.type"),
        ({"audio": {"input": {"turn_detection": {"threshold": 2}}}}, "session.audio.input.turn_detection.threshold"),
        ({"audio": {"output": {"speed": 9}}}, "session.audio.output.speed"),
        ({"audio": {"output": {"speed": float("nan")}}}, "session.audio.output.speed"),
    ],
)
def test_refusals_name_the_field(update: dict[str, Any], param: str) -> None:
    with pytest.raises(RealtimeError) as error:
        session(**update)
    assert error.value.param == param


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(
    [
        "type", "model", "output_modalities", "instructions", "max_output_tokens", "tools", "tool_choice",
        "temperature", "audio", "voice", "modalities", "input_audio_format", "turn_detection",
        "input_audio_transcription", "speed",
    ]
)  # fmt: skip


@given(
    update=st.dictionaries(FIELDS, JSON_VALUES, max_size=4),
    detection=st.dictionaries(
        st.sampled_from(["type", "threshold", "silence_duration_ms", "eagerness", "create_response"]),
        JSON_VALUES | st.sampled_from(["server_vad", "semantic_vad"]), max_size=4,
    ),
)  # fmt: skip
def test_any_update_is_merged_or_refused(update: dict[str, Any], detection: dict[str, Any]) -> None:
    for one in (update, {"audio": {"input": {"turn_detection": detection}}}):
        try:
            found = session(**one)
        except RealtimeError as error:
            assert error.message.endswith(".") and error.param
        else:
            assert found.merge(found.as_json()).as_json() == found.as_json()
