"""One sound by its number: the door to this package.

The same (index, split, seed) gives the same words, speaker, room and noise. The waves themselves differ by the phase
at which the synthesiser happens to stand: it has no way to start over.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np

from recipes.data.labels import Split
from recipes.speech.espeak import espeak
from recipes.speech.noise import babble, music, plain_noise
from recipes.speech.room import hear
from recipes.speech.texts import not_for_the_model, sentence_to_repeat
from recipes.speech.voices import pick_voice

Kind = Literal["repeat", "others", "noise", "music", "babble"]
KINDS: tuple[Kind, ...] = ("repeat", "others", "noise", "music", "babble")
STRETCH = 0.15  # of a training voice: more than anybody who is held out needs
SHARES = (64, 14, 8, 5, 9)  # of a hundred sounds that belong to no picture


@dataclass(frozen=True)
class Utterance:
    """A sound and the truth about it.

    Attributes:
        samples: float32 at 16 kHz.
        text: what is said, empty if nothing is said that could be written down.
        kind: "question" if it asks about a picture; "repeat" is to be written down; all others get no answer.
    """

    samples: np.ndarray
    text: str
    kind: str


def say(text: str, split: Split, rng: Random, kind: str = "question") -> Utterance:
    """A text spoken by somebody of the split, somewhere."""
    dice = np.random.default_rng(rng.getrandbits(63))
    voice = espeak().speak(text, pick_voice(rng, split))
    stretch = STRETCH if split == "train" else STRETCH / 2
    return Utterance(hear(voice, espeak().rate, dice, stretch=stretch), text, kind)


def render_utterance(index: int, split: Split, seed: int) -> Utterance:
    """Sound number `index` of those without a picture."""
    rng = Random(f"{seed}/{split}/sound/{index}")
    kind = rng.choices(KINDS, SHARES)[0]
    if kind == "repeat":
        return say(sentence_to_repeat(rng), split, rng, kind)
    if kind == "others":
        return say(not_for_the_model(rng, split), split, rng, kind)
    dice = np.random.default_rng(rng.getrandbits(63))
    if kind == "babble":
        return Utterance(babble(rng, dice, split), "", kind)
    return Utterance(plain_noise(rng, dice) if kind == "noise" else music(rng, dice), "", kind)
