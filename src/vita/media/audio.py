"""Sound: reading, mixing down, resampling (spec sections 5.1 and 5.2).

Owns samples from file to mono float32 at the encoder's rate. Does not know about filterbanks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vita.errors import MediaError
from vita.media.load import Loaded, read_source
from vita.types import Audio, MediaOptions

Samples = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class Waveform:
    """Mono sound: float32 `[n]` in about [-1, 1) at the asked rate, and how long the original was."""

    samples: Samples
    seconds: float
    notes: tuple[str, ...] = ()


def load_audio(audio: Audio, options: MediaOptions | None = None, sample_rate: int = 16000) -> Waveform:
    """Decode, mix down and resample.

    Args:
        audio: the source; an array is float or int16 `[n]` or `[n, channels]` with its `sample_rate`.
        options: limits, and whether to read as the reference does (left channel, the spec's resampler).
        sample_rate: of the result, in Hz.

    Raises:
        MediaError: not a sound, damaged, empty, or longer than the limit (checked before decoding where the file
            says how long it is).
    """
    options = options or MediaOptions()
    if isinstance(audio.source, np.ndarray):
        channels, rate, name = _from_array(audio), audio.sample_rate or sample_rate, "<array>"
    else:
        loaded = read_source(audio.source, options, "sound")
        channels, rate = _decode(loaded, options, from_video=audio.from_video)
        name = loaded.name
    if channels.shape[1] == 0:
        raise MediaError("holds no samples", where=name)
    if not np.isfinite(channels).all():
        raise MediaError("holds samples that are not numbers", where=name)
    _check_length(channels.shape[1] / rate, options, name)
    seconds = channels.shape[1] / rate
    if options.reference:
        mono = channels if rate == sample_rate else resample_reference(channels, rate, sample_rate)
        return Waveform(np.ascontiguousarray(mono[0]), seconds)
    mixed = channels.mean(axis=0, dtype=np.float32)
    if rate != sample_rate:
        import soxr

        mixed = soxr.resample(mixed, rate, sample_rate, quality="HQ")
    return Waveform(np.ascontiguousarray(mixed, dtype=np.float32), seconds)


def resample_reference(channels: Samples, from_rate: int, to_rate: int) -> Samples:
    """The reference's windowed-sinc resampler (spec section 5.2).

    Args:
        channels: float32 `[channels, n]`.

    Returns:
        float32 `[channels, ceil(n * to / from)]`.
    """
    divisor = math.gcd(from_rate, to_rate)
    old, new = from_rate // divisor, to_rate // divisor
    base = 0.99 * min(old, new)
    width = math.ceil(6 * old / base)
    # The phase is rounded to float32, the rest is float64, the kernel is kept as float32.
    phase = (torch.arange(0, -new, -1, dtype=torch.float32) / new).double()[:, None]
    taps = torch.arange(-width, width + old, dtype=torch.float64)[None, :] / old
    t = ((phase + taps) * base).clamp(-6, 6)
    window = torch.cos(t * math.pi / 12) ** 2
    kernel = (torch.sinc(t) * window * (base / old)).float()  # [new, taps]
    padded = torch.nn.functional.pad(torch.from_numpy(channels), (width, width + old))
    phases = torch.nn.functional.conv1d(padded[:, None], kernel[:, None], stride=old)  # [channels, new, steps]
    length = math.ceil(channels.shape[1] * new / old)
    out: Samples = phases.transpose(1, 2).reshape(channels.shape[0], -1)[:, :length].contiguous().numpy()
    return out


def _decode(loaded: Loaded, options: MediaOptions, *, from_video: bool) -> tuple[Samples, int]:
    """All channels `[channels, n]` and the rate: soundfile first, PyAV for what it cannot read."""
    import soundfile

    if not from_video:
        try:
            with loaded.open() as stream, soundfile.SoundFile(stream) as file:
                if file.frames > 0 and file.samplerate > 0:
                    _check_length(file.frames / file.samplerate, options, loaded.name)
                limit = int(options.max_audio_seconds * file.samplerate) + 1
                data = file.read(frames=limit, dtype="float32", always_2d=True)
                return np.ascontiguousarray(data.T), int(file.samplerate)
        except (soundfile.LibsndfileError, RuntimeError, TypeError):
            pass  # not one of libsndfile's formats; PyAV knows more of them and words the error below
    return _decode_with_av(loaded, options)


def _decode_with_av(loaded: Loaded, options: MediaOptions) -> tuple[Samples, int]:
    import av

    try:
        with loaded.open() as stream, av.open(stream, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise MediaError("has no sound", where=loaded.name)
            track = container.streams.audio[0]
            if container.duration:
                _check_length(container.duration / 1e6, options, loaded.name)
            resampler = av.AudioResampler(format="fltp")
            blocks: list[Samples] = []
            count = 0
            for frame in container.decode(track):
                for piece in resampler.resample(frame):
                    blocks.append(piece.to_ndarray().astype(np.float32, copy=False))
                    count += piece.samples
                if count > options.max_audio_seconds * track.rate:
                    _check_length(count / track.rate, options, loaded.name)
            if not blocks:
                raise MediaError("holds no samples", where=loaded.name)
            return np.concatenate(blocks, axis=1), int(track.rate)
    except MediaError:
        raise
    except (av.FFmpegError, ValueError, OSError, EOFError) as error:
        raise MediaError(
            "is not a sound in a known format, or is damaged", where=loaded.name,
            fix="use wav, flac, mp3, ogg, m4a or webm",
        ) from error  # fmt: skip


def _from_array(audio: Audio) -> Samples:
    array: np.ndarray[Any, Any] = audio.source
    if array.ndim not in (1, 2) or array.dtype.kind not in "fi" or array.dtype.itemsize == 1:
        raise MediaError(
            f"an array of {array.dtype} {list(array.shape)} is not a sound",
            fix="pass float or int16 samples [n] or [n, channels]",
        )
    if audio.sample_rate is not None and audio.sample_rate <= 0:
        raise MediaError(f"a sample rate of {audio.sample_rate} Hz is not possible")
    wide = array[:, None] if array.ndim == 1 else array
    scale = 1.0 if array.dtype.kind == "f" else float(2 ** (8 * array.dtype.itemsize - 1))
    return np.ascontiguousarray((wide / scale).astype(np.float32).T)


def _check_length(seconds: float, options: MediaOptions, name: str) -> None:
    if seconds > options.max_audio_seconds:
        raise MediaError(
            f"lasts {seconds / 60:.0f} minutes, the limit is {options.max_audio_seconds / 60:.0f}", where=name,
            fix="cut the part you want to ask about",
        )  # fmt: skip
