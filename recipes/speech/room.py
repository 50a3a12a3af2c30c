"""From a clean voice to what a microphone hears: room, noise, distance, a telephone's band."""

from __future__ import annotations

import numpy as np
import soxr

RATE = 16000


def hear(
    voice: np.ndarray, rate: int, rng: np.random.Generator, *, hard: float = 1.0, stretch: float = 0.075
) -> np.ndarray:
    """Float32 samples at 16 kHz, peak under 1.

    Args:
        voice: float32 samples in -1..1.
        rate: of the voice.
        rng: of everything drawn.
        hard: 0 leaves the sound clean.
        stretch: how much faster or slower it may be played, which also makes another speaker of the same voice.
    """
    speed = rng.uniform(1 - stretch, 1 + stretch) if rng.random() < 0.5 * hard else 1.0
    sound = soxr.resample(voice, rate * speed, RATE).astype(np.float32)
    if rng.random() < 0.4 * hard:
        sound = reverberate(sound, rng)
    if rng.random() < 0.15 * hard:  # a telephone
        sound = soxr.resample(soxr.resample(sound, RATE, 8000), 8000, RATE).astype(np.float32)
    before, after = (np.zeros(int(RATE * rng.uniform(0.0, 0.5)), np.float32) for _ in range(2))
    sound = np.concatenate([before, sound, after])
    if rng.random() < 0.7 * hard:
        sound = add_noise(sound, coloured_noise(len(sound), rng), rng.uniform(8, 35))
    peak = float(np.abs(sound).max()) or 1.0
    return (sound * (rng.uniform(0.06, 0.95) / peak)).astype(np.float32)


def reverberate(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A room: the direct sound and a tail of decaying noise of 0.1 to 0.5 s."""
    seconds = rng.uniform(0.1, 0.5)
    tail = rng.standard_normal(int(RATE * seconds)).astype(np.float32)
    tail *= np.exp(-6.9 * np.arange(len(tail)) / len(tail)).astype(np.float32)
    tail *= rng.uniform(0.1, 0.6) / np.sqrt((tail**2).sum())
    tail[0] += 1.0
    size = 1 << int(np.ceil(np.log2(len(sound) + len(tail))))
    wet = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(tail, size), size)
    return wet[: len(sound)].astype(np.float32)


def coloured_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Noise from white to brown, sometimes with a hum."""
    size = 1 << (length - 1).bit_length()  # a transform of prime length takes ten times as long
    spectrum = np.fft.rfft(rng.standard_normal(size))
    spectrum *= np.maximum(np.arange(len(spectrum)), 8.0) ** -rng.uniform(0, 1.1)
    noise = np.fft.irfft(spectrum, size)[:length]
    noise /= noise.std() + 1e-9
    if rng.random() < 0.2:
        noise += np.sin(2 * np.pi * rng.uniform(48, 240) * np.arange(length) / RATE)
    return noise.astype(np.float32)


def add_noise(sound: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    """The sound over noise at this ratio of powers."""
    power = float((sound**2).mean()) + 1e-9
    loud = float((noise**2).mean()) + 1e-9
    return sound + noise * np.float32(np.sqrt(power / loud * 10 ** (-decibels / 10)))
