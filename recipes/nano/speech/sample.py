"""One sound by its number: the door to this package.

The same (index, split, seed) gives the same words, speaker, room and noise. The waves themselves differ by the phase
at which the synthesiser happens to stand: it has no way to start over.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np

from recipes.nano.data.labels import Split
from recipes.nano.speech.body import unsaid
from recipes.nano.speech.noise import babble, music, plain_noise
from recipes.nano.speech.room import KNOWN, RATE, WORN, hear
from recipes.nano.speech.speakers import anything, speak
from recipes.nano.speech.texts import backchannel, not_for_the_model, question, sentence_to_repeat

Kind = Literal["repeat", "others", "noise", "music", "babble", "backchannel", "unsaid"]
KINDS: tuple[Kind, ...] = ("repeat", "others", "noise", "music", "babble", "backchannel", "unsaid")
SHARES = (58, 12, 6, 4, 7, 9, 4)  # of a hundred sounds that belong to no picture
MUSIC_BEHIND, TALK_BEHIND = 0.05, 0.05  # shares of the training voices


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
    voice, rate = speak(text, split, rng, plain=kind != "backchannel")
    return Utterance(_heard(voice, rate, split, rng, dice), text, kind)


def _heard(voice: np.ndarray, rate: int, split: Split, rng: Random, dice: np.random.Generator) -> np.ndarray:
    if split == "heldout":
        return hear(voice, rate, dice, wear=KNOWN)
    behind, lot = None, rng.random()
    if lot < MUSIC_BEHIND:
        behind = music(rng, dice)
    elif lot < MUSIC_BEHIND + TALK_BEHIND:
        behind = hear(*speak(not_for_the_model(rng, split), split, rng), dice, hard=0.3)
    return hear(voice, rate, dice, wear=WORN, behind=behind)


def render_utterance(index: int, split: Split, seed: int) -> Utterance:
    """Sound number `index` of those without a picture."""
    rng = Random(f"{seed}/{split}/sound/{index}")
    kind = rng.choices(KINDS, SHARES)[0]
    if kind in ("repeat", "others", "backchannel"):
        return free_speech(kind, split, rng)
    dice = np.random.default_rng(rng.getrandbits(63))
    if kind == "babble":
        return Utterance(babble(rng, dice, split), "", kind)
    if kind == "unsaid":
        return Utterance(hear(unsaid(rng, dice), RATE, dice, wear=WORN), "", kind)
    return Utterance(plain_noise(rng, dice) if kind == "noise" else music(rng, dice), "", kind)


def free_speech(kind: str, split: Split, rng: Random) -> Utterance:
    """Speech of a kind whose words nothing else depends on, also "question"."""
    one = anything(kind, split, rng)
    if one is not None:
        dice = np.random.default_rng(rng.getrandbits(63))
        return Utterance(_heard(one.samples(), RATE, split, rng, dice), one.text, kind)
    if kind == "repeat":
        return say(sentence_to_repeat(rng), split, rng, kind)
    if kind == "question":
        return say(question(rng, split), split, rng, kind)
    return say(not_for_the_model(rng, split) if kind == "others" else backchannel(rng, split), split, rng, kind)
