"""`vita chat --listen`: turns are answered, speech stops an answer, noise gets none, headless machines one sentence."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from tests.cli.commands import run
from tests.speech.devices import CountingVad, Room, echo_of
from tests.speech.recordings import recording

import vita
from vita.cli.listen import ListenLoop
from vita.engine.handle import Handle
from vita.errors import ResourceError
from vita.events import Done, Event, TextDelta
from vita.speech.device import DefaultDevice
from vita.speech.echo import EchoCanceller
from vita.speech.listener import Listener
from vita.speech.microphone import Microphone
from vita.speech.turns import SpeechStopped, TurnOptions
from vita.speech.vad import load_vad
from vita.types import Audio, Image, Message, SamplingParams, user

PAUSE = np.zeros(8_000, np.float32)
OPTIONS = TurnOptions(silence_ms=700)
PARAMS = SamplingParams(max_tokens=12)


@dataclass(frozen=True)
class Piece:
    """A chunk of a spoken answer."""

    samples: np.ndarray
    text_start: int
    text_end: int
    index: int = 0


class Spoken:
    """A handle whose answer is spoken: every answer takes as long as a recording."""

    def __init__(self, handle: Handle, speech: np.ndarray) -> None:
        self._handle, self._speech = handle, speech
        self.text = ""

    def __iter__(self) -> Iterator[Event | Piece]:
        for event in self._handle:
            if isinstance(event, TextDelta):
                self.text += event.text
            if isinstance(event, Done):
                count = len(self._speech) // 1_920
                for number in range(count):
                    start, end = (len(self.text) * n // count for n in (number, number + 1))
                    yield Piece(self._speech[1_920 * number : 1_920 * (number + 1)], start, end)
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


def test_a_device_that_stops_ends_the_loop(mini_model: vita.Vita) -> None:
    vad = CountingVad(load_vad())
    room = Room(vad, [], sample_rate=16_000, tail=0.1, unplugged=True)
    with mini_model.session() as session, pytest.raises(ResourceError, match="microphone has stopped"):
        ListenLoop(session, Microphone(room, vad, None), PARAMS).run()


def test_a_machine_without_a_microphone_gets_one_sentence() -> None:
    try:
        DefaultDevice()
    except ResourceError as error:
        done = run("chat", "--listen")
        assert done.returncode == 2 and done.stdout == b""
        assert done.stderr.decode() == f"vita: {error}\n"
    else:
        pytest.skip("this machine has a sound device")
