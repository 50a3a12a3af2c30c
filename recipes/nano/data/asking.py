"""Draws a question of a kind in one of its phrasings, dressed and typed carelessly now and then.

Owns no sentence: those are in `phrases`, `more_phrases`, `scene_phrases` and `beyond`.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random

from recipes.nano.data.beyond import BEYOND_HELD_OUT, beyond, dressed
from recipes.nano.data.labels import QA, Split, small
from recipes.nano.data.more_phrases import extra
from recipes.nano.data.phrases import PLACES, QUESTIONS, TOPICS, bare, quoted
from recipes.nano.data.scene_phrases import ASKED, HONEST, say
from recipes.nano.data.turns import held_out_turns


def ask(rng: Random, split: Split, kind: str, **blanks: str) -> str:
    """A question of this kind; now and then typed carelessly."""
    asked = QUESTIONS[kind]
    unseen = split == "heldout" and rng.random() < 0.35
    if unseen and kind == "outside":
        return rng.choice(BEYOND_HELD_OUT)
    side = 1 if split == "heldout" else 0
    if kind == "outside":
        blanks = {"place": rng.choice(PLACES[side]), "topic": rng.choice(TOPICS[side])}
    template = rng.choice(asked.heldout if unseen else (*asked.train, *extra(kind)))
    question = template.format(**blanks)
    if kind == "outside" and not unseen and rng.random() < 0.7:
        question = beyond(rng)
    if not unseen and rng.random() < 0.1:
        dress = dressed(rng, question)
        question = question if bare(dress) in _held_out() else dress
    if "'" not in template and rng.random() < 0.1:
        question = small(question) if rng.random() < 0.6 else question
        question = question[:-1] if question[-1] in ".?" and rng.random() < 0.6 else question
    return question


@lru_cache(maxsize=1)
def _held_out() -> frozenset[str]:
    """Phrasings, of second questions too, that training must not reach by putting words around another one."""
    return frozenset(
        map(bare, (*(t for asked in QUESTIONS.values() for t in asked.heldout), *held_out_turns(), *BEYOND_HELD_OUT))
    )


def ask_scene(rng: Random, split: Split, kind: str, **blanks: str) -> str:
    """A question of this kind about a scene; now and then typed carelessly."""
    train, heldout = ASKED[kind]
    unseen = split == "heldout" and rng.random() < 0.35
    question = (heldout if unseen else rng.choice(train)).format(**blanks)
    if not unseen and rng.random() < 0.1:
        dress = dressed(rng, question)
        question = question if bare(dress) in held_out_questions() else dress
    if rng.random() < 0.15:
        question = small(question) if rng.random() < 0.6 else question
        question = question[:-1] if rng.random() < 0.6 else question
    return question


@lru_cache(maxsize=1)
def held_out_questions() -> frozenset[str]:
    """Phrasings that are asked on the held-out split only, without case and punctuation."""
    return frozenset(bare(heldout) for _, heldout in ASKED.values())


def title_question(rng: Random, split: Split, title: str) -> QA:
    """The title of a slide or a chart."""
    return QA(ask_scene(rng, split, "title"), say("title", text=quoted(title)), "title", quoted(title))


def honest(rng: Random, split: Split, looks: str) -> list[QA]:
    """What is said of a picture that is beyond the model."""
    said = HONEST.format(looks)
    made = [QA(ask(rng, split, "caption"), said, "nothing", f"only describe simple pictures|{looks}") for _ in "123"]
    made.append(QA(ask_scene(rng, split, "screen"), said, "nothing", f"only describe simple pictures|{looks}"))
    return made
