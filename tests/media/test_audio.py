"""Audio: parity with the reference, formats, channels, limits and errors."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vita.config import FilterbankConfig
from vita.errors import MediaError
from vita.media.audio import load_audio, resample_reference
from vita.media.filterbank import filterbank, pad_to_minimum, token_count
from vita.types import Audio, MediaOptions, MediaPolicy
from vita.verify.rows import compare_filterbank

MINI = Path(__file__).parents[1] / "goldens" / "mini"
REFERENCE = MediaOptions(reference=True)


def tone(seconds: float = 0.5, rate: int = 16000, pitch: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def wav(samples: np.ndarray, rate: int = 16000, **options: object) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format="WAV", **options)
    return out.getvalue()


def encode(path: Path, codec: str, samples: np.ndarray, rate: int) -> Path:
    """A compressed file made with PyAV."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=rate, frame_size=stream.frame_size)
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(stream.encode(piece))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(("name", "key"), [("fm22k", "audio1"), ("square16k", "audio2")])
def test_filterbanks_are_the_references(name: str, key: str) -> None:
    wave = load_audio(Audio(MINI / "inputs" / f"{name}.wav"), REFERENCE)
    ours = filterbank(torch.from_numpy(wave.samples), FilterbankConfig())
    theirs = torch.from_numpy(np.load(MINI / "model" / f"{key}_fbank.npy"))
    assert compare_filterbank(key, ours, theirs).status == "pass"


def test_all_reference_audio(big_goldens: Path) -> None:
    folder = big_goldens / "tiny" / "audio"
    for file in folder.glob("*_fbank.npy"):
        name = file.name.removesuffix("_fbank.npy")
        wave = load_audio(Audio(folder / f"{name}.wav"), REFERENCE)
        ours = filterbank(torch.from_numpy(wave.samples), FilterbankConfig())
        assert compare_filterbank(name, ours, torch.from_numpy(np.load(file))).status == "pass", name
    for file in folder.glob("*_resampled16k.npy"):
        name = file.name.removesuffix("_resampled16k.npy")
        wave = load_audio(Audio(folder / f"{name}.wav"), REFERENCE)
        assert np.abs(wave.samples - np.load(file).squeeze()).max() < 1e-6, name


def test_token_counts_of_the_reference(big_goldens: Path) -> None:
    table = json.loads((big_goldens / "tiny" / "audio" / "audio.json").read_text())["length_table"]
    for row in (r for r in table if "error" not in r):
        frames = 1 + (row["samples"] - 400) // 160
        counts = [v for k, v in row.items() if "llm" in k or "token" in k]
        assert not counts or token_count(frames) == counts[0], row


@given(st.integers(1, 20000))
def test_token_count_is_what_slicing_leaves(frames: int) -> None:
    ones = np.ones(frames)
    assert token_count(frames) == len(ones[2::2][2::2][0::2])


def test_silence_is_the_floor() -> None:
    bank = filterbank(torch.zeros(16000), FilterbankConfig())
    assert bank.shape == (98, 80)
    assert torch.allclose(bank, torch.full_like(bank, -15.942385))


def test_dither_is_asked_for_and_repeats_with_its_generator() -> None:
    config = FilterbankConfig(dither=1.0)
    samples = torch.from_numpy(tone())
    one, two = (filterbank(samples, config, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, filterbank(samples, FilterbankConfig()))


def test_short_audio_is_padded_to_one_token() -> None:
    bank = filterbank(pad_to_minimum(torch.ones(10)), FilterbankConfig())
    assert token_count(bank.shape[0]) == 1


def test_stereo_is_mixed_down_or_left_for_the_reference() -> None:
    left, right = tone(pitch=300), tone(pitch=900)
    data = wav(np.stack([left, right], axis=1), subtype="FLOAT")
    assert np.allclose(load_audio(Audio(data)).samples, (left + right) / 2, atol=1e-6)
    assert np.array_equal(load_audio(Audio(data), REFERENCE).samples, left)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_any_rate_comes_out_at_16_khz_with_the_same_pitch(rate: int) -> None:
    for options in (MediaOptions(), REFERENCE):
        wave = load_audio(Audio(wav(tone(1.0, rate), rate)), options)
        assert abs(wave.samples.size - 16000) <= 1
        assert np.abs(np.fft.rfft(wave.samples)).argmax() == 440
        assert wave.seconds == pytest.approx(1.0)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3000), st.sampled_from([8000, 11025, 22050, 44100, 48000]))
def test_the_references_resampler_keeps_the_length_law(count: int, rate: int) -> None:
    out = resample_reference(np.zeros((2, count), np.float32), rate, 16000)
    assert out.shape == (2, -(-count * 16000 // rate))


@pytest.mark.parametrize(
    ("name", "codec"), [("a.m4a", "aac"), ("a.webm", "libopus"), ("a.ogg", "libvorbis"), ("a.mp3", "mp3")]
)
def test_compressed_formats(tmp_path: Path, name: str, codec: str) -> None:
    rate = 48000
    try:
        path = encode(tmp_path / name, codec, tone(1.0, rate), rate)
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"this PyAV cannot write {codec}: {error}")
    wave = load_audio(Audio(path))
    spectrum = np.abs(np.fft.rfft(wave.samples[:16000]))
    assert abs(int(spectrum.argmax()) - 440) <= 2


@pytest.mark.parametrize("kind", ["FLAC", "OGG"])
def test_soundfile_formats(kind: str) -> None:
    out = io.BytesIO()
    soundfile.write(out, tone(1.0), 16000, format=kind)
    assert load_audio(Audio(out.getvalue())).samples.size == 16000


def test_arrays() -> None:
    int16 = (tone() * 32767).astype(np.int16)
    wave = load_audio(Audio(int16, sample_rate=16000))
    assert np.allclose(wave.samples, tone(), atol=1e-4)
    with pytest.raises(MediaError, match="not audio"):
        load_audio(Audio(np.zeros((2, 2, 2), np.float32)))


def test_long_audio_is_refused_from_its_header() -> None:
    data = bytearray(wav(np.zeros(8000, np.float32), 8000))
    with pytest.raises(MediaError, match="longer than the limit of"):
        load_audio(Audio(bytes(data)), MediaOptions(policy=MediaPolicy(max_seconds=0.5)))


def test_errors_say_what_and_where(tmp_path: Path) -> None:
    cases = {
        "text.wav": (b"this is not audio at all", "not an audio file"),
        "empty.wav": (b"", "is empty"),
        "none.wav": (wav(np.zeros(0, np.float32)), "no samples"),
        "nan.wav": (wav(np.full(100, np.nan, np.float32), subtype="FLOAT"), "not numbers"),
    }
    for name, (data, sentence) in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(MediaError, match=sentence) as caught:
            load_audio(Audio(path))
        assert name in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.sampled_from([b"", b"RIFF\x24\0\0\0WAVEfmt ", b"fLaC", b"OggS", b"ID3"]))
def test_garbage_gives_only_media_errors(body: bytes, head: bytes) -> None:
    with contextlib.suppress(MediaError):
        load_audio(Audio(head + body))


def test_three_hours_of_audio_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    file, size = tmp_path / "long.wav", 3 * 3600 * 8000
    with io.BytesIO() as short:
        soundfile.write(short, np.zeros(8), 8000, format="WAV", subtype="PCM_U8")
        header = bytearray(short.getvalue()[:44])
    header[4:8], header[40:44] = (36 + size).to_bytes(4, "little"), size.to_bytes(4, "little")
    with file.open("wb") as stream:  # a sparse file: 86 MB that take no space
        stream.write(header)
        stream.truncate(44 + size)
    with pytest.raises(MediaError, match=r"long\.wav: lasts 180 minutes, longer than the limit of 60 minutes"):
        load_audio(Audio(file), MediaOptions(), 16000)


@pytest.mark.parametrize("value", [1e11, 1e19, 3e38, -3e38])
def test_samples_too_large_for_the_power_spectrum_are_refused(value: float) -> None:
    samples = tone()
    samples[100] = value
    for audio in (
        Audio(wav(samples, subtype="FLOAT")),
        Audio(wav(samples.astype(np.float64), subtype="DOUBLE")),
        Audio(samples, sample_rate=16000),
        Audio(np.stack([samples, tone()], axis=1), sample_rate=16000),
    ):
        for options in (MediaOptions(), REFERENCE):
            with pytest.raises(MediaError, match=r"holds samples above 1e\+10; scale them"):
                load_audio(audio, options)


@pytest.mark.parametrize("value", [1e39, 1e300, -1e300])
def test_float64_beyond_float32_is_refused(value: float) -> None:
    samples = tone().astype(np.float64)
    samples[100] = value
    with pytest.raises(MediaError, match=r"holds samples above 1e\+10"):
        load_audio(Audio(samples, sample_rate=16000))
    with pytest.raises(MediaError, match="holds samples"):
        load_audio(Audio(wav(samples, subtype="DOUBLE")))


@pytest.mark.parametrize("scale", [32768.0, 2.0**31])
def test_floats_at_the_scale_of_integers_give_finite_features(scale: float) -> None:
    wave = load_audio(Audio(wav(tone() * np.float32(scale), subtype="FLOAT")))
    assert torch.isfinite(filterbank(torch.from_numpy(wave.samples), FilterbankConfig())).all()
