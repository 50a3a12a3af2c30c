"""Items and the conversation: create, delete, truncate, retrieve, camera frames, and the prompt."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vita.serve.options import Limits
from vita.serve.parts import Reader
from vita.serve.realtime.conversation import FRAMES_KEPT, Conversation, Spoken, heard_text
from vita.serve.realtime.events import RealtimeError
from vita.serve.realtime.items import Content, Item, read_item, spoken_item
from vita.types import Audio, Image, Text

PIXEL = "data:image/png;base64,iVBORw0KGgo="


def read(**fields: Any) -> Item:
    return read_item(fields, Reader(Limits(), allow_urls=False), "audio/pcm")


def user(text: str, item_id: str = "u") -> Item:
    return read(id=item_id, type="message", role="user", content=[{"type": "input_text", "text": text}])


def frame(item_id: str) -> Item:
    return read(id=item_id, role="user", content=[{"type": "input_image", "image_url": PIXEL}])


def answer(text: str, item_id: str = "a") -> Item:
    return Item(item_id, role="assistant", content=[Content("output_audio", text=text)])


def ids(conversation: Conversation) -> list[str]:
    return [item.id for item in conversation]


def test_items_stand_where_the_client_says() -> None:
    talk = Conversation()
    assert talk.add(user("one", "1")) is None
    assert talk.add(user("two", "2")) == "1"
    assert talk.add(user("front", "0"), "root") is None
    assert talk.add(user("between", "1b"), "1") == "1"
    assert ids(talk) == ["0", "1", "1b", "2"] and talk.last_id == "2"


def test_errors_have_the_codes_that_clients_look_for() -> None:
    talk = Conversation()
    talk.add(user("one", "1"))
    for call, code in (
        (lambda: talk.add(user("again", "1")), "item_create_duplicate_item_id"),
        (lambda: talk.add(user("lost", "2"), "nowhere"), "item_create_invalid_previous_item_id"),
        (lambda: talk.delete("2"), "item_delete_invalid_item_id"),
        (lambda: talk.retrieve("2"), "item_retrieve_invalid_item_id"),
    ):
        with pytest.raises(RealtimeError) as error:
            call()
        assert error.value.code == code and ids(talk) == ["1"]
    talk.delete("1")
    assert ids(talk) == []


def test_an_item_of_each_kind_is_read_and_written() -> None:
    audio = base64.b64encode(np.arange(2400, dtype="<i2").tobytes()).decode()
    item = read(
        role="user",
        content=[
            {"type": "input_text", "text": "What is this?"},
            {"type": "input_audio", "audio": audio, "transcript": "hello"},
            {"type": "input_image", "image_url": PIXEL},
        ],
    )
    assert item.id.startswith("item_")
    shown: Any = item.as_json()
    assert [part["type"] for part in shown["content"]] == ["input_text", "input_audio", "input_image"]
    assert "audio" not in shown["content"][1] and shown["content"][1]["transcript"] == "hello"
    retrieved: Any = item.as_json(audio=True)
    assert retrieved["content"][1]["audio"] == audio
    assert [type(part) for part in item.as_turn()[1]] == [Text, Audio, Image]


def test_beta_names_of_parts_are_read() -> None:
    item = read(role="assistant", content=[{"type": "audio", "transcript": "Hi"}, {"type": "text", "text": "there"}])
    assert [part.type for part in item.content] == ["output_audio", "output_text"]
    assert item.as_turn() == ("assistant", [Text("Hi"), Text("there")])


def test_a_function_call_keeps_its_fields() -> None:
    item = read(type="function_call", call_id="c", name="f", arguments="{}")
    assert item.as_json()["call_id"] == "c" and item.as_json()["arguments"] == "{}"
    output = read(type="function_call_output", call_id="c", output="42")
    assert output.as_turn() == ("user", [Text("42")])


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"type": "other"}, "item.type"),
        ({"role": "nobody"}, "item.role"),
        ({"id": "x" * 65, "role": "user"}, "item.id"),
        ({"role": "user", "content": "text"}, "item.content"),
        ({"role": "user", "content": [{"type": "output_text", "text": ""}]}, "item.content[0].type"),
        ({"role": "user", "content": [{"type": "input_audio", "audio": "?"}]}, "item.content[0].audio"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "file:///etc/passwd"}]}, None),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "http://localhost/"}]}, None),
        ({"role": "user", "content": [{"type": "input_text", "text": "x"}] * 200}, "item.content"),
        ({"type": "function_call", "call_id": "c", "name": "f"}, "item.arguments"),
    ],
)
def test_refused_items_name_the_field(fields: dict[str, Any], param: str | None) -> None:
    with pytest.raises(RealtimeError) as error:
        read(**fields)
    assert param is None or error.value.param == param


def test_the_newest_camera_frames_are_shown_and_the_items_stay() -> None:
    talk = Conversation()
    for number in range(60):
        talk.add(frame(f"f{number}"))
    talk.add(user("What do you see?"))
    assert len(talk) == 61
    message = talk.messages("")[-1]
    shown = [part for item in talk for part in item.as_turn()[1] if isinstance(part, Image)]
    assert len(shown) == FRAMES_KEPT and isinstance(message.parts[-1], Text)
    assert talk.retrieve("f0").as_json()["content"] == [{"type": "input_image"}]


def test_images_of_questions_are_no_frames() -> None:
    talk = Conversation()
    for number in range(10):
        content = [{"type": "input_image", "image_url": PIXEL}, {"type": "input_text", "text": "?"}]
        talk.add(read(id=f"q{number}", role="user", content=content))
    assert sum(isinstance(part, Image) for item in talk for part in item.as_turn()[1]) == 10


def test_old_audio_is_forgotten_after_ten_minutes() -> None:
    talk = Conversation()
    for number in range(12):
        talk.add(spoken_item(f"a{number}", np.zeros(60 * 8000, np.int16), 8000))
    kept = [item.id for item in talk if item.content[0].audio is not None]
    assert kept == [f"a{number}" for number in range(2, 12)]


def test_a_conversation_has_a_limit_of_text() -> None:
    talk = Conversation()
    with pytest.raises(RealtimeError, match="characters at most"):
        for number in range(5):
            talk.add(user("x" * 999_999, str(number)))
    assert len(talk) == 4


def test_answers_that_grew_count_towards_the_limit() -> None:
    talk = Conversation()
    grown = answer("")
    talk.add(grown)
    grown.content[0].text = "x" * 4_000_000
    with pytest.raises(RealtimeError, match="characters at most"):
        for number in range(100):
            talk.add(user("more", str(number)))


def test_media_since_the_last_answer_are_forgotten() -> None:
    """Images first: where there are some, audio was not what could not be read."""
    talk = Conversation()
    talk.add(frame("old"))
    talk.add(answer("I see it.", "a"))
    talk.add(spoken_item("said", np.ones(800, np.int16), 8000))
    talk.add(frame("new"))
    talk.forget_new_media()
    assert [item.id for item in talk if item.has_media] == ["old", "said"]
    talk.forget_new_media()
    assert [item.id for item in talk if item.has_media] == ["old"]
    assert ids(talk) == ["old", "a", "said", "new"]


def spoken_answer(text: str = "one two three four") -> Conversation:
    """An answer of 400 ms: a quarter of its text every 100 ms."""
    talk = Conversation()
    talk.add(user("Count."))
    talk.add(answer(text))
    for quarter in range(1, 5):
        talk.spoken("a").add(100, len(text) * quarter // 4)
    return talk


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, ""), (60, ""), (100, "one"), (250, "one two"), (399, "one two three"), (400, "one two three four"),
     (5_000, "one two three four"), (-3, "")],
)  # fmt: skip
def test_truncate_keeps_what_was_heard(milliseconds: int, text: str) -> None:
    talk = spoken_answer()
    talk.truncate("a", milliseconds)
    assert talk.retrieve("a").content[0].text == text
    said = [message.text for message in talk.messages("") if message.role == "assistant"]
    assert said == ([text] if text else [])


def test_truncate_of_what_is_not_there_changes_nothing() -> None:
    talk = spoken_answer()
    for item_id in ("nobody", "u"):
        talk.truncate(item_id, 10)
    assert talk.retrieve("u").content[0].text == "Count."


def test_truncating_twice_never_brings_text_back() -> None:
    talk = spoken_answer()
    talk.truncate("a", 200)
    talk.truncate("a", 350)
    assert talk.retrieve("a").content[0].text == "one two"


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 20)), max_size=8), st.integers(-10, 3000))
def test_what_was_heard_grows_with_time(pieces: list[tuple[int, int]], at: int) -> None:
    spoken, end = Spoken(), 0
    for milliseconds, characters in pieces:
        end += characters
        spoken.add(milliseconds, end)
    assert 0 <= spoken.text_at(at) <= spoken.text_at(at + 1) <= end
    assert spoken.text_at(spoken.milliseconds) == end


@given(st.text(max_size=30), st.integers(0, 40))
def test_what_was_heard_is_a_beginning_of_the_text(text: str, end: int) -> None:
    heard = heard_text(text, end)
    assert text.startswith(heard) and len(heard) <= max(end, 0)


def test_chinese_is_cut_between_characters() -> None:
    assert heard_text("你好世界", 2) == "你好"


def test_the_prompt_of_a_conversation() -> None:
    talk = spoken_answer()
    talk.add(user("And on?", "u2"))
    messages = talk.messages("Be brief.")
    assert [(m.role, m.text) for m in messages] == [
        ("system", "Be brief."), ("user", "Count."), ("assistant", "one two three four"), ("user", "And on?"),
    ]  # fmt: skip


def test_a_prompt_always_begins_and_ends_with_the_user() -> None:
    talk = Conversation()
    assert [m.role for m in talk.messages("Say hi.")] == ["system", "user"]
    assert talk.messages("Say hi.")[-1].text == "Say hi."
    talk.add(answer("Welcome!"))
    assert [m.role for m in talk.messages("")] == ["user", "assistant", "user"]


def test_items_of_a_response_stand_for_the_conversation() -> None:
    talk = spoken_answer()
    assert [m.text for m in talk.messages("", [user("Read this.", "x")])] == ["Read this."]
