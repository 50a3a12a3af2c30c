"""Audio files whose header is wrong, that are damaged, or that were joined: what can be decoded is heard."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from tests.forks import Forks

from vita.errors import Cancelled, MediaError
from vita.media.audio import load_audio
from vita.media.policy import ReadGuard
from vita.types import Audio, MediaOptions, MediaPolicy

RATE = 48000


def chirp(seconds: float = 1.5, rate: int = RATE) -> np.ndarray:
    """A tone that rises, so that every moment is told by its pitch; with noise, so that FLAC cannot shrink it away."""
    t = np.arange(int(seconds * rate)) / rate
    noise = np.random.default_rng(5).standard_normal(t.size)
    return (0.4 * np.sin(2 * np.pi * (300 + 400 * t) * t) + 0.01 * noise).astype(np.float32)


def encode(samples: np.ndarray, form: str, subtype: str | None = None, rate: int = RATE, **options: str) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=form, subtype=subtype, **options)
    return out.getvalue()


def encode_with_av(samples: np.ndarray, form: str, codec: str, rate: int = RATE) -> bytes:
    out = io.BytesIO()
    with av.open(out, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    return out.getvalue()


def with_flac_total(data: bytes, total: int) -> bytes:
    """A FLAC whose header counts `total` samples: 36 bits, of which the first four share a byte."""
    out = bytearray(data)
    out[21] = out[21] & 0xF0 | total >> 32
    out[22:26] = struct.pack(">I", total & 0xFFFFFFFF)
    return bytes(out)


def lag(heard: np.ndarray, wanted: np.ndarray) -> int:
    """Samples by which `heard` is late, of two equal-rate signals."""
    size = 1 << (len(heard) + len(wanted)).bit_length()
    product = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(wanted, size))
    peak = int(np.argmax(np.fft.irfft(product)))
    return peak if peak < size // 2 else peak - size


# --- lengths in headers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("total", [0, 1000, 2**36 - 1], ids=["unknown", "too small", "too large"])
@pytest.mark.parametrize("seconds", [0.3, 1.5, 70.0])
def test_a_flac_is_heard_whatever_its_header_counts(total: int, seconds: float) -> None:
    samples = chirp(seconds)
    wave = load_audio(Audio(with_flac_total(encode(samples, "FLAC"), total)), sample_rate=RATE)
    assert np.allclose(wave.samples, samples, atol=1e-4)
    assert wave.seconds == pytest.approx(seconds) and wave.notes == ()


def test_an_mp3_whose_header_counts_hours_is_heard() -> None:
    data = bytearray(encode(chirp(), "MP3"))
    tag = max(data.find(b"Xing"), data.find(b"Info"))
    assert tag > 0
    intact = load_audio(Audio(bytes(data)), sample_rate=RATE)
    data[tag + 8 : tag + 12] = struct.pack(">I", 10 * 3600 * RATE // 1152)
    wave = load_audio(Audio(bytes(data)), sample_rate=RATE)
    assert abs(wave.samples.size - intact.samples.size) < 3000 and lag(wave.samples, chirp()) == 0


def test_an_aac_whose_bit_rate_misleads_is_heard() -> None:
    # FFmpeg estimates the length of ADTS from its first frames; silence takes few bytes.
    rng = np.random.default_rng(1)
    samples = np.concatenate([np.zeros(8 * RATE), 0.5 * rng.standard_normal(2 * RATE)]).astype(np.float32)
    policy = MediaPolicy(max_seconds=12.0)
    wave = load_audio(Audio(encode_with_av(samples, "adts", "aac")), MediaOptions(policy=policy))
    assert wave.seconds == pytest.approx(10, abs=0.1)


def test_a_webm_whose_header_states_years_is_heard() -> None:
    data = bytearray(encode_with_av(chirp(), "webm", "libopus"))
    place = data.find(b"\x44\x89\x88")  # Duration, a float of 8 bytes
    assert place > 0
    data[place + 3 : place + 11] = struct.pack(">d", 1e13)
    wave = load_audio(Audio(bytes(data)), sample_rate=RATE)
    assert wave.seconds == pytest.approx(1.5, abs=0.02) and wave.notes == ()


@pytest.mark.parametrize(("form", "codec"), [("adts", "aac"), ("mp3", "mp3"), ("webm", "libopus"), ("flac", "flac")])
def test_the_limit_holds_for_what_is_decoded(form: str, codec: str) -> None:
    data = encode_with_av(chirp(4.0), form, codec)
    with pytest.raises(MediaError, match=r"lasts longer than the limit of 3 seconds"):
        load_audio(Audio(data), MediaOptions(policy=MediaPolicy(max_seconds=3.0)))


# --- recordings that were not closed -------------------------------------------------------------------------------


def unfinished(form: str, subtype: str, patches: dict[bytes, list[tuple[int, bytes]]], **options: str) -> bytes:
    data = bytearray(encode(chirp(), form, subtype, **options))
    for marker, changes in patches.items():
        start = data.index(marker)
        for offset, new in changes:
            data[start + offset : start + offset + len(new)] = new
    return bytes(data)


UNFINISHED = {
    "wav": unfinished("WAV", "PCM_16", {b"data": [(4, bytes(4))]}),
    "wav, riff 0": unfinished("WAV", "PCM_16", {b"data": [(4, bytes(4))], b"RIFF": [(4, bytes(4))]}),
    "wav, ffffffff": unfinished("WAV", "PCM_16", {b"data": [(4, b"\xff" * 4)]}),
    "wav, float": unfinished("WAV", "FLOAT", {b"data": [(4, bytes(4))], b"fact": [(8, bytes(4))]}),
    "wavex, 24 bits": unfinished("WAVEX", "PCM_24", {b"data": [(4, bytes(4))]}),
    "rifx": unfinished("WAV", "PCM_16", {b"data": [(4, bytes(4))]}, endian="BIG"),
    "rf64": unfinished("RF64", "PCM_16", {b"ds64": [(8, bytes(24))]}),
    "rf64, both": unfinished("RF64", "PCM_16", {b"ds64": [(8, bytes(24))], b"data": [(4, bytes(4))]}),
    "w64": unfinished("W64", "PCM_16", {b"data\xf3\xac": [(16, bytes(8))]}),
    "au": unfinished("AU", "PCM_16", {b".snd": [(8, bytes(4))]}),
    "au, ffffffff": unfinished("AU", "PCM_16", {b".snd": [(8, b"\xff" * 4)]}),
    "aiff, frames": unfinished("AIFF", "PCM_16", {b"COMM": [(10, bytes(4))]}),
    "aiff, bytes": unfinished("AIFF", "PCM_16", {b"SSND": [(4, bytes(4))]}),
    "aiff, both": unfinished("AIFF", "PCM_16", {b"COMM": [(10, bytes(4))], b"SSND": [(4, struct.pack(">I", 8))]}),
    "caf": unfinished("CAF", "PCM_16", {b"data": [(4, bytes(8))]}),
    "caf, ffffffff": unfinished("CAF", "PCM_16", {b"data": [(4, b"\xff" * 8)]}),
}


@pytest.mark.parametrize("name", UNFINISHED)
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_recording_that_was_not_closed_is_heard(name: str, on_disk: bool, tmp_path: Path) -> None:
    source: bytes | Path = UNFINISHED[name]
    if on_disk:
        source = tmp_path / "open"
        source.write_bytes(UNFINISHED[name])
    wave = load_audio(Audio(source), sample_rate=RATE)
    assert wave.samples.size == chirp().size and np.allclose(wave.samples, chirp(), atol=1e-4)
    assert wave.notes == ()


def test_an_empty_wav_with_a_chunk_after_it_stays_empty() -> None:
    data = encode(np.zeros(0, np.float32), "WAV", "PCM_16") + b"LIST" + struct.pack("<I", 4) + b"INFO"
    with pytest.raises(MediaError, match="holds no samples"):
        load_audio(Audio(data))


def test_bytes_after_the_counted_samples_are_mentioned() -> None:
    data = bytearray(encode(chirp(), "WAV", "PCM_16"))
    place = data.index(b"data")
    data[place + 4 : place + 8] = struct.pack("<I", 48000)
    wave = load_audio(Audio(bytes(data)))
    assert wave.seconds == pytest.approx(0.5)
    assert wave.notes == ("<144,044 bytes>: 96,000 bytes after the audio that its header counts were not read.",)
    tagged = encode(chirp(), "WAV", "PCM_16") + b"LIST" + struct.pack("<I", 4) + b"INFO"
    assert load_audio(Audio(tagged)).notes == ()


# --- damage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0.1, 1 / 3, 2 / 3, 0.99])
@pytest.mark.parametrize("total", [None, 0])
def test_a_flac_that_was_cut_is_heard_as_far_as_it_goes(kept: float, total: int | None) -> None:
    samples = chirp(5.0)
    data = encode(samples, "FLAC")
    data = data if total is None else with_flac_total(data, total)
    wave = load_audio(Audio(data[: int(len(data) * kept)]), sample_rate=RATE)
    assert abs(wave.seconds - 5 * kept) < 0.2
    assert np.allclose(wave.samples, samples[: wave.samples.size], atol=1e-4)
    assert "damaged" in wave.notes[0]


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("length", [4, 200, 5000])
def test_a_flac_with_a_bad_spot_is_heard_around_it(place: float, length: int) -> None:
    samples = chirp(5.0)
    data = bytearray(encode(samples, "FLAC"))
    spot = slice(int(len(data) * place), int(len(data) * place) + length)
    data[spot] = bytes(b ^ 0x5A for b in data[spot])
    wave = load_audio(Audio(bytes(data)), sample_rate=RATE)
    assert wave.seconds > 4.5 and "damaged" in wave.notes[0]
    assert np.allclose(wave.samples[:20000], samples[:20000], atol=1e-4)
    assert np.allclose(wave.samples[-20000:], samples[-20000:], atol=1e-4)


@pytest.mark.parametrize(("form", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)])
def test_a_bad_spot_in_a_lossy_file_is_mentioned(form: str, subtype: str | None) -> None:
    data = bytearray(encode(chirp(5.0), form, subtype))
    spot = slice(len(data) // 2, len(data) // 2 + 3000)
    data[spot] = bytes(b ^ 0x5A for b in data[spot])
    wave = load_audio(Audio(bytes(data)))
    assert wave.seconds > 1 and "damaged" in wave.notes[0]


def test_an_ogg_cut_in_its_headers_is_called_damaged() -> None:
    data = encode(chirp(), "OGG")
    with pytest.raises(MediaError, match="damaged"):
        load_audio(Audio(data[:600]))


@pytest.mark.parametrize("count", [2, 8, 9, 12, 47])
def test_any_number_of_channels_is_decoded(count: int) -> None:
    # FFmpeg decodes Opus to one plane a channel, of which PyAV can read no more than eight.
    out = io.BytesIO()
    samples = np.repeat(chirp(1.0), count)[None]
    with av.open(out, "w", format="ogg") as container:
        stream = container.add_stream("libopus", rate=RATE, layout=f"{count}C", options={"mapping_family": "255"})
        for start in range(0, RATE, 960):
            part = np.ascontiguousarray(samples[:, start * count : (start + 960) * count])
            frame = av.AudioFrame.from_ndarray(part, format="flt", layout=f"{count}C")
            frame.sample_rate = RATE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    wave = load_audio(Audio(out.getvalue()), sample_rate=RATE)
    assert wave.seconds == pytest.approx(1.0, abs=0.02) and abs(lag(wave.samples, chirp(1.0))) < 2
    assert np.abs(wave.samples).max() == pytest.approx(0.4, abs=0.1)


# --- joined recordings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "subtype"), [("FLAC", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)], ids=str
)
def test_joined_files_are_heard_to_the_end(form: str, subtype: str | None) -> None:
    first, second = chirp(1.5), chirp(2.0)[::-1].copy()
    one, two = encode(first, form, subtype), encode(second, form, subtype)
    wave = load_audio(Audio(one + two), sample_rate=RATE)
    assert wave.seconds == pytest.approx(3.5, abs=0.1) and wave.notes == ()
    assert abs(lag(wave.samples, np.concatenate([first, second]))) < 3000
    alone = load_audio(Audio(two), sample_rate=RATE).samples
    end = wave.samples[-60000:]
    late = 60000 - alone.size - lag(end, alone) if form == "MP3" else 0  # MP3 pads the end
    assert abs(late) < 3000
    assert np.abs(end[-40000 - late : end.size - late] - alone[-40000:]).max() < 0.01


@pytest.mark.parametrize(("form", "subtype"), [("FLAC", None), ("OGG", "VORBIS")])
def test_joined_files_may_differ_in_rate_and_channels(form: str, subtype: str | None) -> None:
    second = np.stack([chirp(2.0, 24000)] * 2, axis=1)
    data = encode(chirp(1.5), form, subtype) + encode(second, form, subtype, rate=24000)
    wave = load_audio(Audio(data))
    assert wave.seconds == pytest.approx(3.5, abs=0.01) and wave.notes == ()
    assert lag(wave.samples[24000:], chirp(2.0, 16000)) in range(-3, 4)


def test_joined_oggs_may_differ_in_codec() -> None:
    wave = load_audio(Audio(encode(chirp(), "OGG", "VORBIS") + encode(chirp(2.0), "OGG", "OPUS")))
    assert wave.seconds == pytest.approx(3.5, abs=0.01) and wave.notes == ()


@pytest.mark.parametrize(("form", "codec"), [("adts", "aac"), ("mpegts", "aac"), ("ac3", "ac3"), ("webm", "libopus")])
def test_other_joined_files_are_heard_to_the_end(form: str, codec: str) -> None:
    data = encode_with_av(chirp(1.5), form, codec)
    assert load_audio(Audio(data + data)).seconds == pytest.approx(3.0, abs=0.15)


# --- lengths and lag of what is intact -----------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 100, 5000, 16001, 150_001])
@pytest.mark.parametrize(
    ("form", "subtype", "rate"),
    [("OGG", "VORBIS", 16000), ("OGG", "VORBIS", 44100), ("OGG", "OPUS", 48000), ("MP3", None, 44100),
     ("FLAC", None, 44100)],
)  # fmt: skip
def test_compressed_audio_keeps_its_length_and_is_not_late(form: str, subtype: str, rate: int, count: int) -> None:
    samples = chirp(count / rate + 1e-9, rate)[:count]
    wave = load_audio(Audio(encode(samples, form, subtype, rate)), sample_rate=rate)
    assert wave.samples.size == samples.size
    assert count < 1000 or lag(wave.samples, samples) == 0


def test_nothing_is_written_to_standard_error(forks: Forks, tmp_path: Path) -> None:
    mp3 = encode(chirp(), "MP3")
    bad = bytearray(mp3)
    bad[len(bad) // 2 : len(bad) // 2 + 500] = b"\x00" * 500
    art = b"ID3\x04\x00\x00" + bytes([0, 0, 8, 0]) + b"APIC" + b"\x00" * 1020
    files = {"cat.mp3": mp3 + mp3, "bad.mp3": bytes(bad), "art.mp3": art + mp3, "cut.mp3": mp3[: len(mp3) // 2]}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    script = (
        "import sys; from vita.media.audio import load_audio; from vita.types import Audio\n"
        "for name in sys.argv[1:]: print(load_audio(Audio(name)).seconds > 0.5)"
    )
    command = [sys.executable, "-c", script, *(str(tmp_path / name) for name in files)]
    done = forks.run(command, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True"] * len(files)
    assert done.stderr == ""


# --- deadline and cancel -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["WAV", "FLAC", "OGG", "MP3"])
def test_reading_ends_at_the_deadline_and_on_cancel(form: str) -> None:
    data = encode(chirp(4.0), form)
    with pytest.raises(MediaError, match="took too long to read"):
        load_audio(Audio(data), guard=ReadGuard(until=0.0))
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Cancelled):
        load_audio(Audio(data), guard=ReadGuard(cancelled=cancelled))


# --- tracks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("default", [0, 1, 2])
def test_the_default_track_is_heard(default: int) -> None:
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        streams = [container.add_stream("pcm_s16le", rate=16000, layout="mono") for _ in range(3)]
        for number, stream in enumerate(streams):
            stream.disposition = av.stream.Disposition.default if number == default else 0
        for number, stream in enumerate(streams):
            t = np.arange(16000) / 16000
            tone = (8000 * np.sin(2 * np.pi * 400 * (number + 1) * t)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
            frame.sample_rate = 16000
            container.mux(stream.encode(frame))
    wave = load_audio(Audio(out.getvalue()))
    assert np.abs(np.fft.rfft(wave.samples)).argmax() == 400 * (default + 1)
