"""`vita say`, and `vita ask --speak`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from tests.cli.commands import ENV, MINI, assert_sentence, process, run
from tests.forks import CLOSED, Forks
from tests.speech.test_audio_file import Device
from tests.speech.tone import ToneUtterances
from tests.voices import declare_voices

from vita.speech.voice import Voice

RATE = 24_000
ASK = ("ask", "Hello", "--model", MINI, "--max-tokens", "12")


def seconds(file: Path) -> float:
    samples, rate = soundfile.read(file)
    assert rate == RATE and samples.ndim == 1
    return len(samples) / rate


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3"])
def test_say_writes_a_file(tmp_path: Path, espeak: Voice, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    done = run("say", "Hello, I am VITA.", "-o", str(file), "--voice", "espeak", "--timings")
    assert done.returncode == 0 and done.stdout == b"", done.stderr
    assert 0.8 < seconds(file) < 4
    assert "real-time factor" in done.stderr.decode()


def test_say_writes_raw_pcm_to_stdout(espeak: Voice) -> None:
    done = run("say", "Hello, I am VITA.", "-o", "-", "--voice", "espeak")
    samples = np.frombuffer(done.stdout, "<i2")
    assert done.returncode == 0 and 0.8 < len(samples) / RATE < 4 and np.abs(samples).max() > 3000


def test_say_speaks_standard_input(tmp_path: Path, espeak: Voice) -> None:
    file = tmp_path / "a.wav"
    done = run("say", "-", "-o", str(file), "--voice", "espeak", stdin="Hello there.\nHow are you? 你好。".encode())
    assert done.returncode == 0 and seconds(file) > 2


def test_speed_and_alias(tmp_path: Path, espeak: Voice) -> None:
    for name, flags in {"one": (), "two": ("--speed", "2")}.items():
        done = run("say", "Hello, I am VITA.", "-o", str(tmp_path / f"{name}.wav"), "--voice", "espeak", *flags)
        assert done.returncode == 0, done.stderr
    assert seconds(tmp_path / "one.wav") > 1.6 * seconds(tmp_path / "two.wav")
    assert run("say", "Hello.", "-o", str(tmp_path / "nova.wav"), "--voice", "nova").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("say", "-o", "a.wav"), "there is no text"),
        (("say", "hi", "-o", ""), "the name of the file is empty"),
        (("say", "hi", "-o", "a.txt"), ".txt is not an audio format"),
        (("say", "hi", "-o", "none/a.wav"), "cannot be written"),
        (("say", "hi", "-o", "."), "it is a folder; name a file in it"),
        (("say", "hi", "-o", "new.wav/"), "it is a folder; name a file in it"),
        (("say", "hi", "-o", "a.wav", "--voice", "bob"), "--voice: there is no voice 'bob'"),
        (("say", "hi", "-o", "a.wav", "--speed", "9"), "--speed: must be 0.25 to 4"),
        (("say", "...", "-o", "a.wav", "--voice", "espeak"), "nothing to say"),
        (("say", "hi", "-o", "a.wav", "--language", "xx", "--voice", "espeak"), "does not speak the language 'xx'"),
        (("say", "hi", "-o", "a.wav", "--language", "xx"), "--language: no installed voice speaks the language 'xx'"),
        (("say", "hi", "-o", "a.wav", "--language", "e n"), "--language: is not a language tag"),
        ((*ASK, "--speak", "a.wav", "--language", "xx"), "--language: no installed voice speaks the language 'xx'"),
        ((*ASK, "--speak", "a.wav", "--language", "xx", "--voice", "espeak"), "--language: espeak does not speak"),
        ((*ASK, "--speak", "a.wav", "--language", "de", "--voice", "vita"), "--language: vita does not speak"),
        (("chat", "--speak", "--language", "xx", "--voice", "espeak"), "--language: espeak does not speak"),
        ((*ASK, "--voice", "espeak"), "add --speak FILE or --play"),
        ((*ASK, "--speak", "-", "--json"), "stdout holds the audio"),
        ((*ASK, "--speak", "a.doc"), ".doc is not an audio format"),
        ((*ASK, "--speak", "a.wav", "--voice", "vita"), "no voice of its own"),
    ],
)
def test_what_cannot_be_spoken_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    espeak: Voice,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_sentence(run(*arguments), said)
    assert not list(tmp_path.iterdir()), "nothing is left"


@pytest.mark.parametrize("language", ["fr-FR", "en-GB", "DE", "en_US", "zh-TW"])
def test_a_language_may_be_written_in_any_way(tmp_path: Path, espeak: Voice, language: str) -> None:
    done = run("say", "Bonjour.", "-o", str(tmp_path / "a.wav"), "--voice", "espeak", "--language", language)
    assert done.returncode == 0 and done.stderr == b"" and seconds(tmp_path / "a.wav") > 0.3


def test_ask_speaks_its_answer(tmp_path: Path, espeak: Voice) -> None:
    file = tmp_path / "a.wav"
    silent = run(*ASK)
    done = run(*ASK, "--speak", str(file), "--voice", "espeak", "--timings")
    assert done.returncode == 0 and done.stdout == silent.stdout, done.stderr
    spoken = any(character.isalnum() for character in silent.stdout.decode())
    assert file.exists() == spoken
    assert ("real-time factor" if spoken else "nothing was spoken") in done.stderr.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ("-5 degrees", "-o", "FILE"),
        ("-o", "FILE", "-5 degrees"),
        ("-o", "FILE", "--voice", "espeak", "-40"),
        ("-oFILE", "- that is all", "--speed", "1.5"),
        ("--out=FILE", "--no, that is not what I said"),
        ("-o", "FILE", "--", "-5 degrees"),
        ("-.5 degrees", "-o", "FILE"),
    ],
)
def test_a_text_may_begin_with_a_dash(tmp_path: Path, espeak: Voice, arguments: tuple[str, ...]) -> None:
    file = tmp_path / "with space.wav"
    done = run("say", *(argument.replace("FILE", str(file)) for argument in arguments))
    assert done.returncode == 0 and done.stderr == b"" and seconds(file) > 0.4


def test_the_value_of_an_option_may_begin_with_a_dash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, espeak: Voice
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("say", "hi", "-o", "-5 x.wav", "--voice", "espeak").returncode == 0
    assert [file.name for file in tmp_path.iterdir()] == ["-5 x.wav"]
    assert_sentence(run("say", "hi", "-o", "a.wav", "--speed", "-5"), "--speed: must be 0.25 to 4, not -5.0")


def test_a_word_that_begins_with_a_dash_is_told_how_to_be_written() -> None:
    said = 'No such option: -f; a text comes after --: vita say -- "-foo". See'
    assert_sentence(run("say", "-foo", "-o", "a.wav"), said)
    assert_sentence(run("ask", "--xyzzy"), 'a text comes after --: vita ask -- "--xyzzy"')
    done = run("say", "hi", "--voise", "espeak")
    assert b"--voice" in done.stderr and b"a text comes" not in done.stderr
    assert_sentence(run("ask", "-5 + 3?", "--audio", "none.wav"), "none.wav")


def test_ask_with_json_speaks_too(tmp_path: Path, espeak: Voice) -> None:
    done = run(*ASK, "--speak", str(tmp_path / "a.wav"), "--voice", "espeak", "--json")
    result = json.loads(done.stdout)
    assert result["timings"]["speech_seconds"] >= 0


@pytest.mark.parametrize("flags", [(), ("--no-stream",), ("--json",)])
@pytest.mark.parametrize("broken", ["voice", "file"])
def test_speech_that_fails_leaves_the_text_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tone_is_declared: None, flags: tuple[str, ...], broken: str
) -> None:
    """The sentence is a line of its own."""
    question = ("ask", "What can you do?", "--max-tokens", "30", *flags)
    silent = run(*question)

    def fail(self: object, *arguments: object, **options: object) -> None:
        raise RuntimeError("no phonemes")

    file = tmp_path / "a.wav"
    if broken == "voice":
        monkeypatch.setattr(ToneUtterances, "speak", fail)
        said = "vita: the voice tone has failed (RuntimeError: no phonemes); choose another --voice."
    else:
        if not Path("/dev/full").exists():
            pytest.skip("SKIPPED LOUDLY: this system has no /dev/full")
        file = tmp_path / "a.raw"
        file.symlink_to("/dev/full")
        said = f"vita: {file}: cannot be written (No space left on device); free some space, or name a file elsewhere."
    done = run(*question, "--speak", str(file), "--voice", "tone")
    assert done.returncode == 2 and done.stderr.decode().splitlines()[-1] == said
    if "--json" in flags:
        assert json.loads(done.stdout)["text"] == json.loads(silent.stdout)["text"]
    else:
        assert done.stdout == silent.stdout and done.stdout.endswith(b"\n")
    assert broken == "file" or list(tmp_path.iterdir()) == []


def test_a_voice_that_fails_while_a_text_is_said_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tone_is_declared: None
) -> None:
    spoken: list[str] = []
    plain = ToneUtterances.speak

    def fail(self: ToneUtterances, text: str, *, first: bool) -> Iterator[np.ndarray]:
        spoken.append(text)
        if len(spoken) == 2:
            raise RuntimeError("no phonemes")
        return plain(self, text, first=first)

    monkeypatch.setattr(ToneUtterances, "speak", fail)
    done = run("say", "Hello there. How are you?", "-o", str(tmp_path / "a.wav"), "--voice", "tone")
    assert_sentence(done, "the voice tone has failed (RuntimeError: no phonemes); choose another --voice.")
    assert len(spoken) == 2 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["-", "/dev/stdout"])
def test_raw_pcm_on_stdout_leaves_the_text_to_stderr(espeak: Voice, name: str) -> None:
    silent, done = run(*ASK), run(*ASK, "--speak", name, "--voice", "espeak")
    assert done.returncode == 0 and silent.stdout.decode().strip() in done.stderr.decode()
    assert len(done.stdout) % 2 == 0


def test_play(monkeypatch: pytest.MonkeyPatch, espeak: Voice) -> None:
    device = Device()
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    done = run("say", "Hello, I am VITA.", "--voice", "espeak")
    assert done.returncode == 0, done.stderr
    assert sum(map(len, device.played)) / RATE > 0.8 and device.ended == "stopped"


def test_a_device_that_fails_is_a_sentence_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, espeak: Voice
) -> None:
    def unplugged(self: object, samples: np.ndarray) -> None:
        raise Device.PortAudioError("Device unavailable")

    device = Device()
    monkeypatch.setattr(device.OutputStream, "write", unplugged)
    monkeypatch.setattr(device.OutputStream, "abort", lambda self: unplugged(self, np.zeros(0)))
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    said = "vita: the loudspeaker has failed (Device unavailable); attach it and start again.\n"
    for text in ("Hello.", "Hello, I am VITA. " * 50):
        done = run("say", text, "--voice", "espeak", "--play", "-o", str(tmp_path / "a.wav"))
        assert_sentence(done, "")
        assert done.stderr.decode() == said and list(tmp_path.iterdir()) == []
    silent = run(*ASK)
    done = run(*ASK, "--voice", "espeak", "--play")
    assert (done.returncode, done.stdout) == (2, silent.stdout), "the text is whole"
    assert done.stderr.decode().endswith(said)


def test_without_portaudio_the_sentence_says_what_needs_it_and_what_works(
    monkeypatch: pytest.MonkeyPatch, espeak: Voice
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    instead = "or write a file: vita ask --speak FILE, vita say -o FILE."
    for command in (("say", "hi"), (*ASK, "--play")):
        assert_sentence(run(*command, "--voice", "espeak"), "(--play) needs the package sounddevice", instead)


def test_without_a_device_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch, espeak: Voice) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Device(exists=False))
    assert_sentence(run("say", "hi", "--voice", "espeak"), "this machine has no loudspeaker")


def test_standard_input_is_spoken_as_it_arrives(forks: Forks, tmp_path: Path, espeak: Voice) -> None:
    """No line has ended yet, and a character is cut in two."""
    (tmp_path / "voices").mkdir()
    voices = declare_voices(tmp_path / "voices", {"espeak": "vita.speech.voices.espeak:make"})
    env = ENV | {"PYTHONPATH": os.pathsep.join([ENV.get("PYTHONPATH", ""), str(voices)])}
    command = [sys.executable, "-c", "from vita.cli import main; main()", "say", "-", "--voice", "espeak", "-o", "-"]
    say = forks.popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    timer = threading.Timer(60, say.kill)  # it would wait forever
    timer.start()
    try:
        assert say.stdin is not None and say.stdout is not None
        say.stdin.write("Hello there, my friend. And é".encode()[:-1])
        say.stdin.flush()
        assert len(say.stdout.read(20_000)) == 20_000
        out, error = say.communicate("é".encode()[1:] + b" is a letter.", timeout=60)
    finally:
        timer.cancel()
        say.kill()
    assert (say.returncode, error) == (0, b"") and len(out) > 20_000


def test_standard_input_that_cannot_be_read_is_one_sentence(forks: Forks, tmp_path: Path, espeak: Voice) -> None:
    script = "from vita.cli import main; main()"
    command = [sys.executable, "-c", script, "say", "-", "-o", str(tmp_path / "a.wav")]
    voices = declare_voices(tmp_path, {"espeak": "vita.speech.voices.espeak:make"})
    env = ENV | {"PYTHONPATH": os.pathsep.join([ENV.get("PYTHONPATH", ""), str(voices)])}
    with (tmp_path / "b").open("wb") as unreadable:
        for stdin, said in (
            (CLOSED, "text: there is nothing to say; give a text with at least one word."),  # as if it were empty
            (unreadable, "standard input: cannot be read (Bad file descriptor); pipe a text to it."),
        ):
            done = forks.run(command, stdin=stdin, env=env, capture_output=True, timeout=60)
            assert (done.returncode, done.stdout) == (2, b"")
            assert done.stderr.decode() == f"vita: {said}\n"
    assert not (tmp_path / "a.wav").exists()


def test_a_broken_voice_is_a_line_and_another_one_speaks(forks: Forks, tmp_path: Path, espeak: Voice) -> None:
    declared = {"espeak": "vita.speech.voices.espeak:make", "odd": "no_such_module:Voice"}
    env = ENV | {"PYTHONPATH": os.pathsep.join([ENV.get("PYTHONPATH", ""), str(declare_voices(tmp_path, declared))])}
    command = [
        sys.executable,
        "-c",
        "from vita.cli import main; main()",
        "say",
        "Hello.",
        "-o",
        str(tmp_path / "a.wav"),
    ]
    done = forks.run(command, env=env, capture_output=True, timeout=100)
    assert done.returncode == 0 and seconds(tmp_path / "a.wav") > 0.3
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith("vita: voice odd: cannot be loaded (ModuleNotFoundError:")
    assert line.endswith("; install its package again.")


LONG = "The quick brown fox jumps over the lazy dog, and then it runs away. " * 3_000


@pytest.mark.parametrize("suffix", [".wav", ".mp3", ".flac"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_at_once_and_leaves_no_file(
    forks: Forks, tmp_path: Path, espeak: Voice, suffix: str, number: signal.Signals
) -> None:
    """The signal comes once some audio is in the part file."""
    (tmp_path / "voices").mkdir()
    voices = declare_voices(tmp_path / "voices", {"espeak": "vita.speech.voices.espeak:make"})
    env = ENV | {"PYTHONPATH": os.pathsep.join([ENV.get("PYTHONPATH", ""), str(voices)])}
    folder = tmp_path / "out"
    folder.mkdir()
    command = [sys.executable, "-c", "from vita.cli import main; main()", "say", "-", "--voice", "espeak"]
    say = forks.popen([*command, "-o", str(folder / f"c{suffix}")], env=env, stdin=subprocess.PIPE,
                      stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
    try:
        assert say.stdin is not None
        say.stdin.write(LONG.encode())
        say.stdin.flush()
        for _ in range(600):
            if any(file.stat().st_size > 10_000 for file in folder.iterdir()) or say.poll() is not None:
                break
            time.sleep(0.05)
        say.send_signal(number)
        out, error = say.communicate(timeout=60)
    finally:
        say.kill()
    assert (say.returncode, out, error) == (128 + number, b"", b"")
    assert list(folder.iterdir()) == []


def test_a_process_of_its_own_ends_cleanly(forks: Forks, tmp_path: Path, espeak: Voice) -> None:
    """Without an installed entry point the voice is not found, and that is a sentence, too."""
    done = process(forks, "say", "Hello.", "-o", str(tmp_path / "a.wav"))
    assert done.returncode in (0, 2) and b"Traceback" not in done.stderr
