"""Audio files, and playing."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import av
import numpy as np
import pytest

import vita
from vita.speech.audio_file import FORMATS, AudioFile, encode, format_of, to_int16
from vita.speech.player import Player
from vita.speech.voice import SAMPLE_RATE

SECONDS = 1.5
TONE = (0.4 * np.sin(2 * np.pi * 440 * np.arange(int(SECONDS * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


def decode(data: Path) -> tuple[np.ndarray, int]:
    with av.open(str(data)) as container:
        frames = [frame.to_ndarray() for frame in container.decode(audio=0)]
        rate = container.streams.audio[0].rate
    samples = np.concatenate([f.reshape(-1) for f in frames])
    return (samples / 32768 if samples.dtype == np.int16 else samples), rate


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3", ".aac"])
def test_what_is_written_is_heard(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"a{suffix}"
    with AudioFile(file) as out:
        for start in range(0, len(TONE), 1000):
            out.write(TONE[start : start + 1000])
        assert not file.exists(), "a file appears when it is complete"
    samples, rate = decode(file)
    assert len(samples) / rate == pytest.approx(SECONDS, abs=0.15)
    middle = samples[len(samples) // 4 : -len(samples) // 4]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert spectrum.argmax() * rate / len(middle) == pytest.approx(440, abs=5)
    assert np.sqrt((middle**2).mean()) == pytest.approx(0.4 / np.sqrt(2), rel=0.1)
    assert [p.name for p in tmp_path.iterdir()] == [file.name]


def test_lossless_formats_are_exact(tmp_path: Path) -> None:
    for suffix in (".wav", ".flac"):
        with AudioFile(tmp_path / f"a{suffix}") as out:
            out.write(TONE)
        assert np.abs(decode(tmp_path / f"a{suffix}")[0] - TONE).max() < 1e-4


def test_raw_is_16_bit_pcm() -> None:
    assert encode([TONE[:100], TONE[100:]], "raw") == to_int16(TONE).tobytes()
    assert to_int16(np.array([1.0, -1.0, 2.0, 0.0], np.float32)).tolist() == [32767, -32767, 32767, 0]


@pytest.mark.parametrize("format", FORMATS)
def test_formats_in_memory(format: str) -> None:
    assert len(encode([TONE], format)) > 1000


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"before")
    with pytest.raises(RuntimeError), AudioFile(file) as out:
        out.write(TONE)
        raise RuntimeError
    assert file.read_bytes() == b"before" and list(tmp_path.iterdir()) == [file]
    with AudioFile(tmp_path / "b.mp3"):
        pass
    assert not (tmp_path / "b.mp3").exists(), "no audio, no file"


def test_what_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(vita.RequestError, match=r"\.txt is not an audio format; use one of \.wav"):
        format_of("a.txt")
    with pytest.raises(vita.RequestError, match="no suffix"):
        AudioFile(tmp_path / "a")
    with pytest.raises(vita.RequestError, match="cannot be written"):
        AudioFile(tmp_path / "none" / "a.wav")
    (tmp_path / "d.wav").mkdir()
    with pytest.raises(vita.RequestError, match="it is a folder"):
        AudioFile(tmp_path / "d.wav")


class Device(types.ModuleType):
    """A sounddevice without hardware."""

    class PortAudioError(Exception):
        pass

    def __init__(self, *, exists: bool = True, busy: bool = False) -> None:
        super().__init__("sounddevice")
        self.played: list[np.ndarray] = []
        self.ended = ""
        self._exists = exists
        device = self

        class OutputStream:
            latency = 0.0

            def __init__(self, samplerate: int, channels: int, dtype: str) -> None:
                assert (samplerate, channels, dtype) == (SAMPLE_RATE, 1, "float32")
                if busy:
                    raise Device.PortAudioError("Device unavailable")

            def start(self) -> None: ...

            def write(self, samples: np.ndarray) -> None:
                assert samples.ndim == 2 and samples.shape[1] == 1
                device.played.append(samples[:, 0])

            def stop(self) -> None:
                device.ended = "stopped"

            def abort(self) -> None:
                device.ended = "aborted"

            def close(self) -> None: ...

        self.OutputStream = OutputStream

    def query_devices(self, kind: str) -> dict[str, object]:
        if not self._exists:
            raise Device.PortAudioError("Error querying device -1")
        return {"name": f"built-in {kind}", "default_samplerate": 44_100.0}


def test_the_player_plays_all(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    with Player() as player:
        player.write(TONE)
        player.write(TONE[:10])
    assert (
        np.array_equal(np.concatenate(device.played), np.concatenate([TONE, TONE[:10]])) and device.ended == "stopped"
    )


def test_the_player_stops_at_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device()
    monkeypatch.setitem(sys.modules, "sounddevice", device)
    with pytest.raises(KeyboardInterrupt), Player() as player:
        player.write(np.tile(TONE, 100))
        raise KeyboardInterrupt
    assert device.ended == "aborted"


def test_without_a_device_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", Device(exists=False))
    with pytest.raises(vita.ResourceError, match="this machine has no loudspeaker; attach one, or write a file"):
        Player()
    monkeypatch.setitem(sys.modules, "sounddevice", Device(busy=True))
    with pytest.raises(vita.ResourceError, match=r"the loudspeaker cannot be used \(Device unavailable\)"):
        Player()
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(vita.ResourceError, match=r'pip install "vita-engine\[play\]"'):
        Player()
