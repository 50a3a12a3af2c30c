"""The dialogue: what a client sees, for every short sequence of inputs and for the turns of the specification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.serve.realtime.wire import Talk
from vita.types import Audio, Text

PREFIX = "conversation.item.input_audio_transcription"


def answer(talk: Talk, text: str = "Hello there.") -> None:
    """A generator's whole answer."""
    talk.begin()
    talk.text(text)
    talk.audio(400, 0, len(text))
    talk.end()


def test_a_spoken_turn_in_the_order_of_the_specification() -> None:
    talk = Talk(audio={"input": {"transcription": {"model": "whisper-1"}}})
    talk.say()
    answer(talk)
    item = talk.port.transcribing[0]
    talk.dialogue.transcripts.delta(item, "hi ")
    talk.dialogue.transcripts.completed(item)
    assert talk.wire.kinds() == [
        "session.created",
        "input_audio_buffer.speech_started",
        "input_audio_buffer.speech_stopped",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "response.output_audio_transcript.delta",
        "response.output_audio.delta",
        "response.output_audio.done",
        "response.output_audio_transcript.done",
        "response.content_part.done",
        "conversation.item.done",
        "response.output_item.done",
        "response.done",
        f"{PREFIX}.delta",
        f"{PREFIX}.completed",
    ]
    started, added = talk.wire.events[1], talk.wire.events[4]
    assert started["item_id"] == added["item"]["id"] == item.id
    assert added["item"]["content"] == [{"type": "input_audio", "transcript": None}]
    assert talk.wire.last(f"{PREFIX}.completed")["transcript"] == "hi"
    done = talk.wire.last("response.done")["response"]
    assert done["status"] == "completed" and done["usage"]["total_tokens"] == 14
    assert done["output"][0]["content"] == [{"type": "output_audio", "transcript": "Hello there."}]


def test_the_prompt_holds_the_speech_and_the_answers() -> None:
    talk = Talk(instructions="Be brief.")
    talk.say()
    answer(talk)
    talk.now += 10  # it was heard
    talk.say()
    messages = talk.port.jobs[-1].messages
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert isinstance(messages[1].parts[0], Audio) and messages[2].parts == (Text("Hello there."),)


def test_a_noise_turn_has_an_empty_transcript_and_no_response() -> None:
    talk = Talk(audio={"input": {"transcription": {"model": "whisper-1"}}})
    talk.say()
    item = talk.port.transcribing[0]
    talk.dialogue.transcripts.delta(item, "cough")
    talk.begin(noise=True)
    assert "response.created" not in talk.wire.kinds()
    assert [e["transcript"] for e in talk.wire.events if e["type"] == f"{PREFIX}.completed"] == [""]
    assert f"{PREFIX}.delta" not in talk.wire.kinds()
    talk.dialogue.transcripts.completed(item)
    assert talk.wire.kinds()[-1] == f"{PREFIX}.completed" and talk.wire.kinds().count(f"{PREFIX}.completed") == 1
    talk.say()
    assert sum(isinstance(part, Audio) for part in talk.port.jobs[-1].messages[-1].parts) == 1


def test_metadata_and_limits_come_back() -> None:
    talk = Talk()
    talk.client("response.create", response={"metadata": {"client_event_id": "7"}, "max_output_tokens": 5})
    created = talk.wire.last("response.created")["response"]
    assert created["metadata"] == {"client_event_id": "7"} and created["max_output_tokens"] == 5
    talk.begin()
    talk.text("Hi")
    talk.end(full=True)
    done = talk.wire.last("response.done")["response"]
    assert done["metadata"] == {"client_event_id": "7"}
    assert done["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}


def test_text_responses() -> None:
    talk = Talk()
    talk.client("response.create", response={"output_modalities": ["text"]})
    talk.begin()
    talk.text("Hi")
    talk.end()
    assert "response.output_text.delta" in talk.wire.kinds() and "response.output_audio.done" not in talk.wire.kinds()
    assert talk.wire.last("response.content_part.done")["part"] == {"type": "text", "text": "Hi"}


def test_a_second_response_is_refused_and_the_first_goes_on() -> None:
    talk = Talk()
    talk.client("response.create")
    talk.client("response.create", event_id="second")
    error = talk.wire.last("error")["error"]
    assert error["code"] == "conversation_already_has_active_response" and error["event_id"] == "second"
    answer(talk)
    assert talk.wire.last("response.done")["response"]["status"] == "completed"


def test_cancel_ends_at_once_and_nothing_follows() -> None:
    talk = Talk()
    talk.client("response.create")
    talk.begin()
    talk.text("Hello")
    talk.client("response.cancel")
    done = talk.wire.last("response.done")["response"]
    assert done["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
    count = len(talk.wire.events)
    talk.text(" there")
    talk.end()
    assert len(talk.wire.events) == count
    talk.client("response.cancel", event_id="again")
    error = talk.wire.last("error")["error"]
    assert error["code"] == "response_cancel_not_active" and error["event_id"] == "again"
    assert error["message"].startswith("Cancellation failed")


def test_a_cancel_that_names_another_response_is_refused() -> None:
    talk = Talk()
    talk.client("response.create")
    talk.client("response.cancel", response_id="resp_other")
    assert talk.wire.last("error")["error"]["code"] == "response_cancel_not_active" and talk.wire.active


def said_to_the_model(talk: Talk) -> list[str]:
    return [m.text for m in talk.dialogue.conversation.messages("") if m.role == "assistant"]


@pytest.mark.parametrize(("played", "heard"), [(0, ""), (150, "one"), (250, "one two"), (900, "one two three four")])
def test_barge_in_keeps_what_was_heard(played: int, heard: str) -> None:
    """The clock bounds what can have been heard, although all of it was sent."""
    talk = Talk()
    talk.client("response.create")
    talk.begin()
    text = "one two three four"
    talk.text(text)
    for quarter in range(4):
        talk.audio(100, len(text) * quarter // 4, len(text) * (quarter + 1) // 4)
    talk.now += played / 1000
    talk.dialogue.speech_started(0)
    done = talk.wire.last("response.done")["response"]
    assert done["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    assert done["output"][0]["content"][0]["transcript"] == heard
    assert said_to_the_model(talk) == ([heard] if heard else [])


def test_barge_in_after_the_whole_answer_was_sent() -> None:
    talk = Talk()
    talk.client("response.create")
    answer(talk, "one two three four")
    talk.now += 0.1
    talk.dialogue.speech_started(0)
    assert talk.wire.last("response.done")["response"]["status"] == "completed"
    assert said_to_the_model(talk) == ["one"]


def test_truncate_beyond_the_end_is_confirmed() -> None:
    talk = Talk()
    talk.client("response.create")
    answer(talk)
    item_id = talk.wire.last("response.output_item.done")["item"]["id"]
    for target, end in ((item_id, 99_999), ("unknown", 5)):
        talk.client("conversation.item.truncate", item_id=target, content_index=0, audio_end_ms=end)
        assert talk.wire.last("conversation.item.truncated")["audio_end_ms"] == end
    assert "error" not in talk.wire.kinds() and said_to_the_model(talk) == ["Hello there."]


def test_truncating_an_answer_that_goes_on_keeps_the_rest_out() -> None:
    talk = Talk()
    talk.client("response.create")
    talk.begin()
    talk.text("one two ")
    talk.audio(100, 0, 8)
    talk.client("conversation.item.truncate", item_id=talk.last, content_index=0, audio_end_ms=50)
    talk.text("three")
    talk.audio(100, 8, 13)
    talk.end()
    assert said_to_the_model(talk) == ["one"]


def test_settings_of_open_webui_neither_answer_nor_cancel() -> None:
    detection = {"type": "server_vad", "create_response": False, "interrupt_response": False}
    talk = Talk(audio={"input": {"turn_detection": detection, "transcription": {"model": "x"}}})
    talk.say()
    assert talk.port.jobs == [] and len(talk.port.transcribing) == 1
    talk.client("response.create")
    talk.begin()
    talk.text("Hello")
    talk.dialogue.speech_started(0)
    assert talk.wire.active is not None
    talk.stop_speaking()
    talk.text(" there")
    talk.end()
    assert talk.wire.last("response.done")["response"]["status"] == "completed" and len(talk.port.jobs) == 1


def test_a_response_outside_of_the_conversation() -> None:
    talk = Talk()
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Read this."}]}
    talk.client("response.create", response={"conversation": "none", "instructions": "Say it.", "input": [item]})
    assert [m.text for m in talk.port.jobs[0].messages] == ["Say it.", "Read this."]
    answer(talk)
    assert not [kind for kind in talk.wire.kinds() if kind.startswith("conversation.")]
    assert talk.wire.last("response.done")["response"]["conversation_id"] is None
    assert len(talk.dialogue.conversation) == 0


@pytest.mark.parametrize(
    ("instructions", "aloud"),
    [("You are a text-to-speech renderer. Read the supplied text aloud faithfully.", "Is it 5?"), ("Be brief.", None)],
)
def test_a_text_that_is_only_to_be_read_aloud(instructions: str, aloud: str | None) -> None:
    """Open WebUI's speech engine: the model would answer the text."""
    talk = Talk()
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Is it 5?"}]}
    response = {"conversation": "none", "output_modalities": ["audio"], "instructions": instructions, "input": [item]}
    talk.client("response.create", response=response)
    assert talk.port.jobs[0].aloud == aloud
    answer(talk)
    talk.client("response.create", response={**response, "conversation": "auto"})
    assert talk.port.jobs[1].aloud is None


def test_a_failed_response_says_why() -> None:
    talk = Talk()
    talk.client("response.create")
    talk.fail()
    done = talk.wire.last("response.done")["response"]
    assert done["status"] == "failed" and done["status_details"]["error"]["message"] == "It broke."


def test_camera_frames_are_encoded_and_not_answered() -> None:
    talk = Talk()
    for number in range(60):
        image = {"type": "input_image", "image_url": "data:image/jpeg;base64,AAAA"}
        talk.client("conversation.item.create", item={"id": f"f{number}", "role": "user", "content": [image]})
    assert len(talk.port.frames) == 60 and talk.port.jobs == []
    assert "error" not in talk.wire.kinds()


def test_an_update_that_fails_leaves_the_session_as_it_was() -> None:
    talk = Talk()
    talk.client("session.update", session={"instructions": "A"})
    talk.client("session.update", session={"instructions": "B", "audio": {"output": {"speed": 99}}}, event_id="bad")
    assert talk.wire.last("error")["error"]["event_id"] == "bad"
    assert talk.dialogue.session.instructions == "A" and talk.wire.kinds().count("session.updated") == 1


def test_clearing_while_the_user_speaks_drops_the_turn() -> None:
    talk = Talk()
    talk.dialogue.speech_started(0)
    talk.dialogue.cleared()
    assert talk.dialogue.state.phase == "idle" and talk.port.jobs == []


def test_a_transcription_session_has_no_responses() -> None:
    talk = Talk(type="transcription")
    talk.say()
    assert len(talk.port.transcribing) == 1 and talk.port.jobs == []
    talk.client("response.create")
    assert talk.wire.last("error")


STEPS: dict[str, Callable[[Talk], None]] = {
    "speech starts": lambda talk: talk.dialogue.speech_started(0),
    "speech stops": lambda talk: talk.stop_speaking(),
    "noise": lambda talk: talk.stop_speaking(noise=True),
    "clear": lambda talk: talk.dialogue.cleared(),
    "create": lambda talk: talk.client("response.create"),
    "create text": lambda talk: talk.client("response.create", response={"output_modalities": ["text"]}),
    "cancel": lambda talk: talk.client("response.cancel"),
    "truncate": lambda talk: talk.client("conversation.item.truncate", item_id=talk.last, audio_end_ms=30),
    "delete": lambda talk: talk.client("conversation.item.delete", item_id=talk.last),
    "begin": lambda talk: talk.begin() if talk.port.running else None,
    "begin noise": lambda talk: talk.begin(noise=True) if talk.port.running else None,
    "answer": lambda talk: answer(talk) if talk.port.running else None,
    "delta": lambda talk: (talk.text("one two "), talk.audio(50, 0, 8)) if talk.port.running else None,  # type: ignore[dict-item,func-returns-value]
    "end": lambda talk: talk.end() if talk.port.running else None,
    "fail": lambda talk: talk.fail() if talk.port.running else None,
    "time": lambda talk: setattr(talk, "now", talk.now + 0.06),
}  # fmt: skip
OF_A_JOB = ("begin", "begin noise", "answer", "delta", "end", "fail")  # without a running job these do nothing


def play(names: tuple[str, ...], **session: Any) -> bool:
    """The wire checks every event; at the end everything that was begun is ended.

    Returns whether a job ran after the last step.
    """
    talk = Talk(**session)
    for name in names:
        STEPS[name](talk)
        assert (talk.wire.active is not None) == talk.dialogue.state.is_active, names
        assert (talk.port.running is not None) == (talk.dialogue.state.reply != "none"), names
    for text in said_to_the_model(talk):
        heard = [said for said in talk.wire.said.values() if said.startswith(text)]
        assert heard, f"{names}: the model is told that it said {text!r}"
    running = talk.port.running is not None
    talk.dialogue.close()
    assert talk.wire.active is None and talk.port.running is None, names
    return running


@pytest.mark.slow
@pytest.mark.parametrize("first", [name for name in STEPS if name not in OF_A_JOB])
def test_every_short_sequence_keeps_the_order_of_events(first: str) -> None:
    """All of up to four steps. One with a step that does nothing is the shorter sequence without it."""

    def play_from(names: tuple[str, ...]) -> None:
        running = play(names)
        for name in STEPS if len(names) < 4 else ():
            if running or name not in OF_A_JOB:
                play_from((*names, name))

    play_from((first,))


MANUAL = {"audio": {"input": {"turn_detection": None, "transcription": {"model": "x"}}}}
OVERLAP = {"audio": {"input": {"turn_detection": {"type": "server_vad", "interrupt_response": False}}}}
SILENT = {"audio": {"input": {"turn_detection": {"type": "semantic_vad", "create_response": False}}}}


@given(st.lists(st.sampled_from(list(STEPS)), max_size=30), st.sampled_from([{}, MANUAL, OVERLAP, SILENT]))
def test_long_sequences_keep_the_order_of_events(names: list[str], session: dict[str, Any]) -> None:
    play(tuple(names), **session)
