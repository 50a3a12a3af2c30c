"""Recordings for tests of voice activity: held-out questions, and what is no speech, made from a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

RATE = 16_000
HELD_OUT = Path(__file__).parents[1] / "default" / "heldout"
Samples = NDArray[np.float32]


def silence(seconds: float) -> Samples:
    return np.zeros(int(seconds * RATE), np.float32)


def recording(name: str, rate: int = RATE) -> Samples:
    """A held-out clip such as "question03", mono."""
    samples, from_rate = soundfile.read(HELD_OUT / f"{name}.ogg", dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), from_rate, rate).astype(np.float32)


def questions(count: int) -> list[str]:
    return [path.stem for path in sorted(HELD_OUT.glob("question*.ogg"))][:count]


def clicks(seed: int, seconds: int = 6) -> Samples:
    """Four a second, 1 to 20 ms."""
    dice, out = np.random.default_rng(seed), np.zeros(RATE * seconds)
    for at in dice.uniform(0, seconds - 0.1, seconds * 4):
        n, i = int(dice.uniform(0.001, 0.02) * RATE), int(at * RATE)
        out[i : i + n] += dice.uniform(0.2, 0.9) * dice.standard_normal(n) * np.exp(-np.arange(n) / (n / 4))
    return (out.clip(-1, 1) + 0.001 * dice.standard_normal(len(out))).astype(np.float32)


def typing(seed: int, seconds: int = 6) -> Samples:
    """A keyboard: two clicks a key, four to twelve keys a second."""
    dice = np.random.default_rng(seed)
    out = 0.001 * dice.standard_normal(RATE * seconds)
    for at in np.cumsum(dice.uniform(0.08, 0.25, 12 * seconds)):
        for shift, loud in ((0, 0.25), (int(dice.uniform(300, 700)), 0.12)):
            i = int(at * RATE) + shift
            if i + 200 < len(out):
                out[i : i + 200] += loud * dice.standard_normal(200) * np.exp(-np.arange(200) / 40)
    return out.astype(np.float32)


def noise_bursts(seed: int, seconds: int = 6) -> Samples:
    """One a second, 50 to 800 ms, of a random band."""
    dice = np.random.default_rng(seed)
    out = 0.002 * dice.standard_normal(RATE * seconds)
    for at in dice.uniform(0, seconds - 1, seconds):
        n, i = int(dice.uniform(0.05, 0.8) * RATE), int(at * RATE)
        bins = np.fft.rfft(dice.standard_normal(n))
        low = dice.uniform(0, 0.3) * len(bins)
        bins[np.arange(len(bins)) < low] = 0
        bins[np.arange(len(bins)) > low + dice.uniform(0.1, 0.7) * len(bins)] = 0
        burst = np.fft.irfft(bins, n)
        out[i : i + n] += dice.uniform(0.05, 0.4) * burst / burst.std() * np.hanning(n)
    return out.clip(-1, 1).astype(np.float32)


def coughs(seed: int, seconds: int = 6) -> Samples:
    """One every 1.2 s: a burst, then a second with voice in it, through the resonances of a mouth."""
    dice = np.random.default_rng(seed)
    out = 0.002 * dice.standard_normal(RATE * seconds)
    for at in np.arange(0.5, seconds - 1, 1.2):
        n, i = int(dice.uniform(0.25, 0.45) * RATE), int((at + dice.uniform(0, 0.4)) * RATE)
        time = np.arange(n)
        envelope = np.exp(-time / (0.05 * RATE)) + 0.35 * np.exp(-(((time / n - 0.6) / 0.2) ** 2))
        hertz = np.fft.rfftfreq(n, 1 / RATE)
        mouth = np.zeros(len(hertz))
        for center, width in ((500, 250), (1500, 400), (2800, 700)):
            mouth += 1 / (1 + ((hertz - center * dice.uniform(0.85, 1.15)) / width) ** 2)
        tone = np.sin(2 * np.pi * np.cumsum(dice.uniform(110, 220) * (1 - 0.3 * time / n)) / RATE)
        voice = np.fft.irfft(np.fft.rfft(np.sign(tone) * np.abs(tone) ** 0.3) * mouth, n)
        breath = np.fft.irfft(np.fft.rfft(dice.standard_normal(n)) * mouth, n)
        out[i : i + n] += 0.12 * envelope * (breath / breath.std() + 0.5 * voice / voice.std() * (time > n / 2))
    return out.clip(-1, 1).astype(np.float32)


def music(seed: int, seconds: int = 8) -> Samples:
    """Chords and a melody; with a drum for odd seeds."""
    dice, out = np.random.default_rng(seed), np.zeros(RATE * seconds)
    root, beat = dice.integers(45, 58), 60 / dice.uniform(80, 140)
    scale, overtones = (0, 2, 4, 5, 7, 9, 11), ((1, 0.5, 0.3, 0.2, 0.1), (1, 0.8, 0.6, 0.5, 0.4, 0.3), (1, 0.2, 0.05))

    def note(pitch: float, at: float, duration: float, kind: int) -> None:
        i = int(at * RATE)
        n = min(int(duration * RATE), len(out) - i)
        time = np.arange(max(0, n)) / RATE
        vibrato = 1 + 0.004 * np.sin(2 * np.pi * 5.5 * time) * (kind == 1)
        phase = 2 * np.pi * np.cumsum(440 * 2 ** ((pitch - 69) / 12) * vibrato) / RATE
        wave = sum(loud * np.sin((k + 1) * phase) for k, loud in enumerate(overtones[kind]))
        swell = np.minimum(1, time / 0.08) * np.minimum(1, (duration - time).clip(0) / 0.1)
        out[i : i + len(time)] += 0.1 * wave * (np.exp(-4 * time) if kind == 0 else swell)

    for at in np.arange(0, seconds, 2 * beat):
        for step in dice.choice(7, 3, replace=False):
            note(root + scale[step], at, 2 * beat, seed % 3)
        for half in (0, beat):
            note(root + 12 + scale[dice.integers(7)], at + half, beat, (seed + (half == 0)) % 3)
            i = int((at + half) * RATE)
            time = np.arange(max(0, min(1600, len(out) - i)))
            drum = np.sin(2 * np.pi * 60 * time / RATE) + 0.3 * dice.standard_normal(len(time))
            out[i : i + len(time)] += 0.3 * (seed % 2) * np.exp(-time / 300) * drum
    return (0.6 * out / np.abs(out).max()).astype(np.float32)


NO_SPEECH = {"clicks": clicks, "typing": typing, "noise_bursts": noise_bursts, "coughs": coughs, "music": music}
