"""Events: what a client may send, errors that name it, and the table to the beta dialect."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vita.serve.realtime import dialect
from vita.serve.realtime.events import (
    CLIENT_EVENTS,
    SERVER_EVENTS,
    ClientEvent,
    RealtimeError,
    check_id,
    error_event,
    make_event,
    parse_event,
)


def parsed(event: dict[str, Any]) -> ClientEvent | RealtimeError:
    return parse_event(json.dumps(event))[0]


def test_an_event_keeps_its_id() -> None:
    found, event_id = parse_event('{"type": "response.cancel", "event_id": "mine"}')
    assert isinstance(found, ClientEvent) and (found.type, event_id) == ("response.cancel", "mine")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "invalid_json"),
        ("[]", "invalid_json"),
        ('{"type": NaN}', "invalid_json"),
        ("[" * 100_000, "invalid_json"),
        ("{}", "missing_required_parameter"),
        ('{"type": "nothing"}', "invalid_value"),
        ('{"type": "session.update"}', "missing_required_parameter"),
        ('{"type": "session.update", "session": 1}', "invalid_type"),
        ('{"type": "conversation.item.truncate", "item_id": "a", "audio_end_ms": true}', "invalid_type"),
    ],
)
def test_what_is_wrong_is_said(text: str, code: str) -> None:
    found, _ = parse_event(text)
    assert isinstance(found, RealtimeError) and found.code == code


def test_an_error_repeats_the_id_of_the_event_that_caused_it() -> None:
    event: Any = error_event(RealtimeError("No.", "some_code", "item"), "mine")
    assert event["error"] == {
        "type": "invalid_request_error", "code": "some_code", "message": "No.", "param": "item", "event_id": "mine",
    }  # fmt: skip
    assert event["event_id"] != "mine"


def test_ids_of_clients_have_1_to_64_characters() -> None:
    assert check_id("x" * 64, "item.id") == "x" * 64
    for value in ("", "x" * 65, 3):
        with pytest.raises(RealtimeError):
            check_id(value, "item.id")


@given(st.text(max_size=40))
def test_any_text_is_an_event_or_an_error(text: str) -> None:
    found, _ = parse_event(text)
    assert isinstance(found, ClientEvent | RealtimeError)


def test_every_event_has_a_name_in_both_dialects() -> None:
    for name, fields in SERVER_EVENTS.items():
        beta = dialect.server_event_to_beta(make_event(name, **dict.fromkeys(fields)))
        assert (beta is None) == (name == "conversation.item.done")
        if beta is not None:
            assert "output_text" not in str(beta["type"]) and "output_audio." not in str(beta["type"])
            assert set(fields) <= set(beta)


def test_the_table_of_events_names_events_that_exist() -> None:
    assert {ga for _, ga in dialect.EVENTS} <= set(SERVER_EVENTS) | set(CLIENT_EVENTS)


def test_an_answer_in_the_beta_dialect() -> None:
    item = {"id": "i", "role": "assistant", "content": [{"type": "output_audio", "transcript": "Hi"}]}
    done: Any = dialect.server_event_to_beta(
        make_event("response.done", response={"id": "r", "output": [item], "output_modalities": ["audio"]})
    )
    assert done["response"]["output"][0]["content"] == [{"type": "audio", "transcript": "Hi"}]
    assert done["response"]["modalities"] == ["text", "audio"]


def test_a_transcription_session_of_the_beta_dialect() -> None:
    given_ = {"type": "transcription_session.update", "session": {"input_audio_format": "pcm16"}}
    assert dialect.client_event_to_ga(given_) == {
        "type": "session.update", "session": {"type": "transcription", "input_audio_format": "pcm16"},
    }  # fmt: skip


def test_transcription_sessions_have_events_of_their_own_in_the_beta_dialect() -> None:
    updated = make_event("session.updated", session={"type": "transcription", "audio": {"input": {}}})
    found = dialect.server_event_to_beta(updated)
    assert found is not None and found["type"] == "transcription_session.updated"


def test_the_beta_header() -> None:
    assert dialect.is_beta({"openai-beta": "realtime=v1"}) and not dialect.is_beta({})
