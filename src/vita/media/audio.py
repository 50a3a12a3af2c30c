"""Audio: reading, mixing down to mono, resampling (spec sections 5.1 and 5.2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vita.errors import MediaError
from vita.media.audio_decode import Block, decode_audio
from vita.media.downmix import Downmix
from vita.media.policy import UNGUARDED, ReadGuard
from vita.media.resample import Samples, resample_reference
from vita.media.source import array_values, read_source
from vita.types import Audio, MediaOptions

__all__ = ["Samples", "Waveform", "load_audio", "resample_reference"]

BLOCK_SAMPLES = 1 << 18  # of an array, mixed down at a time
MAX_CHANNELS = 64  # an array with more has its axes swapped
# Samples lie in [-1, 1]; some writers leave them at the scale of 16 or 32-bit integers. Far above that, the power
# spectrum overflows float32.
MAX_VALUE = 1e10


@dataclass(frozen=True)
class Waveform:
    """Mono audio: float32 `[n]` in about [-1, 1) at the requested rate, and the length of the original in seconds."""

    samples: Samples
    seconds: float
    notes: tuple[str, ...] = ()


def load_audio(
    audio: Audio, options: MediaOptions | None = None, sample_rate: int = 16000, guard: ReadGuard = UNGUARDED
) -> Waveform:
    """Decode, mix down and resample.

    Args:
        audio: the source; an array is float or int16 `[n]` or `[n, channels]` with its `sample_rate`.
        options: limits, and whether to read as the reference does (left channel, the spec's resampler).
        sample_rate: of the result, in Hz.
        guard: deadline and cancel of the request.

    Raises:
        MediaError: not audio, damaged, empty, or longer than the limit; the deadline has passed.
        Cancelled: the caller cancelled.
    """
    options = options or MediaOptions()
    notes: list[str] = []
    source = array_values(audio.source)
    if isinstance(source, np.ndarray):
        blocks, name = _from_array(source, audio.sample_rate, options), "<array>"
    else:
        loaded = read_source(audio.source, options, "audio", guard)
        name = loaded.name

        def check(seconds: float) -> None:
            _check_length(seconds, options, name)

        blocks = decode_audio(loaded, notes, check, guard, from_video=audio.from_video)
    to_mono = _ToMono(options, sample_rate, name)
    try:
        for block in blocks:
            guard.check(name)
            to_mono.add(block)
        samples, seconds = to_mono.finish()
    except MemoryError as error:
        raise MediaError("does not fit in memory", where=name, fix="pass a shorter part of it") from error
    return Waveform(samples, seconds, tuple(notes))


class _ToMono:
    """Blocks of one stream to mono at the wanted rate; only the mono result is kept."""

    def __init__(self, options: MediaOptions, sample_rate: int, name: str) -> None:
        self._options, self._sample_rate, self._name = options, sample_rate, name
        self._parts: list[Samples] = []
        self._count = 0  # samples read, of one channel
        self._rate = 0
        self._downmix: Downmix | None = None
        self._resampler: Any = None

    def add(self, block: Block) -> None:
        """Take the next block.

        Raises:
            MediaError: longer than the limit, or values that no audio has.
        """
        if self._downmix is None:
            self._start(block.rate)
        assert self._downmix is not None
        self._count += block.samples.shape[1]
        _check_length(self._count / self._rate, self._options, self._name, so_far=True)
        if not np.isfinite(block.samples).all():
            raise MediaError("holds samples that are not numbers (NaN or infinite)", where=self._name)
        if np.abs(block.samples).max(initial=0) > MAX_VALUE:
            raise MediaError(
                f"holds samples above {MAX_VALUE:g}", where=self._name, fix="scale them to lie between -1 and 1"
            )
        mono = block.samples[0].copy() if self._options.reference else self._downmix(block.samples)
        self._parts.append(mono if self._resampler is None else self._resampler.resample_chunk(mono))

    def _start(self, rate: int) -> None:
        self._rate, self._downmix = rate, Downmix(rate)
        if rate != self._sample_rate and not self._options.reference:
            import soxr

            self._resampler = soxr.ResampleStream(rate, self._sample_rate, 1, dtype="float32", quality="HQ")

    def finish(self) -> tuple[Samples, float]:
        """All samples, float32 `[n]`, and the length in seconds.

        Raises:
            MediaError: there are none.
        """
        if self._count == 0:
            raise MediaError("holds no samples", where=self._name)
        if self._resampler is not None:
            self._parts.append(self._resampler.resample_chunk(np.empty(0, np.float32), last=True))
        mono = np.concatenate(self._parts) if len(self._parts) > 1 else self._parts[0]
        self._parts = []
        if self._options.reference and self._rate != self._sample_rate:
            mono = resample_reference(mono[None], self._rate, self._sample_rate)[0]
        if mono.size == 0:
            raise MediaError("is shorter than one sample", where=self._name)
        return np.ascontiguousarray(mono, dtype=np.float32), self._count / self._rate


def _from_array(array: np.ndarray[Any, Any], rate: int | None, options: MediaOptions) -> Iterator[Block]:
    """An array in blocks, scaled to [-1, 1).

    Raises:
        MediaError: not audio, or without a possible rate.
    """
    if array.ndim not in (1, 2) or array.dtype not in (np.float16, np.float32, np.float64, np.int16, np.int32):
        raise MediaError(
            f"an array of {array.dtype} {list(array.shape)} is not audio",
            fix="pass float or int16 samples [n] or [n, channels]",
        )
    if array.ndim == 2 and not 1 <= array.shape[1] <= MAX_CHANNELS:
        raise MediaError(
            f"an array {list(array.shape)} would be audio of {array.shape[1]} channels",
            fix="pass samples as [n, channels]",
        )
    if rate is None:
        raise MediaError(
            "an array of samples does not say how fast it plays", fix="pass vita.Audio(array, sample_rate=16000)"
        )
    if rate <= 0 or rate != int(rate):
        raise MediaError(f"a sample rate of {rate} Hz is not possible", fix="pass a positive integer")
    _check_length(len(array) / rate, options, "<array>")
    return _array_blocks(array[:, None] if array.ndim == 1 else array, int(rate))


def _array_blocks(array: np.ndarray[Any, Any], rate: int) -> Iterator[Block]:
    scale = 1.0 if array.dtype.kind == "f" else float(2 ** (8 * array.dtype.itemsize - 1))
    for start in range(0, len(array), BLOCK_SAMPLES):
        part = array[start : start + BLOCK_SAMPLES].T / scale  # [channels, n]
        # float64 values beyond float32 would become infinite; clipped they are still above the largest that is taken.
        with np.errstate(invalid="ignore"):
            part = np.where(np.isfinite(part), np.clip(part, -2 * MAX_VALUE, 2 * MAX_VALUE), part)
        yield Block(np.ascontiguousarray(part, dtype=np.float32), rate)


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
