"""Sounds of a person who says nothing: a cough, a breath, a hum of agreement, a keyboard, clicks.

Drawn from noise and pulses through broad filters; no recording.
"""

from __future__ import annotations

from random import Random

import numpy as np

from recipes.nano.speech.room import RATE, fast_length

KINDS = ("cough", "breath", "hum", "typing", "clicks")


def unsaid(rng: Random, dice: np.random.Generator) -> np.ndarray:
    """One of these sounds, float32 at 16 kHz, peak at 1."""
    kind = rng.choice(KINDS)
    made = {"cough": cough, "breath": breath, "hum": hum, "typing": typing, "clicks": clicks}[kind](rng, dice)
    return (made / (np.abs(made).max() + 1e-9)).astype(np.float32)


def hum(rng: Random, dice: np.random.Generator) -> np.ndarray:
    """ "Mm", "mm-hm", "hmm?" with closed lips: a voice that rises or falls, below 700 Hz or so."""
    pitch = rng.uniform(85, 260)
    parts = []
    for k in range(rng.choice((1, 1, 2, 2, 3))):
        length = int(RATE * rng.uniform(0.12, 0.45 if k else 0.8))
        moves = np.interp(np.linspace(0, 1, length), [0, 0.5, 1], [1, rng.uniform(0.85, 1.2), rng.uniform(0.75, 1.35)])
        phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.12 * k * rng.uniform(-1, 1.5)) * moves) / RATE
        voice = sum(np.sin(n * phase) * rng.uniform(0.5, 1) / n ** rng.uniform(0.9, 1.6) for n in range(1, 7))
        voice *= np.minimum(
            1, np.minimum(np.arange(length), np.arange(length)[::-1]) / (RATE * rng.uniform(0.02, 0.07))
        )
        parts += [voice, dice.standard_normal(int(RATE * rng.uniform(0.02, 0.12))) * 0.03]  # through the nose between
    joined = np.concatenate(parts)
    return joined + dice.standard_normal(len(joined)) * np.abs(joined).max() * rng.uniform(0.002, 0.03)


def cough(rng: Random, dice: np.random.Generator) -> np.ndarray:
    """One to four bursts: a bang, then breath with some voice."""
    parts = []
    for _ in range(rng.randint(1, 4)):
        length = int(RATE * rng.uniform(0.15, 0.4))
        time = np.arange(length) / RATE
        burst = shaped(length, rng.uniform(400, 1500), rng.uniform(800, 3000), dice)
        burst *= np.exp(-time * rng.uniform(8, 25)) + 0.35 * np.exp(-(((time - 0.12) / 0.06) ** 2))
        rough = np.sign(np.sin(2 * np.pi * rng.uniform(90, 300) * time + np.cumsum(dice.standard_normal(length)) * 0.1))
        parts += [burst * (1 + rng.uniform(0, 0.5) * rough), np.zeros(int(RATE * rng.uniform(0.03, 0.3)))]
    return np.concatenate(parts)


def breath(rng: Random, dice: np.random.Generator) -> np.ndarray:
    """In and out, or a sigh."""
    parts = []
    for _ in range(rng.randint(1, 3)):
        length = int(RATE * rng.uniform(0.3, 1.3))
        swell = np.sin(np.pi * np.linspace(0, 1, length) ** rng.uniform(0.4, 2)) ** rng.uniform(1, 2)
        parts += [shaped(length, rng.uniform(300, 2500), rng.uniform(700, 3500), dice) * swell]
        parts += [np.zeros(int(RATE * rng.uniform(0.05, 0.5)))]
    return np.concatenate(parts)


def typing(rng: Random, dice: np.random.Generator) -> np.ndarray:
    """Keys that go down and up."""
    sound = np.zeros(int(RATE * rng.uniform(0.8, 3.5)))
    at = 0
    while (at := at + int(RATE * rng.uniform(0.05, 0.3))) < len(sound) - 2000:
        for offset, level in ((0, 1.0), (int(RATE * rng.uniform(0.04, 0.09)), 0.4)):
            key = (
                dice.standard_normal(400) * np.exp(-np.arange(400) / rng.uniform(15, 90)) * rng.uniform(0.4, 1) * level
            )
            sound[at + offset : at + offset + 400] += key[: len(sound) - at - offset]
    return sound + dice.standard_normal(len(sound)) * 0.004


def clicks(rng: Random, dice: np.random.Generator) -> np.ndarray:
    """A mouse, a tongue, a switch, a cup put down."""
    sound = dice.standard_normal(int(RATE * rng.uniform(0.4, 2.0))) * 0.004
    for _ in range(rng.randint(1, 5)):
        length = min(int(RATE * rng.uniform(0.01, 0.12)), len(sound) - 1)
        at, time = rng.randrange(len(sound) - length), np.arange(length) / RATE
        ring = np.sin(2 * np.pi * rng.uniform(400, 5000) * time) + dice.standard_normal(length) * rng.uniform(0.1, 1)
        sound[at : at + length] += ring * np.exp(-time * rng.uniform(40, 400)) * rng.uniform(0.2, 1)
    return sound


def shaped(length: int, middle: float, width: float, dice: np.random.Generator) -> np.ndarray:
    """Noise around a frequency, float32 `[length]`."""
    size = fast_length(length)
    at = np.linspace(0, RATE / 2, size // 2 + 1, dtype=np.float32)
    noise = dice.standard_normal(2 * len(at), np.float32).view(np.complex64)
    return np.fft.irfft(noise / (1 + ((at - np.float32(middle)) / np.float32(width)) ** 2), size)[:length]
