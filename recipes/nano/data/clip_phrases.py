"""What is asked about clips, and the one form of each answer; held-out phrasings last.

Kept apart from `phrases` because the tokenizer's whole pieces are made from those: a new word there would move every
id of the shipped vocabulary. Words that only clips use are spelled.
"""

from __future__ import annotations

from random import Random

from recipes.nano.data.labels import Split
from recipes.nano.data.phrases import Asked


def _asked(train: str, heldout: str) -> Asked:
    return Asked(tuple(train.strip().split("|")), tuple(heldout.strip().split("|")))


CLIP_QUESTIONS: dict[str, Asked] = {
    "clip": _asked(
        "Describe the video.|What happens in the video?|What happens?|Tell me what you see.|What does the video show?"
        "|Describe this video.",
        "What do you see in the video?",
    ),
    "what_moves": _asked(
        "What moves?|Which shape moves?|What is moving?|Which thing moves in the video?|Tell me what moves.",
        "Which shape is moving?",
    ),
    "direction": _asked(
        "Where does the {thing} move?|Which way does the {thing} move?|In which direction does the {thing} move?"
        "|Where does the {thing} go?|Where is the {thing} moving?",
        "Which way does the {thing} go?",
    ),
    "what_changes": _asked(
        "What changes?|Which shape changes its color?|What changes its color?|What is different at the end?",
        "Which shape gets another color?",
    ),
    "from_to": _asked(
        "How does the color of the {shape} change?|Which colors does the {shape} have?|What color does the {shape} get?"
        "|What happens to the {shape}?",
        "Which color does the {shape} get?",
    ),
    "first_word": _asked(
        "Which word comes first?|What is the first word?|Which word do you see first?|What is written first?",
        "What does it say first?",
    ),
    "last_word": _asked(
        "Which word comes last?|What is the last word?|Which word do you see last?|What is written at the end?",
        "What does it say at the end?",
    ),
    "order": _asked(
        "Which shape comes first?|What appears first?|Which shape do you see first?|What is there first?",
        "Which thing comes first?",
    ),
    "latest": _asked(
        "Which shape comes last?|What appears last?|Which shape do you see last?|What comes at the end?",
        "Which thing comes last?",
    ),
    "count_end": _asked(
        "How many shapes are there at the end?|How many shapes do you see at the end?|How many shapes are there?",
        "How many things are there at the end?",
    ),
}
CLIP_ANSWERS = {
    "moves": "First the {thing} is {start}, then {end}: the {thing} moves {way}.",
    "changes": "The {shape} changes from {one} to {other}.",
    "words": "First it says {one}, then {other}.",
    "appear": "First there is {one}, last {other}.",
    "first_word": "The first word is {text}.",
    "last_word": "The last word is {text}.",
    "first": "First there is {a_thing}.",
    "last": "Last there is {a_thing}.",
}


def ask_clip(rng: Random, split: Split, kind: str, **blanks: str) -> str:
    """A question about a clip."""
    asked = CLIP_QUESTIONS[kind]
    pool = asked.heldout if split == "heldout" and rng.random() < 0.35 else asked.train
    return rng.choice(pool).format(**blanks)
