"""Answers that are spoken while they are written: `submit(..., speech=True)`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from tests.speech.tone import ToneVoice, tone

import vita
from vita.engine.handle import EventQueue, Handle
from vita.events import Done, Event, ReasoningDelta, SpeechChunk, Started, TextDelta, Timings, Usage
from vita.speech.answer import MAX_EVENTS, speak_answers
from vita.speech.stream import SpeechStream
from vita.speech.voice import Voice


class Answer:
    """A handle whose events a test gives out, as the engine does."""

    def __init__(self, count: int = 1) -> None:
        self.queue = EventQueue(lambda: None)
        self.cancels = 0
        self.handle = Handle(self.queue, self.cancel, count)

    def cancel(self) -> None:
        self.cancels += 1
        if self.cancels == 1:
            self.queue.put(done("cancelled"))

    def write(self, *texts: str, index: int = 0, state: str = "typed") -> None:
        self.queue.put(Started(state, index))  # type: ignore[arg-type]
        for text in texts:
            self.queue.put(TextDelta(text, index))
        self.queue.put(done(index=index))


def done(reason: str = "stop", index: int = 0) -> Done:
    return Done(reason, "typed", Usage(), Timings(total=1.0), index=index)  # type: ignore[arg-type]


def spoken(answer: Answer, voice: Voice, count: int = 1) -> Handle:
    return speak_answers(answer.handle, [SpeechStream(lambda language: voice, index=index) for index in range(count)])


def audio(events: list[Event], index: int = 0) -> np.ndarray:
    return np.concatenate([e.samples for e in events if isinstance(e, SpeechChunk) and e.index == index])


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    pytest.fail("it did not happen")


def test_chunks_follow_the_text_they_speak_and_done_is_last() -> None:
    answer = Answer()
    answer.write("Hello", " there.", " How are you?")
    events = list(spoken(answer, ToneVoice()))
    assert isinstance(events[0], Started) and isinstance(events[-1], Done)
    written = 0
    for event in events:
        if isinstance(event, TextDelta):
            written += len(event.text)
        elif isinstance(event, SpeechChunk):
            assert event.text_end <= written
    assert len(audio(events)) == len(tone("Hello there.")) + len(tone("How are you?"))
    last = events[-1]
    assert isinstance(last, Done) and last.timings.speech_seconds == pytest.approx(len(audio(events)) / 24_000)
    assert last.timings.first_audio > 0 and last.timings.total == 1.0


def test_the_result_is_the_text() -> None:
    answer = Answer()
    answer.write("Hello", " there.")
    handle = spoken(answer, ToneVoice())
    assert handle.result().text == "Hello there."


def test_asyncio() -> None:
    async def read() -> list[Event]:
        answer = Answer()
        answer.write("Hello there.")
        return [event async for event in spoken(answer, ToneVoice())]

    events = asyncio.run(read())
    assert len(audio(events)) == len(tone("Hello there.")) and isinstance(events[-1], Done)


def test_audio_comes_before_the_answer_has_ended() -> None:
    answer = Answer()
    handle = spoken(answer, ToneVoice())
    answer.queue.put(Started("typed"))
    answer.queue.put(TextDelta("Hello there. And"))
    for event in handle:
        if isinstance(event, SpeechChunk):
            break
    assert answer.cancels == 1, "leaving the loop cancels"


def test_cancel_ends_with_done_within_a_chunk() -> None:
    answer, voice = Answer(), ToneVoice()
    handle = spoken(answer, voice)
    answer.queue.put(Started("typed"))
    answer.queue.put(TextDelta("A sentence of some length, is it not? " * 100))
    heard = 0
    for event in handle:
        if isinstance(event, SpeechChunk):
            heard += 1
            if heard == 2:
                handle.cancel()
        last = event
    assert isinstance(last, Done) and last.finish_reason == "cancelled"
    wait_for(lambda: voice.closes == 1)
    assert heard <= MAX_EVENTS + 3


def test_a_slow_reader_holds_the_voice_and_the_answer() -> None:
    answer, voice = Answer(), ToneVoice()
    handle = spoken(answer, voice)
    answer.write(*["This is a sentence of some length, is it not? "] * 200)
    events = iter(handle)
    next(events)
    time.sleep(0.3)
    made, left = voice.pieces, len(answer.queue._events)
    time.sleep(0.2)
    assert voice.pieces == made and made < 400
    assert len(answer.queue._events) == left
    rest = list(events)
    assert isinstance(rest[-1], Done) and voice.pieces > made


def test_a_dropped_handle_is_cancelled() -> None:
    answer, voice = Answer(), ToneVoice()
    handle = spoken(answer, voice)
    answer.queue.put(Started("typed"))
    answer.queue.put(TextDelta("Hello there. And"))
    wait_for(lambda: voice.pieces > 0)
    del handle
    wait_for(lambda: answer.cancels >= 1 and voice.closes == 1)


def test_errors_of_the_answer_reach_the_reader() -> None:
    answer = Answer()
    answer.queue.put(vita.MediaError("it is no image", where="a.png"))
    with pytest.raises(vita.MediaError, match="no image"):
        list(spoken(answer, ToneVoice()))


def test_a_voice_that_fails_leaves_the_text_whole_and_its_error_comes_last() -> None:
    answer, voice = Answer(), ToneVoice(fails_at="broken")
    handle = spoken(answer, voice)
    answer.queue.put(Started("typed"))
    answer.queue.put(TextDelta("This is broken. And"))
    wait_for(lambda: voice.closes == 1)
    for text in [" more"] * 300:  # more than a queue holds
        answer.queue.put(TextDelta(text))
    answer.queue.put(done())
    text = ""
    with pytest.raises(vita.SpeechError, match=r"the voice tone has failed \(RuntimeError: the voice broke\)") as found:
        for event in handle:
            text += event.text if isinstance(event, TextDelta) else ""
    assert text == "This is broken. And" + " more" * 300 and answer.cancels == 0
    assert found.value.done.finish_reason == "stop" and "not spoken to its end" in found.value.done.notes[0]
    with pytest.raises(vita.SpeechError):
        handle.result()


def test_the_error_of_one_answer_comes_after_the_end_of_the_others() -> None:
    answer = Answer(2)
    handle = spoken(answer, ToneVoice(fails_at="broken"), 2)
    answer.write("This is broken. And more.", index=0)
    wait_for(lambda: len(handle._events._events) > 0)
    answer.write("Hello there. Good bye.", index=1)
    events: list[Event] = []
    with pytest.raises(vita.SpeechError, match="the voice broke") as found:
        iter_into(handle, events)
    assert len(audio(events, 1)) == len(tone("Hello there.")) + len(tone("Good bye."))
    texts = ["".join(e.text for e in events if isinstance(e, TextDelta) and e.index == index) for index in (0, 1)]
    assert texts == ["This is broken. And more.", "Hello there. Good bye."]
    assert sum(isinstance(event, Done) for event in events) == 1 and found.value.done.index in (0, 1)


def iter_into(handle: Handle, events: list[Event]) -> None:
    """The events up to the error."""
    for event in handle:
        events.append(event)


def test_a_voice_that_cannot_be_opened_leaves_the_text_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ToneVoice, **options: object) -> None:
        raise ValueError("a damaged file")

    monkeypatch.setattr(ToneVoice, "open", broken)
    answer = Answer()
    handle = spoken(answer, ToneVoice())
    answer.write("Hello there. Good bye.")
    events: list[Event] = []
    with pytest.raises(vita.SpeechError, match="damaged file"):
        iter_into(handle, events)
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == "Hello there. Good bye."


def test_noise_is_not_spoken() -> None:
    answer, voice = Answer(), ToneVoice()
    handle = spoken(answer, voice)
    answer.write("Something that is not meant to be heard. And", state="noise")
    events = list(handle)
    assert isinstance(events[-1], Done) and not any(isinstance(event, SpeechChunk) for event in events)


def test_several_answers_are_spoken_each_with_its_index() -> None:
    answer = Answer(2)
    handle = spoken(answer, ToneVoice(), 2)
    answer.write("Hello there.", index=0)
    answer.write("Good bye.", index=1)
    events = list(handle)
    assert len(audio(events, 0)) == len(tone("Hello there.")) and len(audio(events, 1)) == len(tone("Good bye."))
    assert sum(isinstance(event, Done) for event in events) == 2


def test_what_was_not_spoken_is_a_note() -> None:
    answer = Answer()
    answer.write("Hello there. 你好。")
    last = list(spoken(answer, ToneVoice(("en",))))[-1]
    assert isinstance(last, Done) and "zh" in last.notes[0]


def test_threads_end() -> None:
    answer = Answer()
    answer.write("Hello there.")
    list(spoken(answer, ToneVoice()))
    wait_for(lambda: not any(thread.name.startswith("vita-speech") for thread in threading.enumerate()))


def test_a_loaded_model_speaks_its_answer(mini_model: vita.Vita, espeak: Voice) -> None:
    handle = mini_model.submit(
        vita.user("Hello"), vita.SamplingParams(max_tokens=12), speech=vita.SpeechOptions(voice="espeak")
    )
    events = list(handle)
    silent = mini_model.submit(vita.user("Hello"), vita.SamplingParams(max_tokens=12)).result()
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == silent.text
    assert isinstance(events[-1], Done) and events[-1].token_ids == silent.token_ids


def test_model_speak(mini_model: vita.Vita, espeak: Voice) -> None:
    samples = mini_model.speak("Hello there.", voice="espeak").read()
    assert samples.dtype == np.float32 and len(samples) > 12_000
    with pytest.raises(vita.RequestError, match="nothing to say"):
        mini_model.speak("  ", voice="espeak")
    with pytest.raises(vita.RequestError, match="there is no voice 'bob'"):
        mini_model.submit(vita.user("Hello"), speech=vita.SpeechOptions(voice="bob"))
    with pytest.raises(vita.RequestError, match="language: espeak does not speak the language 'xx'"):
        mini_model.submit(vita.user("Hello"), speech=vita.SpeechOptions(voice="espeak", language="xx"))


def test_speech_may_be_the_name_of_a_voice(mini_model: vita.Vita, espeak: Voice) -> None:
    with pytest.raises(vita.RequestError, match="there is no voice 'bob'"):
        mini_model.submit(vita.user("Hello"), speech="bob")
    events = list(mini_model.submit(vita.user("Hello"), vita.SamplingParams(max_tokens=3), speech="espeak"))
    assert isinstance(events[-1], Done)
    assert isinstance(mini_model.submit(vita.user("Hello"), vita.SamplingParams(max_tokens=3)).result(), vita.Result)


@pytest.mark.parametrize("speech", [5, 0, b"espeak", ["espeak"], {"voice": "espeak"}, ToneVoice])
def test_speech_of_another_type_is_one_sentence(mini_model: vita.Vita, speech: object) -> None:
    with pytest.raises(vita.RequestError, match="speech: must be True, the name of a voice or SpeechOptions, not "):
        mini_model.submit(vita.user("Hello"), speech=speech)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"language": 5}, "language: must be a string, not 5"),
        ({"language": ""}, "language: is not a language tag: ''; use a code such as en or pt-BR"),
        ({"language": "e n"}, "language: is not a language tag"),
        ({"language": "Deutsch bitte"}, "language: is not a language tag"),
        ({"voice": 5}, "voice: must be a string, not 5"),
        ({"voice": b"espeak"}, "voice: must be a string"),
        ({"speed": "fast"}, "speed: must be a number, not 'fast'"),
        ({"speed": True}, "speed: must be a number, not True"),
        ({"speed": None}, "speed: must be a number, not None"),
        ({"seed": "x"}, "seed: must be an integer, not 'x'"),
        ({"seed": 1.5}, "seed: must be an integer, not 1.5"),
    ],
)
def test_options_of_another_type_are_refused_at_once(options: dict[str, object], said: str) -> None:
    with pytest.raises(vita.RequestError) as found:
        vita.SpeechOptions(**options)  # type: ignore[arg-type]
    assert str(found.value).startswith(said)


def test_options_as_people_write_them() -> None:
    for tag in ("en", "EN_us", "zh-Hans-CN", "es-419", "en_US.UTF-8", "yue"):
        assert vita.SpeechOptions(language=tag, speed=np.float32(2), seed=np.int64(3)).language == tag  # type: ignore[arg-type]


def test_the_reasoning_passes_by_and_is_not_spoken() -> None:
    plain, reasoned = Answer(), Answer()
    plain.write("Yes, blue.")
    reasoned.queue.put(Started("typed"))
    for piece in ("a red", " star (1)"):
        reasoned.queue.put(ReasoningDelta(piece))
    reasoned.queue.put(TextDelta("Yes, blue."))
    reasoned.queue.put(done())
    heard, events = list(spoken(plain, ToneVoice())), list(spoken(reasoned, ToneVoice()))
    assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == "a red star (1)"
    assert np.array_equal(audio(events), audio(heard))
    assert vita.Result.collect(events).text == "Yes, blue."
