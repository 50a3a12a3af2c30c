"""Second questions that only make sense after the first: "What color is it?".

Owns their phrasings and how they hang on the question before. Does not know what pictures show: scenes say what is
true. Kept apart from `phrases` for the tokenizer's sake, like `clip_phrases`.
"""

from __future__ import annotations

import re
from random import Random

from recipes.nano.data.labels import QA, Split

TURN = "turn_"  # begins the kind under which they are counted
# For training, then after the bar: held out.
_ASKED = {
    "color": "What color is it?/Which color is it?/And the color?/What is its color?/Which color does it have?/And "
    "what color is it?/Tell me its color./In which color?|What color does it have?",
    "place": "Where is it?/And where is it?/Where do you see it?/Tell me where it is./In which part of the image is "
    "it?/Where can I see it?/Where in the picture is it?|In which part of the picture is it?",
    "size": "How big is it?/How large is it?/And how big is it?/Is it small, medium or large?|What size is it?",
    "bold": "Is it bold?/And is it bold?/Are the letters bold?|Is it written in bold?",
    "capitals": "Is it in capitals?/Is it all in capital letters?/Are these capital letters?|Is it in capital letters?",
    "count_letters": "How many letters does it have?/How many letters are there?/And how many letters?/How long is it?|"
    "How many letters has it?",
    "first_letter": "What is its first letter?/With which letter does it start?/And the first letter?|What letter does "
    "it start with?",
    "last_letter": "What is its last letter?/With which letter does it end?/And the last letter?|What letter does it "
    "end with?",
    "background": "And the background?/What is behind it?/What color is behind it?|And what color is the background?",
    "shape": "What shape is it?/Which shape is it?/And the shape?/What is it?/What kind of shape is it?|Which shape "
    "does it have?",
    "value": "What is its value?/How much is it?/What value does it have?/And its value?/Tell me its value.|Which "
    "value does it have?",
    "smallest": "And the smallest?/And which one is the smallest?/Which one is the smallest?|And which bar is the "
    "smallest?",
    "largest": "And the largest?/And which one is the largest?/Which one is the largest?|And which bar is the largest?",
}
_OF_WORDS = {
    "text_color": "color", "place": "place", "size": "size", "bold": "bold", "capitals": "capitals", "count_letters":
    "count_letters", "first_letter": "first_letter", "last_letter": "last_letter", "background": "background",
}  # fmt: skip


def follow(rng: Random, split: Split, asked: str, before: QA, answer: str, key: str) -> QA:
    """A question of the table above, asked after `before`."""
    train, held = _ASKED[asked].split("|")
    pool = [held] if split == "heldout" and rng.random() < 0.35 else train.split("/")
    return QA(rng.choice(pool), answer, TURN + asked, key, after=before)


def turn_phrasings() -> list[str]:
    """Every phrasing of a second question."""
    return [t for text in _ASKED.values() for t in re.split(r"[/|]", text)]


def held_out_turns() -> list[str]:
    """Phrasings that training never asks."""
    return [text.partition("|")[2] for text in _ASKED.values()]


def turn_kinds() -> tuple[str, ...]:
    """Every kind of second question."""
    return tuple(TURN + asked for asked in _ASKED)


def word_turns(rng: Random, split: Split, qa: list[QA]) -> list[QA]:
    """One second question about a text that the first one read, or told the colour of."""
    firsts = [q for q in qa if q.kind.startswith("read") or q.kind in ("text_color", "place", "size")]
    seconds = [q for q in qa if q.kind in _OF_WORDS]
    pairs = [(a, b) for a in firsts for b in seconds if a.kind != b.kind]
    if not pairs:
        return []
    before, told = rng.choice(pairs)
    return [follow(rng, split, _OF_WORDS[told.kind], before, told.answer, told.key)]


def chart_turns(rng: Random, split: Split, before: list[QA], told: dict[str, dict[str, tuple[str, str]]]) -> list[QA]:
    """One second question about a bar that the first one named.

    Args:
        rng: of the choice.
        split: whose phrasings.
        before: questions that name a bar.
        told: for each of their keys, what may be asked next, with answer and key.
    """
    choices = [(q, asked, *said) for q in before for asked, said in told.get(q.key, {}).items()]
    if not choices:
        return []
    first, asked, answer, key = rng.choice(choices)
    return [follow(rng, split, asked, first, answer, key)]
