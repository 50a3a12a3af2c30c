"""From a clean voice to what a microphone hears: another throat, a room, noise, a microphone, a codec.

Owns what makes a voice unlike the synthesiser it came from. Room, noise and microphone are one pass over the spectrum,
since the drawing worker has few milliseconds for an utterance.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from recipes.nano.speech.resample import resample
from vita.speech.stretch import stretch as stretched

RATE = 16000
LONGEST_FACTORED = 1 << 21  # samples of the longest transform


@dataclass(frozen=True)
class Wear:
    """How far a voice may be taken from what its synthesiser says.

    Attributes:
        throat: share by which pitch and formants together may be higher or lower.
        tempo: share by which it may be slower or faster at the same pitch.
        microphone: how likely equalisation, narrow bands, clipping and coarse samples are.
        faintest: least ratio of voice to noise in dB.
    """

    throat: float = 0.075
    tempo: float = 0.0
    microphone: float = 0.0
    faintest: float = 8.0


KNOWN = Wear()  # a held-out speaker
WORN = Wear(throat=0.2, tempo=0.22, microphone=1.0, faintest=5.0)  # in training


def hear(
    voice: np.ndarray,
    rate: int,
    rng: np.random.Generator,
    *,
    hard: float = 1.0,
    wear: Wear = KNOWN,
    behind: np.ndarray | None = None,
) -> np.ndarray:
    """Float32 samples at 16 kHz, peak under 1.

    Args:
        voice: float32 samples in -1..1.
        rate: of the voice.
        rng: of everything drawn.
        hard: 0 leaves the sound clean.
        wear: how far it is taken from the voice.
        behind: float32 samples at 16 kHz of what else is heard, as music.
    """
    sound = spoken_by_another(voice, rate, rng, hard, wear)
    before, after = (np.zeros(int(RATE * rng.uniform(0.0, 0.5)), np.float32) for _ in range(2))
    sound = np.concatenate([before, sound, after])
    if behind is not None and len(behind):
        sound = add_noise(sound, np.resize(behind, len(sound)), rng.uniform(wear.faintest + 2, 30))
    sound = in_a_room(sound, rng, hard, wear)
    if rng.random() < 0.25 * hard * wear.microphone:
        sound = coarse(sound, rng)
    peak = float(np.abs(sound).max()) or 1.0
    return (sound * (rng.uniform(0.06, 0.95) / peak)).astype(np.float32)


def spoken_by_another(
    voice: np.ndarray, rate: int, rng: np.random.Generator, hard: float = 1.0, wear: Wear = KNOWN
) -> np.ndarray:
    """The voice at 16 kHz from a longer or shorter throat, and slower or faster."""
    throat = rng.uniform(1 - wear.throat, 1 + wear.throat) if rng.random() < 0.6 * hard else 1.0
    sound = resample(voice, round(rate * throat), RATE)
    if rng.random() < 0.5 * hard and wear.tempo:
        # Faster by resampling is made up for: pitch and formants move, tempo does not follow them.
        return stretched(sound, rng.uniform(1 - wear.tempo, 1 + wear.tempo) / min(1.25, max(0.8, throat)))
    return sound


def in_a_room(sound: np.ndarray, rng: np.random.Generator, hard: float, wear: Wear) -> np.ndarray:
    """Room, noise and microphone, each now and then."""
    room = tail(rng) if rng.random() < 0.4 * hard else None
    noisy = rng.random() < 0.7 * hard
    curve = microphone(rng) if rng.random() < 0.5 * hard * wear.microphone else None
    if rng.random() < 0.15 * hard:  # a telephone
        curve = (1.0 if curve is None else curve) * band(rng.uniform(80, 320), rng.uniform(3300, 3900))
    if room is None and not noisy and curve is None:
        return sound
    size = fast_length(len(sound) + (0 if room is None else len(room)))
    spectrum = np.fft.rfft(sound, size)
    if room is not None:
        spectrum *= np.fft.rfft(room, size)
    if noisy:
        noise = noise_spectrum(size, rng)
        loud = float((np.abs(spectrum) ** 2).sum()) * size / max(1, len(sound))  # the noise fills the silence too
        ratio = 10 ** (-rng.uniform(wear.faintest, 35) / 10)
        spectrum += noise * np.float32(np.sqrt(ratio * loud / ((np.abs(noise) ** 2).sum() + 1e-9)))
    if curve is not None:
        # On a coarse grid: a microphone is smooth.
        places = np.linspace(0, len(curve) - 1, len(spectrum), dtype=np.float32)
        spectrum *= np.interp(places, np.arange(len(curve)), curve).astype(np.float32)
    return np.fft.irfft(spectrum, size)[: len(sound)].astype(np.float32)


def microphone(rng: np.random.Generator) -> np.ndarray:
    """Gain at 257 frequencies from 0 to 8 kHz: a tilt with bumps, low and high ends cut off."""
    at = np.linspace(0, 1, 257)
    knots = np.cumsum(rng.normal(0, 3.0, 8)) + rng.normal(0, 2.5, 8)
    decibels = np.interp(np.sqrt(at), np.linspace(0, 1, 8), knots - knots.mean())
    return 10 ** (decibels / 20) * band(rng.uniform(20, 250), rng.uniform(3800, 9000))


def band(low: float, high: float) -> np.ndarray:
    """Gain at 257 frequencies from 0 to 8 kHz that lets a band through."""
    at = np.linspace(1, RATE / 2, 257)
    return 1 / np.sqrt((1 + (low / at) ** 4) * (1 + (at / high) ** 16))


def coarse(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Clipped, in few steps, or in the telephone's eight bits."""
    peak = float(np.abs(sound).max()) or 1.0
    kind = rng.integers(3)
    if kind == 0:
        most = peak * rng.uniform(0.25, 0.8)
        return np.clip(sound, -most, most)
    if kind == 1:
        steps = 2 ** rng.uniform(5, 9)
        return np.round(sound / peak * steps) / np.float32(steps)
    packed = np.sign(sound) * np.log1p(255 * np.abs(sound) / peak) / np.log(256)  # mu-law
    packed = np.round(packed * 127) / 127
    return np.sign(packed) * (256 ** np.abs(packed) - 1) / 255


def tail(rng: np.random.Generator) -> np.ndarray:
    """A room: the direct sound and decaying noise of 0.1 to 0.5 s."""
    length = int(RATE * rng.uniform(0.1, 0.5))
    room = rng.standard_normal(length, np.float32)
    room *= np.exp(-6.9 * np.arange(length, dtype=np.float32) / length)
    room *= rng.uniform(0.1, 0.6) / np.sqrt((room**2).sum())
    room[0] += 1.0
    return room


def reverberate(sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sound in a room."""
    room = tail(rng)
    size = fast_length(len(sound) + len(room))
    wet = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(room, size), size)
    return wet[: len(sound)].astype(np.float32)


def noise_spectrum(size: int, rng: np.random.Generator) -> np.ndarray:
    """Of noise from white to brown, sometimes with a hum: complex64 `[size // 2 + 1]`."""
    count = size // 2 + 1
    noise = rng.standard_normal(2 * count, np.float32).view(np.complex64)
    slope = np.float32(-rng.uniform(0, 1.1))
    noise *= np.maximum(np.arange(count, dtype=np.float32), np.float32(8.0)) ** slope
    if rng.random() < 0.2:
        place = round(rng.uniform(48, 240) * size / RATE)
        noise[place] += np.sqrt((np.abs(noise) ** 2).sum() / 2) * np.exp(2j * np.pi * rng.random())
    return noise


def coloured_noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """The noise itself, float32 `[length]`, of deviation 1 or a little more."""
    size = fast_length(length)  # a transform of prime length takes ten times as long
    noise = np.fft.irfft(noise_spectrum(size, rng), size)[:length]
    return (noise / (noise.std() + 1e-9)).astype(np.float32)


def add_noise(sound: np.ndarray, noise: np.ndarray, decibels: float) -> np.ndarray:
    """The sound over noise at this ratio of powers."""
    power = float((sound**2).mean()) + 1e-9
    loud = float((noise**2).mean()) + 1e-9
    return sound + noise * np.float32(np.sqrt(power / loud * 10 ** (-decibels / 10)))


def fast_length(least: int) -> int:
    """The shortest even length of this many samples or more whose transform is quick."""
    lengths = _factored()
    return lengths[bisect_left(lengths, max(2, least))]


@lru_cache(maxsize=1)
def _factored() -> list[int]:
    lengths = [2]
    for factor in (2, 3, 5):
        lengths = [n * factor**k for n in lengths for k in range(22) if n * factor**k <= LONGEST_FACTORED]
    return sorted(set(lengths))
