"""`vita chat --listen`: turns are answered, speech stops an answer, noise gets none, headless machines one sentence."""

from __future__ import annotations

import io
import queue
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from tests.cli.commands import run
from tests.cli.test_chat import chat_flags
from tests.speech.devices import CountingVad, Room, echo_of
from tests.speech.recordings import recording

import vita
from vita.cli.listen import ListenLoop, choose_speaker
from vita.engine.handle import Handle
from vita.errors import ResourceError
from vita.events import Done, Event, SpeechChunk, TextDelta
from vita.speech.device import DefaultDevice
from vita.speech.echo import EchoCanceller
from vita.speech.listener import Heard, Listener
from vita.speech.microphone import Microphone, MicrophoneEvent
from vita.speech.turns import Input, SpeechResumed, SpeechStarted, SpeechStopped, TurnOptions, TurnPaused
from vita.speech.vad import load_vad
from vita.types import Audio, Image, Message, SamplingParams, SpeechOptions, user

PAUSE = np.zeros(8_000, np.float32)
OPTIONS = TurnOptions(silence_ms=700)
PARAMS = SamplingParams(max_tokens=12)


class Spoken:
    """A handle whose answer is spoken: every answer takes as long as a recording."""

    def __init__(self, handle: Handle, speech: np.ndarray) -> None:
        self._handle, self._speech = handle, speech
        self.text = ""

    def __iter__(self) -> Iterator[Event]:
        for event in self._handle:
            if isinstance(event, TextDelta):
                self.text += event.text
            if isinstance(event, Done):
                count = len(self._speech) // 1_920
                for number in range(count):
                    start, end = (len(self.text) * n // count for n in (number, number + 1))
                    samples = self._speech[1_920 * number : 1_920 * (number + 1)]
                    yield SpeechChunk(samples=samples, text_start=start, text_end=end)
            yield event

    def cancel(self) -> None:
        self._handle.cancel()


def listen(room: Room, loop: ListenLoop) -> None:
    """Run the loop until the room's script is over."""
    loop.run(room.finished)
    if room.error is not None:
        raise room.error


def test_turns_that_are_heard_are_answered(mini_model: vita.Vita) -> None:
    """The answers are those of the same audio in a session; media given at the start go with the first turn."""
    vad, out = CountingVad(load_vad()), io.StringIO()

    def answered(count: int) -> Callable[[], bool]:
        return lambda: out.getvalue().count("\n") >= count

    script = [(0, PAUSE), (0, recording("question03")), (answered(1), recording("question07")), (answered(2), PAUSE)]
    room = Room(vad, script, sample_rate=16_000, tail=0)
    image = Image(np.full((32, 32, 3), 200, np.uint8))
    session = mini_model.session()
    loop = ListenLoop(session, Microphone(room, vad, None, OPTIONS), PARAMS, first=Message("user", (image,)), out=out)
    listen(room, loop)
    heard = Listener(vad, OPTIONS).feed(np.concatenate(room.recorded))
    turns = [one.audio for one in heard if isinstance(one.event, SpeechStopped)]
    assert len(turns) == 2
    with mini_model.session() as again:
        wanted = [
            again.submit(Message("user", (image, Audio(turns[0], 16_000))), PARAMS).result().text,
            again.submit(user(audios=[Audio(turns[1], 16_000)]), PARAMS).result().text,
        ]
    lengths = [f"({len(turn) / 16_000:.1f} s) " for turn in turns]
    assert out.getvalue() == "".join(f"{length}{text}\n" for length, text in zip(lengths, wanted, strict=True))
    assert [turn.role for turn in session.turns] == ["user", "assistant"] * 2
    session.close()


def test_speech_stops_a_spoken_answer_and_the_rest_is_forgotten(mini_model: vita.Vita) -> None:
    vad, out = CountingVad(load_vad()), io.StringIO()
    script = [(0, PAUSE), (0, recording("question03")), (3.0, recording("question10"))]
    script.append((lambda: out.getvalue().count("\n") >= 2, PAUSE))
    room = Room(vad, script, echo=echo_of(), sample_rate=16_000, tail=0)
    answers: list[Spoken] = []
    speech = np.concatenate([recording(f"question0{n}", 24_000) for n in (1, 7, 2)])

    def speak(handle: Handle) -> Any:
        answers.append(Spoken(handle, speech if not answers else speech[:1_920]))
        return answers[-1]

    session = mini_model.session()
    loop = ListenLoop(session, Microphone(room, vad, EchoCanceller(), OPTIONS), PARAMS, speak=speak, out=out)
    listen(room, loop)
    kept = [str(turn.pieces[0]) for turn in session.turns if turn.role == "assistant"]
    whole = answers[0].text
    assert len(answers) == 2 and kept[1] == answers[1].text
    assert whole.startswith(kept[0]) and 0 < len(kept[0]) < len(whole)
    # Heard: from the first to the last sample that was played, but for what the user said over it.
    played = np.flatnonzero(np.concatenate(room.played))
    assert len(kept[0]) / len(whole) <= (played[-1] - played[0]) / 16_000 / (len(speech) / 24_000)
    session.close()


def test_noise_gets_no_answer_and_leaves_no_trace() -> None:
    """A held-out clip that voice activity takes for speech and the embedded model for noise."""
    vad, out = CountingVad(load_vad()), io.StringIO()
    script = [(0, PAUSE), (0, recording("ignore28")), (lambda: out.getvalue().count("\n") >= 1, PAUSE)]
    room = Room(vad, script, sample_rate=16_000, tail=0)
    with vita.load() as model, model.session() as session:
        listen(room, ListenLoop(session, Microphone(room, vad, None, OPTIONS), PARAMS, out=out))
        assert session.turns == ()
    assert out.getvalue().endswith(" s) (noise)\n")


class Told:
    """A microphone that hears what a test feeds and plays nothing, so that no pause depends on the machine's speed."""

    def __init__(self) -> None:
        self.listener = Listener(load_vad(), TurnOptions(silence_ms=60_000, ask_after_ms=(640,)))
        self.said: queue.Queue[Input] = queue.Queue()
        self.tell = self.said.put

    def begin_answer(self) -> int:
        return 1

    def finish_answer(self, answer: int) -> None:
        pass

    stop_answer = begin_answer

    def hear(self, loop: ListenLoop, samples: np.ndarray) -> list[Heard]:
        """Feed audio, and then what the loop says of the pause."""
        heard = self.listener.feed(samples)
        for one in heard:
            loop.handle(MicrophoneEvent(one))
        ended = self.listener.tell(self.said.get(timeout=60))
        for one in ended:
            loop.handle(MicrophoneEvent(one))
        return heard + ended


@pytest.mark.parametrize(("name", "reason"), [("question03", "complete"), ("ignore28", "noise")])
def test_a_turn_ends_before_its_silence_if_the_model_is_sure(name: str, reason: str) -> None:
    """A question is answered by what was heard until the pause, which the model has encoded already."""
    room, out = Told(), io.StringIO()
    with vita.load() as model, model.session() as session:
        loop = ListenLoop(session, cast(Microphone, room), PARAMS, out=out)
        heard = room.hear(loop, np.concatenate([PAUSE, recording(name), np.zeros(12_000, np.float32)]))
        paused = next(one.audio for one in heard if isinstance(one.event, TurnPaused))
        assert paused is not None
        assert [one.event.reason for one in heard if isinstance(one.event, SpeechStopped)] == [reason]
        if loop.answer is not None:
            loop.answer.join()
        with model.session() as again:
            wanted = again.submit(user(audios=[Audio(paused, 16_000)]), PARAMS).result()
        said = "(noise)" if reason == "noise" else wanted.text
        assert out.getvalue() == f"({len(paused) / 16_000:.1f} s) {said}\n"
        assert [turn.role for turn in session.turns] == ([] if reason == "noise" else ["user", "assistant"])


def test_what_the_model_says_of_a_pause_is_of_no_use_once_the_speech_goes_on(mini_model: vita.Vita) -> None:
    room = Told()
    with mini_model.session() as session:
        loop = ListenLoop(session, cast(Microphone, room), PARAMS, out=io.StringIO())
        speech = recording("question03")
        heard = room.listener.feed(np.concatenate([speech, np.zeros(11_000, np.float32), speech[:8_000]]))
        for one in heard:
            loop.handle(MicrophoneEvent(one))
        assert [type(one.event) for one in heard] == [SpeechStarted, TurnPaused, SpeechResumed]
        assert session.turns == () and loop.answer is None


def test_a_device_that_stops_ends_the_loop(mini_model: vita.Vita) -> None:
    vad = CountingVad(load_vad())
    room = Room(vad, [], sample_rate=16_000, tail=0.1, unplugged=True)
    with mini_model.session() as session, pytest.raises(ResourceError, match="microphone has stopped"):
        ListenLoop(session, Microphone(room, vad, None), PARAMS).run()


@pytest.mark.parametrize("error", [ResourceError("the voice has failed", fix="choose another"), KeyError("phonemes")])
def test_an_answer_that_fails_prints_no_traceback(
    mini_model: vita.Vita, error: Exception, capfd: pytest.CaptureFixture[str]
) -> None:
    """A sentence of its own for what a user can mend; anything else ends the loop."""

    class Broken(Spoken):
        def __iter__(self) -> Iterator[Event]:
            for event in self._handle:
                if isinstance(event, Done):
                    raise error
                yield event

    vad, out = CountingVad(load_vad()), io.StringIO()
    script = [(0, PAUSE), (0, recording("question03")), (lambda: "\n" in out.getvalue(), PAUSE)]
    room = Room(vad, script, sample_rate=16_000, tail=2)
    loop = ListenLoop(
        mini_model.session(), Microphone(room, vad, None, OPTIONS), PARAMS, speak=lambda handle: Broken(handle, PAUSE),
        out=out,
    )  # fmt: skip
    if isinstance(error, ResourceError):
        listen(room, loop)
        assert capfd.readouterr().err == "vita: the voice has failed; choose another.\n"
    else:
        with pytest.raises(KeyError, match="phonemes"):
            listen(room, loop)
        assert capfd.readouterr().err == ""
    assert out.getvalue().endswith("\n")


def test_a_machine_without_a_microphone_gets_one_sentence() -> None:
    try:
        DefaultDevice()
    except ResourceError as error:
        done = run("chat", "--listen")
        assert done.returncode == 2 and done.stdout == b""
        assert done.stderr.decode() == f"vita: {error}\n"
    else:
        pytest.skip("this machine has a sound device")


@pytest.mark.usefixtures("tone_is_declared")
def test_answers_are_spoken_by_the_voice_of_the_flags(mini_model: vita.Vita) -> None:
    """All of an answer's speech reaches the loudspeaker; afterwards the history holds the whole answer."""
    vad, out = CountingVad(load_vad()), io.StringIO()
    script = [(0, np.zeros(12_000, np.float32)), (0, recording("question03", 24_000))]
    script.append((lambda: out.getvalue().count("\n") >= 1, PAUSE))
    room = Room(vad, script, sample_rate=24_000, tail=3)
    flags = replace(chat_flags(PARAMS), speech=SpeechOptions(voice="tone"))
    speak = choose_speaker(mini_model, flags)
    with mini_model.session() as session:
        listen(room, ListenLoop(session, Microphone(room, vad, None, OPTIONS), PARAMS, speak=speak, out=out))
        text = str(session.turns[1].pieces[0])
    assert out.getvalue().endswith(f" s) {text}\n")
    spoken = mini_model.speak(text, voice="tone").read()
    played = np.concatenate(room.played)
    assert abs(np.count_nonzero(played) - np.count_nonzero(spoken)) < 0.02 * len(spoken)


def test_without_a_voice_answers_are_printed_and_a_note_says_so(
    mini_model: vita.Vita, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("vita.speech.voice.installed_entries", lambda: [])
    flags = chat_flags(PARAMS)
    assert choose_speaker(mini_model, flags) is None
    error = capsys.readouterr().err
    assert error.startswith("vita: note: answers are only printed, since no voice is installed; run pip install")
    for wanted in (replace(flags, speak=True), replace(flags, speech=SpeechOptions(voice="nova"))):
        with pytest.raises(ResourceError, match="no voice is installed"):
            choose_speaker(mini_model, wanted)
