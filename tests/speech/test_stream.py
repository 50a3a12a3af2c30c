"""SpeechStream: what is heard, when, and which characters it speaks."""

from __future__ import annotations

import threading
import time
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.speech.test_clauses import TEXT
from tests.speech.tone import ToneUtterances, ToneVoice, tone

import vita
from vita.events import SpeechChunk
from vita.speech.clauses import HEADING_PAUSE
from vita.speech.stream import FADE, SpeechStream
from vita.speech.voice import PIECE, SAMPLE_RATE, Voice


def stream_of(voice: Voice, **options: object) -> SpeechStream:
    return SpeechStream(lambda language: voice, **options)  # type: ignore[arg-type]


def heard(*deltas: str, voice: Voice | None = None) -> list[SpeechChunk]:
    stream = stream_of(voice or ToneVoice())
    for delta in deltas:
        stream.feed(delta)
    stream.finish()
    return list(stream)


@cache
def whole() -> list[SpeechChunk]:
    return heard(TEXT)


def samples(chunks: list[SpeechChunk]) -> np.ndarray:
    return np.concatenate([chunk.samples for chunk in chunks]) if chunks else np.zeros(0, np.float32)


def test_all_of_the_text_is_spoken_once_in_order() -> None:
    voice = ToneVoice()
    heard(TEXT, voice=voice)
    spoken = " ".join(voice.spoken)
    expected = ["Results of", "Doctor Smith", "Washington", "twelve dollars", "Really", "March fifteenth", "First item",
                "Second item with a link", "third", "block of python code", "After the code",
                "人工智能", "很好", "a, b",
                "one, two", "quoted text, for example this soft wrapped line", "OK."]  # fmt: skip
    positions = [spoken.find(words) for words in expected]
    assert -1 not in positions and positions == sorted(positions)
    assert "print" not in spoken and "example.com" not in spoken and "😀" not in spoken


CUTS = st.lists(st.integers(0, len(TEXT)), max_size=30).map(sorted)


def assert_streamed_is_whole(cuts: list[int]) -> None:
    edges = [0, *cuts, len(TEXT)]
    streamed = heard(*(TEXT[a:b] for a, b in pairwise(edges)))
    assert [(c.text_start, c.text_end) for c in streamed] == [(c.text_start, c.text_end) for c in whole()]
    assert [len(c.samples) for c in streamed] == [len(c.samples) for c in whole()]
    assert np.array_equal(samples(streamed), samples(whole()))


@settings(max_examples=25)
@given(CUTS)
def test_streamed_is_whole_for_any_deltas(cuts: list[int]) -> None:
    assert_streamed_is_whole(cuts)


@pytest.mark.slow
@given(CUTS)
def test_streamed_is_whole_for_a_hundred_choices_of_deltas(cuts: list[int]) -> None:
    assert_streamed_is_whole(cuts)


def test_the_first_chunk_is_short_and_comes_before_the_text_has_ended() -> None:
    voice = ToneVoice()
    stream = stream_of(voice)
    stream.feed("The sky is blue today. And")
    chunks = iter(stream)
    first = len(next(chunks).samples)
    assert first <= PIECE == 0.08 * SAMPLE_RATE
    assert voice.pieces <= 2, "the rest is not made before it is asked for"
    assert first < len(next(chunks).samples) < len(next(chunks).samples)


def test_durations_add_up_to_the_sample() -> None:
    voice = ToneVoice()
    chunks = heard("# Title\nHello there.", voice=voice)
    expected = sum(len(tone(text)) for text in voice.spoken) + round(HEADING_PAUSE * SAMPLE_RATE)
    assert len(samples(chunks)) == expected


def test_only_the_ends_of_a_clause_are_faded() -> None:
    made, plain = samples(heard("Hello there")), tone("Hello there")
    assert np.array_equal(made[FADE:-FADE], plain[FADE:-FADE])
    assert made[0] == made[-1] == 0 and np.abs(made[:FADE]).max() <= np.abs(plain[:FADE]).max()


def test_chunks_say_which_characters_they_speak() -> None:
    chunks = heard(TEXT)
    end = 0
    for chunk in chunks:
        assert end <= chunk.text_start <= chunk.text_end <= len(TEXT)
        end = chunk.text_end
    assert end == len(TEXT)
    covered = "".join(TEXT[chunk.text_start : chunk.text_end] for chunk in chunks)
    assert "Dr. Smith went to Washington D.C. yesterday.It cost $12.50!" in covered


def test_within_a_clause_the_position_advances_by_words() -> None:
    before = "The pace of the voice is learned from this. "
    text = before + "one two three four five six seven eight nine ten eleven twelve."
    ends = [chunk.text_end for chunk in heard(text) if chunk.text_start >= len(before)]
    assert len(set(ends)) > 5
    assert all(end == len(text) or text[end - 1 : end] in ("", " ") for end in ends)


def test_cancel_stops_within_one_chunk_and_within_one_piece_of_work() -> None:
    voice = ToneVoice()
    stream = stream_of(voice)
    stream.feed("A long sentence that goes on and on for a while, I think. " * 20)
    chunks = iter(stream)
    next(chunks)
    made = voice.pieces
    stream.cancel()
    assert len(list(chunks)) <= 1
    assert voice.pieces <= made + 1 and voice.cancelled == 1


def test_closing_the_iterator_stops_the_voice() -> None:
    voice = ToneVoice()
    stream = stream_of(voice)
    stream.feed("A long sentence that goes on and on for a while, I think. And")
    for _ in stream:
        break
    del _
    import gc

    gc.collect()
    assert voice.cancelled == 1


def test_cancel_ends_a_stream_that_waits_for_text() -> None:
    stream = stream_of(ToneVoice())
    ended = threading.Event()
    thread = threading.Thread(target=lambda: (list(stream), ended.set()))
    thread.start()
    time.sleep(0.05)
    assert not ended.is_set()
    stream.cancel()
    assert ended.wait(10)


@pytest.mark.parametrize("inside", ["open", "speak"])
def test_close_from_another_thread_waits_for_the_voice_to_be_left(inside: str) -> None:
    entered, leave, ended = threading.Event(), threading.Event(), threading.Event()
    problems: list[str] = []

    class Slow(ToneVoice):
        busy = False

        def wait(self, where: str) -> None:
            if where == inside:
                self.busy = True
                entered.set()
                assert leave.wait(30)
                self.busy = False

        def open(self, *, language: str, speed: float, seed: int | None):  # type: ignore[no-untyped-def]
            self.wait("open")
            utterances = super().open(language=language, speed=speed, seed=seed)
            speak, close = utterances.speak, utterances.close

            def slow(text: str, *, first: bool):  # type: ignore[no-untyped-def]
                self.wait("speak")
                yield from speak(text, first=first)

            def checked() -> None:
                problems.extend(["closed while it speaks"] * self.busy)
                close()

            utterances.speak, utterances.close = slow, checked  # type: ignore[method-assign]
            return utterances

    voice = Slow()
    stream = stream_of(voice)
    stream.feed("A long sentence that goes on and on for a while, I think. " * 20)
    thread = threading.Thread(target=lambda: (problems.extend(map(str, stream)), ended.set()))
    thread.start()
    assert entered.wait(30)
    stream.close()
    assert voice.closes == 0
    leave.set()
    assert ended.wait(30) and voice.closes == 1 and problems == [] and len(voice.spoken) <= 1
    stream.close()
    assert voice.closes == 1 and stream.unspoken == []


def test_a_slow_reader_holds_the_voice() -> None:
    voice = ToneVoice()
    stream = stream_of(voice)
    stream.feed("This is a sentence of some length, is it not? " * 50)
    stream.finish()
    chunks = iter(stream)
    for _ in range(5):
        next(chunks)
    made = voice.pieces
    time.sleep(0.05)
    assert voice.pieces == made and made < 20 and len(voice.spoken) <= 2


def test_reset_starts_another_answer() -> None:
    voice = ToneVoice()
    stream = stream_of(voice)
    stream.feed("Something that is cancelled. And more")
    next(iter(stream))
    stream.cancel()
    stream.reset()
    stream.feed("Hello there.")
    stream.finish()
    again = list(stream)
    assert again[0].text_start == 0 and again[-1].text_end == 12
    assert np.array_equal(samples(again), samples(heard("Hello there.")))
    assert voice.resets == 1 and len(voice.opened) == 1
    stream.close()
    assert voice.closes == 1


def test_clauses_of_a_language_that_the_voice_does_not_speak_are_told() -> None:
    voice = ToneVoice(languages=("en",))
    stream = stream_of(voice)
    stream.feed("Hello there. 你好，世界。 Good bye.")
    stream.finish()
    assert samples(list(stream)).any() and stream.unspoken == ["zh"]
    assert voice.spoken == ["Hello there.", "Good bye."]


def test_each_language_has_its_voice() -> None:
    english, chinese = ToneVoice(("en",)), ToneVoice(("zh",))
    stream = SpeechStream(lambda language: chinese if language == "zh" else english)
    stream.feed("Hello there. 你好，世界。 Good bye.")
    stream.finish()
    list(stream)
    assert english.spoken == ["Hello there.", "Good bye."] and chinese.spoken == ["你好，世界。"]


@pytest.mark.parametrize("text", ["", "...", "👍🏽👍"[:0], "---\n\n***"])
def test_strict_refuses_a_text_without_words(text: str) -> None:
    stream = stream_of(ToneVoice(), strict=True)
    stream.feed(text)
    stream.finish()
    with pytest.raises(vita.RequestError, match="nothing to say"):
        list(stream)
    assert heard(text) == []


def test_strict_refuses_a_language_that_the_voice_does_not_speak() -> None:
    stream = stream_of(ToneVoice(("en",)), strict=True)
    stream.feed("你好")
    stream.finish()
    with pytest.raises(vita.RequestError, match="does not speak the language 'zh'"):
        list(stream)


@pytest.mark.parametrize("speed", [0.0, 0.2, 4.1, -1, float("nan"), float("inf")])
def test_speeds_out_of_range_are_refused(speed: float) -> None:
    with pytest.raises(vita.RequestError, match=r"must be 0\.25 to 4"):
        stream_of(ToneVoice(), speed=speed)


def test_options_reach_the_voice() -> None:
    voice = ToneVoice(("de",))
    stream = stream_of(voice, speed=2.0, seed=7, language="de")
    stream.feed("Guten Tag")
    stream.finish()
    assert len(stream.read()) == pytest.approx(len(tone("Guten Tag")) / 2, abs=10)
    assert voice.opened == [("de", 2.0, 7)]


@pytest.mark.parametrize(("wanted", "opened"), [("de-AT", "de"), ("DE", "de"), ("de_DE", "de"), ("de-CH", "de-CH")])
def test_the_voice_is_opened_with_a_tag_of_its_own(wanted: str, opened: str) -> None:
    voice = ToneVoice(("de", "de-CH"))
    stream = stream_of(voice, language=wanted)
    stream.feed("Guten Tag")
    stream.finish()
    list(stream)
    assert [language for language, *_ in voice.opened] == [opened]


def test_english_of_any_region_is_normalised() -> None:
    voice = ToneVoice(("en",))
    stream = stream_of(voice, language="EN_gb")
    stream.feed("It costs £5.")
    stream.finish()
    list(stream)
    assert voice.spoken == ["It costs five pounds."]


def test_what_a_voice_makes_is_kept_within_range() -> None:
    class Loud(ToneVoice):
        def open(self, *, language: str, speed: float, seed: int | None):  # type: ignore[no-untyped-def]
            utterances = super().open(language=language, speed=speed, seed=seed)
            plain = utterances.speak

            def speak(text: str, *, first: bool):  # type: ignore[no-untyped-def]
                for piece in plain(text, first=first):
                    piece = piece * 9
                    piece[5] = np.nan
                    yield piece

            utterances.speak = speak  # type: ignore[method-assign]
            return utterances

    made = samples(heard("Hello", voice=Loud()))
    assert np.isfinite(made).all() and np.abs(made).max() <= 1


@pytest.mark.parametrize("broken", ["open", "speak", "piece"])
def test_a_voice_that_fails_is_one_sentence_with_its_name(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise KeyError("phonemes")

    if broken == "piece":
        monkeypatch.setattr(ToneUtterances, "speak", lambda self, text, first: iter(["no array"]))
    else:
        monkeypatch.setattr(ToneVoice if broken == "open" else ToneUtterances, broken, fail)
    with pytest.raises(
        vita.ResourceError, match=r"the voice tone has failed \(\w+: .*\); choose another voice\."
    ) as found:
        heard("Hello there.")
    assert found.value.__cause__ is not None


def test_metrics() -> None:
    stream = stream_of(ToneVoice())
    stream.feed("Hello there.")
    stream.finish()
    audio = len(stream.read()) / SAMPLE_RATE
    assert stream.metrics.audio == pytest.approx(audio)
    assert stream.metrics.first_audio > 0 and 0 < stream.metrics.real_time_factor < 10
