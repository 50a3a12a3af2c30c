"""Audio files where something goes wrong: Ctrl-C, a full disk, two writers, pipes, links and devices."""

from __future__ import annotations

import os
import random
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import soundfile
from tests.cli.commands import ENV
from tests.forks import Forks
from tests.speech.test_audio_file import TONE, decode

import vita
from vita.speech.audio_file import AudioFile, format_of, to_int16
from vita.speech.voice import Voice

SUFFIXES = [".wav", ".flac", ".ogg", ".mp3", ".aac", ".raw"]
ROUNDS = 30


class Stopped(BaseException):
    """What the signal raises, like KeyboardInterrupt."""


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """A signal after so long, whose handler raises `Stopped` in the main thread once."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_ctrl_c_ends_the_writing_at_any_moment_and_leaves_nothing(
    tmp_path: Path, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with AudioFile(tmp_path / f"warm{suffix}"):
        pass
    delays = random.Random(0)
    for _ in range(ROUNDS):
        with pytest.raises(Stopped), stopped_after(delays.uniform(0.002, 0.02)):
            with AudioFile(tmp_path / f"a{suffix}") as out:
                for _ in range(20_000):
                    out.write(TONE[:1920])
            pytest.fail("the signal was swallowed")
        assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_ctrl_c_right_after_the_file_was_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make = Path.open

    def stop(path: Path, mode: str) -> None:
        make(path, mode).close()
        raise Stopped

    monkeypatch.setattr(Path, "open", stop)
    with pytest.raises(Stopped):
        AudioFile(tmp_path / "a.wav")
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_espeak_at_any_moment(espeak: Voice, capfd: pytest.CaptureFixture[str]) -> None:
    utterances = espeak.open(language="en", speed=1.0, seed=None)
    text = "The quick brown fox jumps over the lazy dog. " * 3
    wanted = sum(map(len, utterances.speak(text, first=True)))
    delays = random.Random(0)
    for _ in range(ROUNDS):
        with pytest.raises(Stopped), stopped_after(delays.uniform(0.001, 0.02)):
            for _ in range(2_000):
                list(utterances.speak(text, first=True))
            pytest.fail("the signal was swallowed")
    assert capfd.readouterr().err == ""
    assert sum(map(len, utterances.speak(text, first=True))) == pytest.approx(wanted, rel=0.05), "it still speaks whole"


FILL = """
import pathlib, sys, numpy as np, resource
import vita
from vita.speech.audio_file import AudioFile
noise = np.random.default_rng(0).uniform(-1, 1, 24_000).astype(np.float32)
for limit, seconds in zip(sys.argv[2::2], sys.argv[3::2]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        with AudioFile(sys.argv[1]) as out:
            for _ in range(int(seconds)):
                out.write(noise)
    except vita.RequestError as error:
        left = sorted(file.name for file in pathlib.Path(sys.argv[1]).parent.iterdir())
        print(error, left)
"""


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_one_sentence_and_leaves_nothing(forks: Forks, tmp_path: Path, suffix: str) -> None:
    """While it is written, at its end, and in its last bytes."""
    whole = tmp_path / f"whole{suffix}"
    noise = np.random.default_rng(0).uniform(-1, 1, 24_000).astype(np.float32)
    with AudioFile(whole) as out:
        for _ in range(3):
            out.write(noise)
    size = whole.stat().st_size
    whole.unlink()
    file = tmp_path / f"a{suffix}"
    limits = ((size // 2, 3), (size // 2, 30), (size - 1, 3), (16, 3))
    done = forks.run(
        [sys.executable, "-c", FILL, str(file), *(str(number) for pair in limits for number in pair)],
        capture_output=True, text=True, env=ENV, timeout=120,
    )  # fmt: skip
    assert (done.stderr, done.returncode) == ("", 0)
    lines = done.stdout.splitlines()
    assert len(lines) == len(limits)
    for line in lines:
        assert line.startswith(f"{file}: cannot be written (File too large); free some space"), line
        assert line.endswith(" []"), line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_device_without_space_is_one_sentence(tmp_path: Path, suffix: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("SKIPPED LOUDLY: this system has no /dev/full")
    link = tmp_path / f"a{suffix}"
    link.symlink_to("/dev/full")
    with pytest.raises(vita.RequestError, match="No space left on device"), AudioFile(link) as out:
        out.write(TONE)
    assert link.is_symlink() and list(tmp_path.iterdir()) == [link]


def test_an_encoder_that_fails_to_close_publishes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: soundfile.SoundFile) -> None:
        raise soundfile.LibsndfileError(1)

    file = tmp_path / "a.flac"
    file.write_bytes(b"before")
    with pytest.raises(soundfile.LibsndfileError), AudioFile(file) as out:
        out.write(TONE)
        monkeypatch.setattr(soundfile.SoundFile, "close", broken)
    assert file.read_bytes() == b"before" and list(tmp_path.iterdir()) == [file]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    with AudioFile(file) as first, AudioFile(file) as second:
        first.write(TONE)
        second.write(TONE[:1000])
        second.write(TONE[:1000])
    assert len(decode(file)[0]) == len(TONE), "the one that ended last"
    assert list(tmp_path.iterdir()) == [file]


def test_a_name_of_greatest_length_is_written(tmp_path: Path) -> None:
    file = tmp_path / ("a" * 251 + ".wav")
    with AudioFile(file) as out:
        out.write(TONE)
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(vita.RequestError, match="cannot be written"):
        AudioFile(tmp_path / ("a" * 252 + ".wav"))


def test_permissions_are_those_of_any_new_file_or_of_the_one_before(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    before = os.umask(0o027)
    try:
        with AudioFile(file) as out:
            out.write(TONE)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o640
    file.chmod(0o600)
    with AudioFile(file) as out:
        out.write(TONE)
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "b.wav", tmp_path / "a.wav"
    if exists:
        target.write_bytes(b"before")
    link.symlink_to(target)
    with AudioFile(link) as out:
        out.write(TONE)
    assert link.is_symlink() and not target.is_symlink() and len(decode(target)[0]) == len(TONE)
    assert list((tmp_path / "there").iterdir()) == [target]


def through_a_pipe(pipe: Path, write: Callable[[], None]) -> bytes:
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write()
    reader.join(30)
    assert pipe.is_fifo(), "it is not replaced"
    return got[0]


@pytest.mark.parametrize("suffix", [*SUFFIXES, ""])
def test_a_named_pipe_is_written(tmp_path: Path, suffix: str) -> None:
    pipe, file = tmp_path / f"pipe{suffix}", tmp_path / f"file{suffix or '.raw'}"

    def write(path: Path) -> None:
        with AudioFile(path) as out:
            for start in range(0, len(TONE), 1000):
                out.write(TONE[start : start + 1000])

    got = through_a_pipe(pipe, lambda: write(pipe))
    write(file)
    if suffix in ("", ".raw"):
        assert got == file.read_bytes() == to_int16(TONE).tobytes()
    else:
        file.write_bytes(got)
        assert len(decode(file)[0]) / decode(file)[1] == pytest.approx(len(TONE) / 24_000, abs=0.15)


def test_the_audio_of_a_pipe_comes_while_it_is_made(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.raw"
    os.mkfifo(pipe)
    seen, first = [], threading.Event()

    def read() -> None:
        with pipe.open("rb", buffering=0) as file:
            seen.append(file.read(100))
            first.set()
            while file.read(65_536):
                pass

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with AudioFile(pipe) as out:
        out.write(TONE)
        assert first.wait(30) and seen == [to_int16(TONE[:50]).tobytes()]
    reader.join(30)


def test_standard_output_by_its_name_takes_raw_pcm(forks: Forks, tmp_path: Path) -> None:
    script = "import numpy as np; from vita.speech.audio_file import AudioFile\n"
    script += "with AudioFile('/dev/stdout') as out: out.write(np.full(9, 0.5, np.float32))"
    done = forks.run([sys.executable, "-c", script], capture_output=True, env=ENV, timeout=60)
    assert done.stdout == to_int16(np.full(9, 0.5, np.float32)).tobytes(), done.stderr
    with (tmp_path / "a").open("wb") as file:
        forks.run([sys.executable, "-c", script], stdout=file, env=ENV, timeout=60, check=True)
    assert (tmp_path / "a").read_bytes() == done.stdout


def test_a_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "d.wav").mkdir()
    for name in (f"{tmp_path}", f"{tmp_path}/", f"{tmp_path}/d.wav", f"{tmp_path}/new.wav/", "."):
        with pytest.raises(vita.RequestError, match="it is a folder; name a file in it"):
            format_of(name)
        with pytest.raises(vita.RequestError, match="it is a folder; name a file in it"):
            AudioFile(name)
    loop = tmp_path / "loop.wav"
    loop.symlink_to(loop)
    for name in (str(loop), f"{tmp_path}/a\0.wav"):
        with pytest.raises(vita.RequestError, match="cannot be written"):
            AudioFile(name)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
