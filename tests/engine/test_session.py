"""A session: what is kept of each turn, barge-in, media decoded once, and the pin of its prefix."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

import vita
from vita.engine.handle import Handle
from vita.engine.request import Request
from vita.engine.session import Session
from vita.errors import Cancelled, MediaError, QueueFull, RequestError
from vita.events import Result, TextDelta
from vita.prompt import turn_reader
from vita.types import SamplingParams

RNG = np.random.default_rng(5)
IMAGE = RNG.integers(0, 255, (112, 112, 3), np.uint8)
SHORT = SamplingParams(max_tokens=8, ignore_eos=True)
ENDLESS = SamplingParams(max_tokens=1500, ignore_eos=True)
SECONDS = 30.0


@pytest.fixture(scope="module")
def loaded(mini: Path) -> Iterator[vita.Vita]:
    with vita.load(mini / "mini_ckpt", dtype="float32", device="cpu") as model:
        yield model


@pytest.fixture
def model(loaded: vita.Vita) -> vita.Vita:
    loaded.engine.clear_caches()
    return loaded


def history(session: Session) -> list[tuple[str, str]]:
    return [(turn.role, "".join(p if isinstance(p, str) else "<media>" for p in turn.pieces)) for turn in session.turns]


def fresh(model: vita.Vita, *messages: vita.Message) -> tuple[int, ...]:
    """What a model that remembers nothing answers to the whole conversation."""
    model.engine.clear_caches()
    return model.submit(messages, SHORT).result().token_ids


def read_some(handle: Handle) -> str:
    """The beginning of an answer."""
    text = ""
    for event in (events := handle.iterate()):
        text += event.text if isinstance(event, TextDelta) else ""
        if len(text) >= 12:
            break
    del events
    return text


def stream_until(handle: Handle, characters: int) -> str:
    """Read some of an answer, cancel it, and read the rest that was given out: all of its text."""
    text, cancelled = "", False
    for event in handle:
        text += event.text if isinstance(event, TextDelta) else ""
        if len(text) >= characters and not cancelled:
            handle.cancel()
            cancelled = True
    return text


def pins(model: vita.Vita) -> list[set[int]]:
    found: list[set[int]] = []
    model.engine.call(lambda: found.extend(set(entry.pins) for entry in model.engine.core.pool.prefixes._entries))
    return found


# What is kept


def test_turns_are_kept_and_the_next_one_finds_its_prefix(model: vita.Vita) -> None:
    session = model.session()
    first = session.submit(vita.user("Hello"), SHORT).result()
    second = session.submit(vita.user("And then?"), SHORT).result()
    assert history(session) == [
        ("user", "Hello"), ("assistant", first.text), ("user", "And then?"), ("assistant", second.text),
    ]  # fmt: skip
    assert second.usage.reused_tokens >= first.usage.prompt_tokens
    assert second.token_ids == fresh(model, vita.user("Hello"), vita.assistant(first.text), vita.user("And then?"))


def test_a_turn_that_fails_leaves_no_trace(model: vita.Vita) -> None:
    session = model.session()
    said = session.submit(vita.user("Hello"), SHORT).result()
    before = history(session)
    with pytest.raises(MediaError):
        session.submit(vita.user("What is this?", image="no-such-file.png"), SHORT).result()
    with pytest.raises(RequestError):
        session.submit(vita.user("Hello"), SamplingParams(temperature=-1))
    with pytest.raises(RequestError, match="n: must be 1"):
        session.submit(vita.user("Hello"), SamplingParams(n=2))
    with pytest.raises(RequestError, match="no question"):
        session.submit(vita.user(" "))
    assert history(session) == before
    after = session.submit(vita.user("And then?"), SHORT).result()
    assert after.token_ids == fresh(model, vita.user("Hello"), vita.assistant(said.text), vita.user("And then?"))


def test_a_cancelled_answer_stays_as_far_as_it_was_given_out(model: vita.Vita) -> None:
    session = model.session()
    text = stream_until(session.submit(vita.user("Hello"), ENDLESS), 20)
    assert len(text) >= 20 and history(session) == [("user", "Hello"), ("assistant", text)]


def test_an_answer_left_early_is_kept_and_the_next_turn_works(model: vita.Vita) -> None:
    session = model.session()
    text = read_some(session.submit(vita.user("Hello"), ENDLESS))
    said = session.submit(vita.user("And then?"), SHORT).result()
    kept = history(session)
    assert kept[0] == ("user", "Hello") and kept[1][1].startswith(text) and kept[2] == ("user", "And then?")
    assert said.token_ids == fresh(model, vita.user("Hello"), vita.assistant(kept[1][1]), vita.user("And then?"))


class Ended:
    """A session, and a request of it that the engine says has ended."""

    def __init__(self, model: vita.Vita) -> None:
        self.session, self.requests = model.session(), list[Request]()
        engine = model.engine

        def submit_prompt(read: Any, *_: Any, on_end: Any, **__: Any) -> Handle:
            read(vita.runtime.clock.Stopwatch(), turn_reader.UNGUARDED)
            self.on_end = on_end
            return cast("Handle", SimpleNamespace(request=SimpleNamespace(ended=True, cancelled=False)))

        self.session._engine = cast(
            "Any",
            SimpleNamespace(
                read_turn=engine.read_turn,
                processor=engine.processor,
                submit_prompt=submit_prompt,
                accept=engine.accept,
            ),
        )

    def turn(self, text: str, *pieces: str, state: str | None = None, error: Exception | None = None) -> None:
        self.session.submit(vita.user(text))
        answer = SimpleNamespace(text=SimpleNamespace(state=state), pieces=list(pieces))
        self.on_end(SimpleNamespace(error=error, sequences=[answer] if pieces or state else []))


def test_noise_leaves_no_trace(model: vita.Vita) -> None:
    ended = Ended(model)
    ended.turn("Hello", "Hi", " there", state="spoken")
    ended.turn("cough", "…", state="noise")
    ended.turn("Broken", "Hi", state="typed", error=MediaError("broken"))
    ended.turn("And then?", "Well", state="typed")
    assert history(ended.session) == [
        ("user", "Hello"), ("assistant", "Hi there"), ("user", "And then?"), ("assistant", "Well"),
    ]  # fmt: skip


def test_a_turn_without_an_answer_is_kept(model: vita.Vita) -> None:
    ended = Ended(model)
    ended.turn("Hello")
    ended.turn("And?", "Well", state="typed")
    assert history(ended.session) == [("user", "Hello"), ("user", "And?"), ("assistant", "Well")]


# Barge-in


@pytest.mark.parametrize("heard", [0, 5, 10_000])
@pytest.mark.parametrize("when", ["before the end", "after the end"])
def test_barge_in(model: vita.Vita, heard: int, when: str) -> None:
    session = model.session()
    handle = session.submit(vita.user("Hello"), ENDLESS)
    if when == "before the end":
        events = iter(handle)
        text = ""
        while len(text) < 20:
            event = next(events)
            text += event.text if isinstance(event, TextDelta) else ""
        session.truncate(heard)
        handle.cancel()
        following = session.submit(vita.user("Stop, what?"), SHORT)
        text += "".join(event.text for event in events if isinstance(event, TextDelta))
    else:
        text = stream_until(handle, 20)
        session.truncate(heard)
        following = session.submit(vita.user("Stop, what?"), SHORT)
    said = following.result()
    kept = [("assistant", text[:heard])] if heard else []
    assert history(session) == [("user", "Hello"), *kept, ("user", "Stop, what?"), ("assistant", said.text)]
    middle = [vita.assistant(text[:heard])] if heard else []
    assert said.token_ids == fresh(model, vita.user("Hello"), *middle, vita.user("Stop, what?"))


def test_truncation_of_a_turn_that_is_still_read_does_not_touch_the_one_before(
    model: vita.Vita, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = model.session()
    session.submit(vita.user("Hello"), SHORT).result()
    before = history(session)
    go, begun = threading.Event(), threading.Event()
    load = turn_reader.load_image_with_notes

    def wait(*arguments: Any) -> Any:
        begun.set()
        assert go.wait(SECONDS)
        return load(*arguments)

    monkeypatch.setattr(turn_reader, "load_image_with_notes", wait)
    handle = session.submit(vita.user("What?", image=IMAGE), SHORT)
    assert begun.wait(SECONDS)
    session.truncate(0)
    assert history(session) == before
    go.set()
    handle.result()
    assert history(session) == [*before, ("user", "<media>What?")], "it is for the turn that was being read"
    said = session.submit(vita.user("And?"), SHORT).result()
    assert history(session)[-1] == ("assistant", said.text), "and for that one alone"


def test_truncate_without_an_answer_changes_nothing(model: vita.Vita) -> None:
    session = model.session()
    session.truncate(3)
    assert session.turns == ()
    with pytest.raises(RequestError, match="heard_characters: must be 0 or more"):
        session.truncate(-1)
    ended = Ended(model)
    ended.turn("Hello")
    ended.session.truncate(0)
    assert history(ended.session) == [("user", "Hello")]


@pytest.mark.parametrize("newest", ["fails", "is noise", "has no answer", "was truncated to nothing"])
def test_truncation_of_a_turn_without_an_answer_does_not_touch_the_one_before(model: vita.Vita, newest: str) -> None:
    ended = Ended(model)
    ended.turn("Hello", "Hi there", state="typed")
    if newest == "fails":
        ended.turn("What is this?", error=MediaError("no such file"))
    elif newest == "is noise":
        ended.turn("cough", "…", state="noise")
    elif newest == "has no answer":
        ended.turn("What?")
    else:
        ended.turn("What?", "Well", state="typed")
        ended.session.truncate(0)
    before = history(ended.session)
    for heard in (2, 0):
        ended.session.truncate(heard)
        assert history(ended.session) == before
    ended.turn("And?", "Yes, and", state="typed")
    for heard in (4, 3):
        ended.session.truncate(heard)
    assert history(ended.session) == [*before, ("user", "And?"), ("assistant", "Yes")]


def test_an_answer_is_not_cut_after_a_turn_whose_file_is_missing(model: vita.Vita) -> None:
    session = model.session()
    session.submit(vita.user("Hello"), SHORT).result()
    before = history(session)
    with pytest.raises(MediaError):
        session.submit(vita.user("What?", image="no-such-file.png"), SHORT).result()
    session.truncate(0)
    assert history(session) == before


def test_an_answer_that_was_added_can_be_truncated(model: vita.Vita) -> None:
    session = model.session()
    session.add(turn_reader.PreparedTurn("user", ("Hello",)))
    session.add(turn_reader.PreparedTurn("assistant", ("Hi there",)))
    session.truncate(2)
    assert history(session) == [("user", "Hello"), ("assistant", "Hi")]


# Media, order, end


def test_media_are_decoded_once(model: vita.Vita, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, load = list[int](), turn_reader.load_image_with_notes

    def count(*arguments: Any) -> Any:
        calls.append(1)
        return load(*arguments)

    monkeypatch.setattr(turn_reader, "load_image_with_notes", count)
    session = model.session()
    first = session.submit(vita.user("What?", image=IMAGE), SHORT).result()
    second = session.submit(vita.user("And?"), SHORT).result()
    third = session.submit(vita.user("And now?"), SHORT).result()
    assert len(calls) == 1 and second.timings.vision == third.timings.vision == 0
    talk = (vita.user("What?", image=IMAGE), vita.assistant(first.text), vita.user("And?"))
    assert third.usage.images == 1
    assert second.token_ids == fresh(model, *talk)


def test_a_second_turn_while_one_is_answered_is_refused(model: vita.Vita) -> None:
    session = model.session()
    handle = session.submit(vita.user("Hello"), ENDLESS)
    with pytest.raises(RequestError, match="still being answered"):
        session.submit(vita.user("And?"))
    handle.cancel()
    said = session.submit(vita.user("And?"), SHORT).result()
    assert history(session)[-2:] == [("user", "And?"), ("assistant", said.text)]
    handle.result()


@pytest.mark.parametrize("dropped", ["handle", "events", "chat"])
def test_a_dropped_answer_is_cancelled_and_the_next_turn_works(model: vita.Vita, dropped: str) -> None:
    chat, before = model.chat(), model.stats().cancelled
    session = chat.session
    if dropped == "chat":
        held: object = chat.send(vita.user("Hello"), ENDLESS)
    else:
        held = session.submit(vita.user("Hello"), ENDLESS)
    if dropped == "events":
        held = held.iterate()  # type: ignore[attr-defined]
    gc.disable()
    try:
        del held
    finally:
        gc.enable()
    said = session.submit(vita.user("And?"), SHORT).result()
    assert model.stats().cancelled == before + 1
    assert history(session)[-2:] == [("user", "And?"), ("assistant", said.text)]


def test_a_session_dropped_with_its_answer_ends_it(model: vita.Vita) -> None:
    session, before = model.session(), model.stats().cancelled
    handle = session.submit(vita.user("Hello"), ENDLESS)
    gone = weakref.ref(session)
    del session, handle
    deadline = time.monotonic() + SECONDS
    while model.stats().cancelled == before or gone() is not None:
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.005)
    assert pins(model) in ([], [set()])


def test_a_refused_turn_does_not_block_the_next_one(model: vita.Vita, monkeypatch: pytest.MonkeyPatch) -> None:
    session = model.session()

    def full(*_: Any, **__: Any) -> Handle:
        raise QueueFull("2 requests are waiting")

    with monkeypatch.context() as patch:
        patch.setattr(model.engine, "submit_prompt", full)
        with pytest.raises(QueueFull):
            session.submit(vita.user("Hello"))
    said = session.submit(vita.user("Hello"), SHORT).result()
    session.truncate(2)
    assert history(session) == [("user", "Hello"), ("assistant", said.text[:2])]


def test_a_prepared_turn_is_read_once_and_answered_as_its_message(
    model: vita.Vita, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, message = model.session(), vita.user("What?", image=IMAGE)
    turn = session.prepare(message)
    (media,) = [piece for piece in turn.pieces if not isinstance(piece, str)]
    assert (media.width, media.height, turn.images) == (112, 112, 1) and session.turns == ()

    def refuse(*_: Any) -> Any:
        raise AssertionError("it was read again")

    with monkeypatch.context() as patch:
        patch.setattr(turn_reader, "load_image_with_notes", refuse)
        said = session.submit(turn, SHORT).result()
    assert session.turns[0] is turn
    assert said.token_ids == fresh(model, message)


def test_what_cannot_be_prepared_or_asked_is_refused(model: vita.Vita) -> None:
    session = model.session()
    with pytest.raises(MediaError, match="no such file"):
        session.prepare(vita.user(image="no-such-file.png"))
    with pytest.raises(RequestError, match="the user's"):
        session.submit(turn_reader.PreparedTurn("assistant", ("Hi",)))
    for pieces in ((), (" ",)):
        with pytest.raises(RequestError, match="no question"):
            session.submit(turn_reader.PreparedTurn("user", pieces))
    with pytest.raises(Cancelled):
        session.prepare(vita.user(image=IMAGE.tobytes()), cancelled=lambda: True)


def test_undo_forgets_the_newest_question_which_can_be_asked_again(model: vita.Vita) -> None:
    session = model.session()
    assert session.undo() == ()
    first = session.submit(vita.user("Hello"), SHORT).result()
    second = session.submit(vita.user("What?", image=IMAGE), SHORT).result()
    turn, answer = session.undo()
    assert (turn.role, turn.images, answer.pieces) == ("user", 1, (second.text,))
    assert history(session) == [("user", "Hello"), ("assistant", first.text)]
    assert session.submit(turn, SHORT).result().token_ids == second.token_ids
    assert len(session.undo()) == len(session.undo()) == 2 and session.turns == ()


def test_undo_of_a_question_without_an_answer_and_of_one_that_runs(model: vita.Vita) -> None:
    ended = Ended(model)
    ended.turn("Hello", "Hi", state="typed")
    ended.turn("And?")
    assert [turn.pieces for turn in ended.session.undo()] == [("And?",)]
    assert history(ended.session) == [("user", "Hello"), ("assistant", "Hi")]
    session = model.session()
    handle = session.submit(vita.user("Hello"), ENDLESS)
    events = iter(handle)
    next(events)
    with pytest.raises(RequestError, match="still being answered"):
        session.undo()
    handle.cancel()
    assert list(events) and session.undo()[0].pieces == ("Hello",) and session.turns == ()


def test_one_message_a_turn(model: vita.Vita) -> None:
    session = model.session()
    with pytest.raises(RequestError, match="one message at a time"):
        model.submit([vita.user("Hello"), vita.user("And?")], SHORT, session=session)
    with pytest.raises(RequestError, match="one message at a time"):
        model.submit([], SHORT, session=session)
    said = model.submit([vita.user("Hello")], SHORT, session=session).result()
    assert history(session) == [("user", "Hello"), ("assistant", said.text)]


def test_reset_forgets_every_turn_the_running_one_too(model: vita.Vita) -> None:
    session = model.session()
    session.submit(vita.user("Hello"), SHORT).result()
    handle = session.submit(vita.user("And?"), ENDLESS)
    next(iter(handle))
    session.reset()
    handle.cancel()
    handle.result()
    assert session.turns == ()
    said = session.submit(vita.user("Anew"), SHORT).result()
    assert said.token_ids == fresh(model, vita.user("Anew"))


def test_a_session_pins_its_newest_prefix_until_it_is_closed(model: vita.Vita) -> None:
    session = model.session()
    for text in ("Hello", "And?"):
        session.submit(vita.user(text), SHORT).result()
    assert [pinned for pinned in pins(model) if pinned] == [{session._number}]
    session.close()
    assert not any(pins(model))
    with pytest.raises(RequestError, match="closed"):
        session.submit(vita.user("More"))


def test_closing_while_an_answer_runs_cancels_it_and_leaves_no_pin(model: vita.Vita) -> None:
    with model.session() as session:
        handle = session.submit(vita.user("Hello"), ENDLESS)
        next(iter(handle))
    assert handle.result().finish_reason == "cancelled"
    assert pins(model) == [set()]


def test_a_dropped_session_is_unpinned(model: vita.Vita) -> None:
    session = model.session()
    session.submit(vita.user("Hello"), SHORT).result()
    gone = weakref.ref(session)
    gc.disable()
    try:
        del session
        assert gone() is None, "no cycle holds it"
    finally:
        gc.enable()
    assert pins(model) == [set()]


def test_salt_and_system_text_hold_for_every_turn(model: vita.Vita) -> None:
    model.submit(vita.user("Hello"), SHORT).result()
    session = model.session("Be brief.", cache_salt="tenant")
    first = session.submit(vita.user("Hello"), SHORT).result()
    assert first.usage.reused_tokens == 0
    second = session.submit(vita.user("And?"), SHORT).result()
    assert second.usage.reused_tokens >= first.usage.prompt_tokens
    talk = (vita.system("Be brief."), vita.user("Hello"), vita.assistant(first.text), vita.user("And?"))
    assert second.token_ids == fresh(model, *talk)


def test_chat_is_a_session_with_a_loop(model: vita.Vita) -> None:
    chat = model.chat()
    first = chat.ask("Hello", params=SHORT)
    said = Result.collect(chat.send(vita.user("And?"), SHORT))
    assert said.token_ids == fresh(model, vita.user("Hello"), vita.assistant(first.text), vita.user("And?"))
    chat.reset()
    assert chat.turns == ()


def test_a_probe_gives_the_response_state_and_leaves_no_trace(model: vita.Vita) -> None:
    with model.session() as session:
        session.submit(vita.user("Hello"), SHORT).result()
        before = history(session)
        probed = session.probe(vita.user("And you?")).result()
        assert len(probed.token_ids) == 1
        assert history(session) == before
        second = session.submit(vita.user("And you?"), SHORT).result()
    assert second.token_ids[:1] == probed.token_ids
    with pytest.raises(RequestError, match="closed"):
        session.probe(vita.user("And you?"))
