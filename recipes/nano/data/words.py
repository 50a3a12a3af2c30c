"""Words to be read in pictures: real ones, invented ones, codes; split so that nothing held out is ever trained on."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from random import Random

from recipes.nano.data.fonts import held_out_name
from recipes.nano.data.labels import Split, capital
from recipes.nano.data.pieces import whole_pieces

NEVER_TRAIN = ("vita",)  # the shipped wordmark must be read, not remembered
LONGEST = 10
_SAME_IN_BOTH_CASES = set("cosuvwxz")
_ONSETS = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "j",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "y",
    "z",
    "bl",
    "br",
    "ch",
    "cl",
    "cr",
    "dr",
    "fl",
    "fr",
    "gl",
    "gr",
    "ph",
    "pl",
    "pr",
    "qu",
    "sh",
    "sk",
    "sl",
    "sp",
    "st",
    "th",
    "tr",
    "tw",
]
_VOWELS = ["a", "e", "i", "o", "u", "a", "e", "i", "o", "u", "ai", "ea", "ee", "ia", "io", "oo", "ou"]
_CODAS = [
    "b",
    "ck",
    "d",
    "f",
    "g",
    "l",
    "m",
    "n",
    "nd",
    "ng",
    "nt",
    "p",
    "r",
    "rk",
    "rt",
    "s",
    "sh",
    "st",
    "t",
    "th",
    "v",
    "x",
    "z",
]
_CODE_SIGNS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"  # none of I l 1 O 0, which look alike in many fonts


def held_out_word(word: str) -> bool:
    """Whether this word, in any case, is kept for the held-out split."""
    return word.casefold() in NEVER_TRAIN or held_out_name("word", word, 0.1)


class WordBook:
    """Draws words of one split."""

    def __init__(self, file: Path | None = None) -> None:
        self._file = file or Path(__file__).parent / "words.txt"

    @cached_property
    def dictionary(self) -> dict[Split, list[str]]:
        """The committed word list, by split."""
        lines = self._file.read_text(encoding="utf-8").splitlines()
        words = [w for w in lines if w and not w.startswith("#") and not set(w) <= _SAME_IN_BOTH_CASES]
        held = [w for w in words if held_out_word(w)]
        return {"train": [w for w in words if not held_out_word(w)], "heldout": held}

    @cached_property
    def whole_pieces(self) -> frozenset[str]:
        """Texts that the tokenizer would not spell out; they are kept out of quoted words."""
        return frozenset(whole_pieces())

    def phrase(self, rng: Random, split: Split, count: int, longest: int = LONGEST, capitals: bool = False) -> str:
        """`count` words in one manner of capitals, joined by spaces."""
        case = 0 if capitals else rng.choices((0, 1, 2, 3), (35, 25, 32, 8))[0]
        while True:
            words = [self.word(rng, split, longest) for _ in range(count)]
            text = " ".join(_cased(w, case, first=i == 0) for i, w in enumerate(words))
            if self.spelled(text):
                return text

    def spelled(self, text: str) -> bool:
        """Whether the tokenizer spells every word of this quoted text."""
        pieces = text.split(" ")
        return pieces[0] not in self.whole_pieces and not any(f" {p}" in self.whole_pieces for p in pieces[1:])

    def word(self, rng: Random, split: Split, longest: int = LONGEST) -> str:
        """One word: in the dictionary, invented, or a code."""
        kind = rng.random()
        while True:
            if kind < 0.46:
                word = rng.choice(self.dictionary[split])
            elif kind < 0.92:
                word = self.invented(rng)
            else:
                word = self.code(rng)
            if len(word) <= longest and held_out_word(word) == (split == "heldout"):
                return word

    def invented(self, rng: Random) -> str:
        """A pronounceable word, mostly of at most eight letters, that carries signs of its case."""
        limit = 8 if rng.random() < 0.9 else LONGEST
        while True:
            parts = []
            for _ in range(rng.choices((1, 2, 3), (2, 6, 2))[0]):
                parts.append(rng.choice(_ONSETS) if rng.random() < 0.9 else "")
                parts.append(rng.choice(_VOWELS))
            if rng.random() < 0.6:
                parts.append(rng.choice(_CODAS))
            word = "".join(parts)
            if 3 <= len(word) <= limit and not set(word) <= _SAME_IN_BOTH_CASES:
                return word

    def code(self, rng: Random) -> str:
        """Capitals and digits in no order, as in the names of makes and models."""
        while True:
            word = "".join(
                rng.choice(_CODE_SIGNS[: 24 if rng.random() < 0.7 else 32]) for _ in range(rng.randint(2, 6))
            )
            if not set(word.lower()) <= _SAME_IN_BOTH_CASES:
                return word


def _cased(word: str, case: int, first: bool) -> str:
    if word.isupper():
        return word
    if case == 0:
        return word.upper()
    if case == 1 or (case == 3 and not first):
        return word
    return capital(word)
