"""What should get no answer: noise, tones and music, babble."""

from __future__ import annotations

from random import Random

import numpy as np

from recipes.nano.data.labels import Split
from recipes.nano.speech.room import RATE, coloured_noise, hear
from recipes.nano.speech.speakers import speak
from recipes.nano.speech.texts import not_for_the_model, sentence_to_repeat


def plain_noise(rng: Random, dice: np.random.Generator) -> np.ndarray:
    """Wind, a fan, a street: coloured noise that swells, with clicks and bangs."""
    length = int(RATE * rng.uniform(0.6, 4.0))
    sound = coloured_noise(length, dice)
    knots = dice.uniform(0.1, 1.0, 8)
    sound *= np.interp(np.linspace(0, 7, length), np.arange(8), knots).astype(np.float32)
    for _ in range(rng.choice((0, 0, 3, 9))):
        at = rng.randrange(length)
        bang = coloured_noise(min(length - at, 1200), dice) if length - at > 16 else np.zeros(0, np.float32)
        sound[at : at + len(bang)] += bang * np.exp(-np.arange(len(bang)) / 200) * rng.uniform(1, 6)
    return levelled(sound, rng)


def music(rng: Random, dice: np.random.Generator) -> np.ndarray:
    """Notes of a scale with overtones, sometimes chords and a beat."""
    scale = [0, 2, 4, 5, 7, 9, 11] if rng.random() < 0.5 else [0, 2, 3, 5, 7, 8, 10]
    base, beat = 110 * 2 ** rng.uniform(0, 2), rng.uniform(0.12, 0.5)
    pieces = []
    for _ in range(rng.randint(4, 16)):
        time = np.arange(int(RATE * beat * rng.choice((1, 1, 2)))) / RATE
        note = np.zeros(len(time))
        for _ in range(rng.choice((1, 1, 3))):
            pitch = base * 2 ** ((rng.choice(scale) + 12 * rng.randint(0, 1)) / 12)
            for overtone in range(1, rng.randint(2, 7)):
                note += np.sin(2 * np.pi * pitch * overtone * time) / overtone ** rng.uniform(0.8, 2)
        note *= np.minimum(1, time * 60) * np.exp(-time * rng.uniform(0.5, 6))
        if rng.random() < 0.3:
            note[:800] += dice.standard_normal(len(note[:800])) * 0.5
        pieces.append(note)
    return levelled(np.concatenate(pieces)[: RATE * 4].astype(np.float32), rng)


def babble(rng: Random, dice: np.random.Generator, split: Split) -> np.ndarray:
    """Four to seven people at once."""
    voices = []
    for _ in range(rng.randint(4, 7)):
        text = " ".join(sentence_to_repeat(rng) for _ in range(2)) + " " + not_for_the_model(rng, split)
        voices.append(hear(*speak(text, split, rng), dice, hard=0.3))
    length = int(RATE * rng.uniform(1.2, 4.0))
    total = np.zeros(length, np.float32)
    for voice in voices:
        turned = np.roll(np.resize(voice, max(length, len(voice))), rng.randrange(length))[:length]
        total += turned / (np.abs(turned).max() + 1e-6)
    return levelled(total, rng)


def levelled(sound: np.ndarray, rng: Random) -> np.ndarray:
    """At a random level, peak under 1."""
    return (sound * (rng.uniform(0.02, 0.9) / (np.abs(sound).max() + 1e-9))).astype(np.float32)
