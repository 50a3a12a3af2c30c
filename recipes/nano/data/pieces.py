"""Every text that is one token of the vocabulary, and the words that the audio encoder tells apart.

Both are made from the recipe's sentences; a word added to one of them adds a piece.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from recipes.nano.data.clip_phrases import CLIP_ANSWERS, CLIP_QUESTIONS
from recipes.nano.data.colors import SHADES
from recipes.nano.data.labels import COLORS, POSITIONS, SHAPES
from recipes.nano.data.more_phrases import MORE
from recipes.nano.data.phrases import ANSWERS, FILLERS, QUESTIONS, topics
from recipes.nano.data.scene_phrases import scene_pieces
from recipes.nano.data.shapes import plural
from recipes.nano.data.turns import turn_phrasings

_LOOKS_BEGIN = ("the", "an", "first")
_PUNCTUATION = (" '", "'.", "',", "'?", "':", ".\n", "?\n", "!", "system", "user", "assistant")


@lru_cache(maxsize=1)
def whole_pieces() -> tuple[str, ...]:
    """Every text that is one token, marks and system texts apart; inside a sentence it starts with a space."""
    names = [*COLORS, *SHADES, *SHAPES, *(plural(s) for s in SHAPES), *POSITIONS, *FILLERS, *topics()]
    kinds = (*QUESTIONS.values(), *CLIP_QUESTIONS.values())
    asked = [t for kind in kinds for t in (*kind.train, *kind.heldout)]
    asked += [*turn_phrasings(), *(t for more in MORE.values() for t in more.split("|"))]
    pieces: set[str] = {*_PUNCTUATION, *_LOOKS_BEGIN}
    for text in (*asked, *ANSWERS.values(), *CLIP_ANSWERS.values()):
        bare = re.sub(r"\{\w+\}", "0", text)
        pieces.update(p for p in re.findall(r" [A-Za-z]+", bare) if p.strip() not in ("I", "A"))
        pieces.update(re.findall(r"^[A-Za-z]+", bare))
    pieces.update(scene_pieces())
    for text in asked:  # typed carelessly
        pieces.update(w.lower() for w in re.findall(r"^[A-Za-z]+", text))
    pieces.update(" " + word for name in names for word in re.findall("[A-Za-z]+", name))
    for file in ("everyday.txt", "scene_words.txt"):
        lines = (Path(__file__).parent / file).read_text(encoding="utf-8").splitlines()[1:]
        pieces.update(" " + word for word in " ".join(lines).split())
    pieces.update((" I", " VITA", "Yes", "No", "There", "The", "Please", "please"))
    return tuple(sorted(p for p in pieces if len(p) > 1))


@lru_cache(maxsize=1)
def heard_words() -> tuple[str, ...]:
    """Every word that can be heard as one, in small letters: what the audio encoder learns to tell apart."""
    return words_of_pieces(whole_pieces())


def words_of_pieces(pieces: Iterable[str]) -> tuple[str, ...]:
    """The words among some pieces, as `heard_words` has them."""
    return tuple(sorted({p.strip().lower() for p in pieces if len(p) > 1 and p.strip().isalpha()} | {"a"}))
