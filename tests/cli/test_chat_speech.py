"""`vita chat --speak`: answers are heard while they are printed, Ctrl-C stops and forgets the rest; `/voice`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scripts.terminal import CTRL_C, CTRL_D, Terminal
from tests.cli.commands import ENV, ROOT, assert_sentence, run
from tests.cli.test_chat import chat_flags
from tests.forks import Forks
from tests.speech.devices import Loudspeaker
from tests.speech.tone import PER_CHARACTER, ToneUtterances, ToneVoice
from tests.voices import TONE, declare_voices

import vita
from vita.cli.chat.conversation import Conversation
from vita.cli.chat.speech import ChatSpeech, open_default
from vita.errors import ResourceError
from vita.speech.player import Player
from vita.speech.voice import PIECE, SAMPLE_RATE
from vita.types import SpeechOptions

TONE_OPTIONS = SpeechOptions(voice="tone")
PARAMS = vita.SamplingParams(max_tokens=60)
QUESTION = "What can you do?"

pytestmark = pytest.mark.usefixtures("tone_is_declared")


@pytest.fixture(scope="module")
def model() -> Iterator[vita.Vita]:
    """The embedded model, whose answers have words."""
    with vita.load() as model:
        yield model


class FreedByStop(Player):
    """A stop lets the device go on, as a real one does by itself."""

    def __init__(self, device: Loudspeaker) -> None:
        super().__init__(device)
        self.loudspeaker = device

    def stop(self) -> int:
        heard = super().stop()
        self.loudspeaker.go_on()
        return heard


def spoken_chat(
    model: vita.Vita, *devices: Loudspeaker, on: bool = True, params: vita.SamplingParams = PARAMS
) -> Conversation:
    """A chat whose answers the voice `tone` speaks, each on the next of these devices."""
    left = list(devices)
    speech = ChatSpeech(TONE_OPTIONS, on=on, open_player=lambda: FreedByStop(left.pop(0)))
    return Conversation(model, chat_flags(params), speech)


def interrupt_once_blocked(device: Loudspeaker) -> threading.Thread:
    """Ctrl-C once the device has played what it takes."""
    main = threading.get_ident()

    def press() -> None:
        assert device.blocked.wait(60)
        signal.pthread_kill(main, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def test_answers_are_printed_and_heard(model: vita.Vita, capsys: pytest.CaptureFixture[str]) -> None:
    device, other = Loudspeaker(), Loudspeaker()
    chat = spoken_chat(model, device, other)
    for one in (device, other):
        assert chat.handle(QUESTION)
        said, noted = capsys.readouterr()
        wanted = model.speak(said.strip(), voice="tone").read()
        np.testing.assert_array_equal(np.concatenate(one.played), wanted)
        assert noted == "" and len(wanted) > 50 * PER_CHARACTER and one.ended == "stopped"
    assert [turn.role for turn in chat.session.turns] == ["user", "assistant"] * 2


def test_the_text_does_not_wait_for_its_speech(model: vita.Vita, capsys: pytest.CaptureFixture[str]) -> None:
    """All of it is printed while the device still plays the beginning; the prompt comes after the end."""
    device = Loudspeaker(limit=PIECE)
    chat = spoken_chat(model, device)
    whole = model.ask(QUESTION).text
    printed: list[str] = []

    def look() -> None:
        assert device.blocked.wait(60)
        for _ in range(600):
            printed.append(capsys.readouterr().out)
            if "".join(printed) == whole:
                break
            device_waits.wait(0.1)
        device.go_on()

    device_waits = threading.Event()
    other = threading.Thread(target=look)
    other.start()
    assert chat.handle(QUESTION)
    other.join()
    assert "".join(printed) == whole and capsys.readouterr().out == "\n"
    assert device.samples > 50 * PER_CHARACTER and device.ended == "stopped"


def test_ctrl_c_forgets_what_was_not_heard(model: vita.Vita, capsys: pytest.CaptureFixture[str]) -> None:
    device = Loudspeaker(limit=12 * PIECE)
    chat = spoken_chat(model, device)
    other = interrupt_once_blocked(device)
    assert chat.handle(QUESTION)
    other.join()
    said, noted = capsys.readouterr()
    whole = model.ask(QUESTION).text
    assert noted == "(stopped; the conversation goes on from what was heard)\n" and said.strip() == whole
    question, answer = chat.session.turns
    heard = str(answer.pieces[0])
    assert whole.startswith(heard) and 10 < len(heard) <= 12 * PIECE / PER_CHARACTER < len(whole)
    assert chat.exchanges[0].answer == heard and not chat.pending
    assert device.samples <= 13 * PIECE and device.ended == "aborted", "sound stops within one piece"
    chat.speech.on = False
    chat.handle("And now?")
    same = model.session()
    for turn in (question, answer):
        same.add(turn)
    assert capsys.readouterr().out == same.submit(vita.user("And now?"), PARAMS).result().text + "\n"


def test_ctrl_c_while_the_text_is_written_stops_it(mini_model: vita.Vita, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer would take thousands of tokens more."""
    device = Loudspeaker(limit=8 * PIECE)
    chat = spoken_chat(mini_model, device, params=vita.SamplingParams(max_tokens=100_000, repetition_penalty=1.3))
    other = interrupt_once_blocked(device)
    assert chat.handle("Hello")
    other.join()
    said, noted = capsys.readouterr()
    kept = [str(turn.pieces[0]) for turn in chat.session.turns if turn.role == "assistant"]
    assert noted.startswith("(stopped") and device.ended == "aborted" and device.samples <= 9 * PIECE
    assert len(kept) == 1 and said.startswith(kept[0]) and len(kept[0]) < len(said.removesuffix("\n"))


def test_without_anything_to_hear_the_history_holds_what_is_printed(
    mini_model: vita.Vita, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The voice makes nothing of the text, so the answer is read only."""
    monkeypatch.setattr(ToneUtterances, "speak", lambda self, text, first: iter(()))
    chat = spoken_chat(mini_model, Loudspeaker(), params=vita.SamplingParams(max_tokens=200, repetition_penalty=1.3))
    real, written = sys.stdout.write, [0]

    def write(text: str) -> int:
        count = real(text)
        written[0] += 1
        if written[0] == 3:
            signal.raise_signal(signal.SIGINT)
        return count

    with monkeypatch.context() as patch:
        patch.setattr(sys.stdout, "write", write)
        assert chat.handle("Hello")
    said, noted = capsys.readouterr()
    assert noted == "(stopped)\n"
    assert [str(turn.pieces[0]) for turn in chat.session.turns[1:]] == [said.removesuffix("\n")]


def test_a_loudspeaker_that_fails_is_a_sentence_and_the_chat_goes_on(
    model: vita.Vita, capsys: pytest.CaptureFixture[str]
) -> None:
    class Unplugged(Loudspeaker):
        def write(self, samples: np.ndarray) -> None:
            raise OSError("unplugged")

    chat = spoken_chat(model, Unplugged(), Loudspeaker(), Loudspeaker())
    assert chat.handle(QUESTION) and chat.failures == 1
    said, noted = capsys.readouterr()
    assert noted == "vita: the loudspeaker has failed (unplugged); attach it and start again.\n"
    assert len(chat.exchanges) == 1 and chat.session.turns[0].role == "user", "the turn is kept, and may be asked again"
    assert said.endswith("\n") and model.ask(QUESTION).text.startswith(said.removesuffix("\n"))
    assert chat.handle("/regenerate 0") and chat.failures == 1
    assert len(chat.exchanges) == 1 and capsys.readouterr().out == model.ask(QUESTION).text + "\n"
    assert chat.handle(QUESTION) and chat.failures == 1 and len(chat.exchanges) == 2


def test_a_voice_that_fails_keeps_the_turn_and_its_image_once(
    model: vita.Vita, files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: ToneVoice, **options: object) -> None:
        raise ResourceError("the voice cannot be loaded", where="voice tone", fix="install it again")

    chat = spoken_chat(model, Loudspeaker(), Loudspeaker())
    assert chat.handle(f"/image {files / 'good.png'}")
    with monkeypatch.context() as patch:
        patch.setattr(ToneVoice, "open", broken)
        assert chat.handle("What is it?") and chat.failures == 1
    assert capsys.readouterr().err.endswith("vita: voice tone: the voice cannot be loaded; install it again.\n")
    held = [turn for turn in chat.session.turns if turn.images]
    assert len(held) + len(chat.pending) == 1 and len(chat.exchanges) == len(held)
    assert chat.handle("What is it?") and chat.failures == 1


class TestVoice:
    def test_it_lists_and_switches(self, model: vita.Vita, capsys: pytest.CaptureFixture[str]) -> None:
        chat = spoken_chat(model, Loudspeaker(), Loudspeaker(), device := Loudspeaker(), on=False)
        assert chat.handle("/voice")
        said = capsys.readouterr().out.splitlines()
        assert "  tone" in [line[:6] for line in said] and not any(line.startswith("*") for line in said)
        assert said[-1].startswith("Answers are not spoken")
        assert chat.handle("/voice tone") and capsys.readouterr() == ("", "Answers are spoken by tone.\n")
        assert chat.handle("/voice")
        said = capsys.readouterr().out.splitlines()
        (line,) = [line for line in said if line.startswith("*")]
        assert line.split() == ["*", "tone", "en,", "zh"] and said[-1].startswith("Answers are spoken by tone")
        assert chat.handle("/voice off") and chat.handle("/voice on")
        assert chat.handle(QUESTION) and device.samples, "on is the voice before"
        assert chat.handle("/voice OFF") and chat.handle(QUESTION), "no device is opened: there is none left"
        assert chat.failures == 0

    def test_a_voice_that_does_not_exist_changes_nothing(
        self, model: vita.Vita, capsys: pytest.CaptureFixture[str]
    ) -> None:
        chat = spoken_chat(model, on=False)
        assert chat.handle("/voice bob") and "there is no voice 'bob'; use one of:" in capsys.readouterr().err
        assert chat.handle("/voice vita") and "no voice of its own" in capsys.readouterr().err
        assert (chat.speech.on, chat.speech.options, chat.failures) == (False, TONE_OPTIONS, 2)

    def test_a_machine_that_cannot_play_stays_silent(
        self, model: vita.Vita, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def none() -> Player:
            raise ResourceError("this machine has no loudspeaker", fix="attach one")

        chat = Conversation(model, chat_flags(PARAMS), ChatSpeech(TONE_OPTIONS, open_player=none))
        assert chat.handle("/voice tone") and not chat.speech.on
        assert capsys.readouterr().err == "vita: this machine has no loudspeaker; attach one.\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--voice", "tone"), "vita: --voice: is about speech; add --speak or --listen."),
        (("--language", "de"), "vita: --language: is about speech; add --speak or --listen."),
        (("--speed", "2", "--language", "de"), "vita: --language and --speed: are about speech; add --speak or"),
        (("--speak", "--voice", "bob"), "--voice: there is no voice 'bob'"),
        (("--speak", "--speed", "9"), "--speed: must be 0.25 to 4"),
        (("--listen", "--voice", "bob"), "--voice: there is no voice 'bob'"),
    ],
)
def test_what_cannot_be_spoken_is_one_sentence(flags: tuple[str, ...], said: str) -> None:
    assert_sentence(run("chat", *flags), said)


def test_a_machine_without_a_loudspeaker_gets_one_sentence() -> None:
    try:
        with open_default():
            pytest.skip("this machine has a sound device")
    except ResourceError as error:
        assert_sentence(run("chat", "--speak", "--model", "no/such/model"), str(error))


SOUNDDEVICE = f"""
# A sounddevice without hardware: it plays in real time, into a file.
import os, time
class PortAudioError(Exception): pass
def query_devices(kind): return {{"name": kind, "default_samplerate": {SAMPLE_RATE}.0}}
class OutputStream:
    latency = 0.0
    def __init__(self, samplerate, channels, dtype): self.rate, self.file = samplerate, open("played.raw", "ab")
    def start(self): pass
    def write(self, samples):
        self.file.write(samples.tobytes())
        self.file.flush()
        time.sleep(len(samples) / self.rate)
    def stop(self): pass
    def abort(self): pass
    def close(self): self.file.close()
"""


def test_a_session_in_a_terminal(forks: Forks, tmp_path: Path) -> None:
    """A whole answer is heard, then one is stopped with Ctrl-C, then one is only printed."""
    (tmp_path / "sounddevice.py").write_text(SOUNDDEVICE)
    declare_voices(tmp_path, TONE)
    paths = os.pathsep.join([str(tmp_path), str(ROOT), ENV.get("PYTHONPATH", "")])
    env = ENV | {"VITA_HISTORY": "off", "TERM": "xterm-256color", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "vita", "chat", "--speak", "--voice", "tone", "--speed", "2"]
    played = tmp_path / "played.raw"

    def samples() -> int:
        return played.stat().st_size // 4 if played.exists() else 0

    with Terminal(command, columns=120, rows=60, env=env, cwd=tmp_path, start=forks.in_terminal) as chat:
        chat.wait(lambda screen: screen.endswith("\n>"), seconds=150)
        chat.type(QUESTION + "\r")
        chat.wait(lambda screen: "can describe" in screen and screen.endswith("\n>"))
        whole = samples()
        assert whole > 50 * PER_CHARACTER / 2
        chat.type("/voice\r")
        assert "* tone" in chat.wait("Answers are spoken by tone")
        chat.type(QUESTION + "\r")
        chat.wait(lambda _: samples() > whole + 6 * PIECE)
        chat.type(CTRL_C)
        chat.wait("(stopped; the conversation goes on from what was heard)\n>")
        stopped = samples()
        assert stopped < 2 * whole
        chat.type("/voice off\r/save a.json\r")
        chat.wait("saved in a.json.\n>")
        chat.type("Hello\r")
        chat.wait(lambda screen: screen.endswith("\n>") and "ask me" in screen)
        assert samples() == stopped
        chat.type(CTRL_D)
        assert chat.end() == 0
    first, second = [m["content"] for m in json.loads((tmp_path / "a.json").read_text())["messages"]][1::2]
    assert first.startswith(second.rstrip()[:5]) and 0 < len(second) < len(first)
    assert len(second) * PER_CHARACTER / 2 <= stopped - whole
