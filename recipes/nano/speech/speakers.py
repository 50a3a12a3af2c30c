"""Who says a text: eSpeak's many, Flite's two, or somebody whose voice was baked.

Held-out speakers are eSpeak's alone, as they always were.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from random import Random

import numpy as np

from recipes.nano.data.labels import QA, Split
from recipes.nano.speech.baked import Baked, shelf
from recipes.nano.speech.espeak import MissingSpeechEngine, Voice, espeak
from recipes.nano.speech.flite import TRAINED, Manner, flite
from recipes.nano.speech.room import RATE
from recipes.nano.speech.voices import pick_voice

BAKED, FLITE = 0.5, 0.4  # shares: of what can be; of the rest
PREFERRED = 0.3  # of spoken questions about a picture are chosen among those that were baked


def speak(text: str, split: Split, rng: Random, *, plain: bool = True) -> tuple[np.ndarray, int]:
    """A text as somebody of the split says it: float32 samples in -1..1 and their rate.

    Args:
        text: what is said.
        split: whose speakers.
        rng: of everything drawn.
        plain: False leaves eSpeak's own voice out, whose backchannels the server is measured with.
    """
    lot, other = rng.random(), rng.random()
    if split == "train":
        books = shelf() if lot < BAKED else None
        one = books.saying(text, rng) if books else None
        if one is not None:
            return one.samples(), RATE
        if other < FLITE and _flite_installed():
            return flite(rng.choice(TRAINED)).speak(text, Manner.drawn(rng))
    return espeak().speak(text, _anybody(rng, split, plain)), espeak().rate


def _anybody(rng: Random, split: Split, plain: bool) -> Voice:
    while True:
        voice = pick_voice(rng, split)
        if plain or "+" in voice.name:
            return voice


def anything(kind: str, split: Split, rng: Random) -> Baked | None:
    """A baked utterance of a kind whose words nothing else depends on, for its share of the draws."""
    books = shelf() if split == "train" and rng.random() < BAKED else None
    return books.of_kind(kind, rng) if books else None


def asked_aloud(asked: Sequence[QA], split: Split, rng: Random) -> QA:
    """The question about a picture that is spoken; now and then one that slow voices say too."""
    books = shelf() if split == "train" and rng.random() < PREFERRED else None
    known = [qa for qa in asked if books.has(qa.question)] if books else []
    return rng.choice(known or asked)


@lru_cache(maxsize=1)
def _flite_installed() -> bool:
    try:
        for name in TRAINED:
            flite(name)
    except MissingSpeechEngine as error:
        warnings.warn(f"training hears eSpeak alone: {error}", stacklevel=2)
        return False
    return True
