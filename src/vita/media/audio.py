"""Sound: reading, mixing down, resampling (spec sections 5.1 and 5.2).

Owns samples from file to mono float32 at the encoder's rate. Does not know about filterbanks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vita.errors import MediaError
from vita.media.resample import Samples, resample_reference
from vita.media.source import Loaded, array_values, read_source
from vita.types import Audio, MediaOptions

__all__ = ["Samples", "Waveform", "load_audio", "resample_reference"]

BLOCK_SECONDS = 30  # decoded at a time, so that a long sound never lies in memory with all its channels
MAX_CHANNELS = 64  # an array with more has its axes swapped
UNKNOWN_LENGTH = 1 << 48  # libsndfile's frame count of a stream whose length it cannot tell is above this
FORMATS = "use wav, flac, mp3, ogg, m4a or webm"


@dataclass(frozen=True)
class Waveform:
    """Mono sound: float32 `[n]` in about [-1, 1) at the asked rate, and how long the original was in seconds."""

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
    notes: list[str] = []
    source = array_values(audio.source)
    if isinstance(source, np.ndarray):
        blocks, name = iter([_from_array(source, audio.sample_rate)]), "<array>"
    else:
        loaded = read_source(audio.source, options, "sound")
        blocks, name = _decode(loaded, options, notes, from_video=audio.from_video), loaded.name
    channels, rate = _collect(blocks, options, name)
    seconds = channels.shape[1] / rate
    if options.reference:
        mono = channels[0] if rate == sample_rate else resample_reference(channels, rate, sample_rate)[0]
    elif rate == sample_rate:
        mono = channels[0]
    else:
        import soxr

        mono = soxr.resample(channels[0], rate, sample_rate, quality="HQ")
    if mono.size == 0:
        raise MediaError("is shorter than one sample", where=name)
    return Waveform(np.ascontiguousarray(mono, dtype=np.float32), seconds, tuple(notes))


@dataclass(frozen=True)
class _Block:
    """A stretch of decoded sound: float32 `[channels, n]` at `rate` Hz."""

    samples: Samples
    rate: int


def _collect(blocks: Iterator[_Block], options: MediaOptions, name: str) -> tuple[Samples, int]:
    """All blocks as `[channels, n]` (the reference resamples every channel) or mixed down to `[1, n]`."""
    parts: list[Samples] = []
    count, rate = 0, 0
    for block in blocks:
        rate = block.rate
        count += block.samples.shape[1]
        _check_length(count / rate, options, name, so_far=True)
        if not np.isfinite(block.samples).all():
            raise MediaError("holds samples that are not numbers (NaN or infinite)", where=name)
        mixed = block.samples if options.reference else block.samples.mean(axis=0, keepdims=True, dtype=np.float32)
        parts.append(mixed)
    if count == 0:
        raise MediaError("holds no samples", where=name)
    return np.concatenate(parts, axis=1), rate


def _decode(loaded: Loaded, options: MediaOptions, notes: list[str], *, from_video: bool) -> Iterator[_Block]:
    """soundfile first, PyAV for what it cannot read; adds to `notes` what the user should know."""
    import soundfile

    with loaded.open() as stream:
        try:
            # A video is never libsndfile's, and its probing would read much of a large one.
            file = None if from_video else soundfile.SoundFile(stream)
        except (soundfile.LibsndfileError, TypeError):
            file = None  # not one of libsndfile's formats; PyAV knows more of them and words the error
        if file is not None:
            yield from _read_with_soundfile(file, loaded.name, options, notes)
            return
    from vita.media.ffmpeg import decode_sound

    for samples, rate in decode_sound(loaded, notes, lambda seconds: _check_length(seconds, options, loaded.name)):
        yield _Block(samples, rate)


def _read_with_soundfile(file: Any, name: str, options: MediaOptions, notes: list[str]) -> Iterator[_Block]:
    import soundfile

    with file:
        rate = int(file.samplerate)
        if 0 < file.frames < UNKNOWN_LENGTH:
            _check_length(file.frames / rate, options, name)
        read = 0
        while True:
            try:
                data = file.read(frames=BLOCK_SECONDS * rate, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                if read == 0:
                    raise MediaError("is a damaged sound", where=name, fix=FORMATS) from error
                notes.append(f"{name}: it is damaged after {read / rate:.1f} seconds; the sound before that was used.")
                return
            if not len(data):
                return
            read += len(data)
            yield _Block(np.ascontiguousarray(data.T), rate)


def _from_array(array: np.ndarray[Any, Any], rate: int | None) -> _Block:
    if array.ndim not in (1, 2) or array.dtype not in (np.float16, np.float32, np.float64, np.int16, np.int32):
        raise MediaError(
            f"an array of {array.dtype} {list(array.shape)} is not a sound",
            fix="pass float or int16 samples [n] or [n, channels]",
        )
    if array.ndim == 2 and array.shape[1] > MAX_CHANNELS:
        raise MediaError(
            f"an array {list(array.shape)} would be a sound of {array.shape[1]} channels",
            fix="pass samples as [n, channels]",
        )
    if rate is None:
        raise MediaError("an array of samples does not say how fast it plays", fix="pass sample_rate in Hz with it")
    if rate <= 0 or rate != int(rate):
        raise MediaError(f"a sample rate of {rate} Hz is not possible", fix="pass a positive whole number")
    wide = array[:, None] if array.ndim == 1 else array
    scale = 1.0 if array.dtype.kind == "f" else float(2 ** (8 * array.dtype.itemsize - 1))
    return _Block(np.ascontiguousarray((wide / scale).astype(np.float32).T), int(rate))


def _check_length(seconds: float, options: MediaOptions, name: str, *, so_far: bool = False) -> None:
    limit = options.policy.max_seconds
    if seconds > limit:
        lasts = f"lasts longer than the limit of {_clock(limit)}"
        if not so_far:
            lasts = f"lasts {_clock(seconds)}, longer than the limit of {_clock(limit)}"
        raise MediaError(lasts, where=name, fix="cut out the part you want to ask about")


def _clock(seconds: float) -> str:
    """A length for a sentence: seconds up to two minutes, then minutes."""
    return f"{seconds:.4g} seconds" if seconds < 120 else f"{seconds / 60:.4g} minutes"
