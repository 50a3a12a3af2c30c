"""Held-out sounds and clips: what the card says about hearing and video.

Owns the choice of sounds (speakers never trained on) and clips, and their rows of the table. Does not know how
answers are made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from random import Random

import numpy as np

from recipes.nano.data import QA, render_sample
from recipes.nano.data.clips import render_clip
from recipes.nano.decode import Answerer, Asked
from recipes.nano.look import visible
from recipes.nano.score import Blind, Line, Scored, points, score
from recipes.nano.speech.rows import HEARD, NO_ANSWER, SPOKEN_MARK, repeated
from recipes.nano.speech.sample import Utterance, render_utterance, say
from recipes.nano.speech.texts import REPEAT_HELD_OUT, sentence_to_repeat, spoken

FURTHER = 8  # points that spoken questions may stand below typed ones
WORDS_RIGHT, IGNORED, TAKEN = 85, 95, 97  # marks in per cent
SPOKEN_OF_ONE = 3  # spoken questions about one picture
CLIP_ROWS: tuple[tuple[str, int | None, tuple[str, ...]], ...] = (
    ("what moves", 80, ("what_moves",)),
    ("direction", 80, ("direction",)),
    ("what changes its colour, from which to which", None, ("what_changes", "from_to")),
    ("words that come and go", None, ("first_word", "last_word")),
    ("order of shapes, how many at the end", None, ("order", "latest", "count_end")),
    ("clip's description", None, ("clip_caption",)),
)


Wrong = list[tuple[str, str, str]]  # question, answer, truth


def listen(answerer: Answerer, seed: int, pictures: int, sounds: int) -> Iterator[tuple[list[Line], Wrong, int]]:
    """Spoken questions against the same questions typed, transcription, and what should be ignored.

    Yields the rows, the wrong answers and the number of samples of each of these kinds.

    Args:
        answerer: of the checkpoint.
        seed: of everything drawn.
        pictures: samples whose questions are asked aloud.
        sounds: sentences to repeat, and sounds to ignore.
    """
    yield *_questions(answerer, seed, pictures), pictures
    repeated, misheard = _repeated(answerer, seed, sounds)
    yield [repeated], misheard, sounds
    yield [_ignored(answerer, seed, sounds)], [], sounds


def _questions(answerer: Answerer, seed: int, count: int) -> tuple[list[Line], Wrong]:
    shown: list[np.ndarray] = []
    typed: list[Asked] = []
    aloud: list[Asked] = []
    voices: list[np.ndarray] = []
    questions: list[QA] = []
    for index in range(count):
        rng = Random(f"{seed}/listen/{index}")
        sample = render_sample(index, "heldout", "mix", seed + 1)
        picture = None
        if sample.picture is not None:
            picture = len(shown)
            shown.append(sample.picture)
        fit = [qa for qa in sample.qa if spoken(qa)]
        for qa in rng.sample(fit, min(SPOKEN_OF_ONE, len(fit))):
            typed.append(Asked(qa.question, picture))
            aloud.append(Asked("", picture, sound=len(voices)))
            voices.append(say(qa.question, "heldout", rng).samples)
            questions.append(qa)
    seen, heard = answerer.see(shown), answerer.hear(voices)
    said = answerer.answer(aloud, seen, heard)
    by_type = [points(qa, answer) for qa, answer in zip(questions, answerer.answer(typed, seen), strict=True)]
    by_ear = [points(qa, reply(answer)) for qa, answer in zip(questions, said, strict=True)]
    of = sum(total for _, total in by_type)
    right_typed, right_heard = (sum(won for won, _ in scored) for scored in (by_type, by_ear))
    taken = sum(not answer.startswith(NO_ANSWER) for answer in said)
    typed_share = 100 * right_typed / max(1, of)
    exact = sum(reply(a) == visible(qa.answer) for a, qa in zip(said, questions, strict=True))
    wrong = [
        (qa.question, a, qa.answer) for qa, a, (won, all_) in zip(questions, said, by_ear, strict=True) if won < all_
    ]
    n = len(questions)
    return [
        Line(f"spoken questions (the same typed: {typed_share:.1f} %)", round(typed_share - FURTHER), right_heard, of,
             exact, n, None),
        Line("spoken questions not taken for noise", TAKEN, taken, n, taken, n, None),
    ], wrong  # fmt: skip


def _repeated(answerer: Answerer, seed: int, count: int) -> tuple[Line, Wrong]:
    """Words written down right: one minus the word error rate, so insertions count too."""
    truths, voices = [], []
    for index in range(count):
        rng = Random(f"{seed}/repeat/{index}")
        truths.append(sentence_to_repeat(rng))
        voices.append(say(truths[-1], "heldout", rng, "repeat").samples)
    asked = [Asked(REPEAT_HELD_OUT[0], None, sound=k) for k in range(count)]
    answers = answerer.answer(asked, [], answerer.hear(voices))
    said = [visible(a).removeprefix(SPOKEN_MARK).removeprefix(HEARD) for a in answers]
    errors = sum(word_errors(t, a) for t, a in zip(truths, said, strict=True))
    words = sum(len(words_of(t)) for t in truths)
    exact = sum(HEARD + a == repeated(t) for t, a in zip(truths, said, strict=True))
    wrong = [("(to repeat)", a, t) for t, a in zip(truths, said, strict=True) if words_of(a) != words_of(t)]
    return Line(
        "transcription: 100 % less the word error", WORDS_RIGHT, max(0, words - errors), words, exact, count, None
    ), wrong


def _ignored(answerer: Answerer, seed: int, count: int) -> Line:
    """Noise, music, babble and talk between others, with and without a picture."""
    sounds: list[Utterance] = []
    index = 0
    while len(sounds) < count:
        made = render_utterance(index, "heldout", seed)
        sounds += [made] if made.kind != "repeat" else []
        index += 1
    pictures = [
        s.picture for k in range(count) if (s := render_sample(k, "heldout", "mix", seed + 2)).picture is not None
    ]
    shown = len(pictures)  # none, if only a few samples were drawn and all of them have no picture
    asked = [Asked("", k % shown if k % 2 and shown else None, sound=k) for k in range(count)]
    said = answerer.answer(
        asked, answerer.see([p for p in pictures if p is not None]), answerer.hear([s.samples for s in sounds])
    )
    ignored = sum(a.startswith(NO_ANSWER) for a in said)
    return Line("noise, music, babble, talk not meant for it: ignored", IGNORED, ignored, count, ignored, count, None)


def watch(answerer: Answerer, seed: int, chunks: Sequence[range]) -> Iterator[tuple[list[Line], Wrong, int]]:
    """Every question about held-out clips; yields the rows, wrong answers and number of clips so far, after each chunk.

    Args:
        answerer: of the checkpoint.
        seed: of everything drawn.
        chunks: indices of the clips.
    """
    count = sum(len(chunk) for chunk in chunks)
    blind = Blind([qa for index in range(2 * count) for qa in render_clip(index, "train", seed).qa])
    scored: list[Scored] = []
    wrong: Wrong = []
    for chunk in chunks:
        clips = [render_clip(index, "heldout", seed) for index in chunk]
        seen = answerer.see([clip.frames for clip in clips])
        questions = [qa for clip in clips for qa in clip.qa]
        asked = [Asked(qa.question, k, video=True) for k, clip in enumerate(clips) for qa in clip.qa]
        answers = answerer.answer(asked, seen)
        made = score(questions, answers, blind)
        scored += made
        wrong += [(q.question, a, q.answer) for q, a, s in zip(questions, answers, made, strict=True) if s.right < s.of]
        yield _clip_rows(scored), wrong, chunk.stop


def _clip_rows(scored: Sequence[Scored]) -> list[Line]:
    rows = []
    for name, mark, kinds in CLIP_ROWS:
        mine = [s for s in scored if s.kind in kinds]
        if mine:
            rows.append(Line(name, mark, sum(s.right for s in mine), sum(s.of for s in mine),
                             sum(s.exact for s in mine), len(mine), sum(s.blind for s in mine)))  # fmt: skip
    return rows


def reply(said: str) -> str:
    """The visible answer to a spoken question without its mark. Version 4 stated the question again on a line before
    it, which is cut off too."""
    heard, line_ends, answered = visible(said).removeprefix(SPOKEN_MARK).partition("\n")
    return visible(answered if line_ends else heard)


def words_of(text: str) -> list[str]:
    """Lower-case words without punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


def word_errors(truth: str, said: str) -> int:
    """Least number of words to change, add or drop."""
    a, b = words_of(truth), words_of(said)
    before = list(range(len(b) + 1))
    for i, word in enumerate(a, start=1):
        now = [i]
        for j, other in enumerate(b, start=1):
            now.append(min(before[j] + 1, now[j - 1] + 1, before[j - 1] + (word != other)))
        before = now
    return before[-1]


def shown_wrong(wrong: Sequence[tuple[str, str, str]], most: int) -> list[tuple[str, str, str]]:
    """A spread of them."""
    return list(wrong[:: max(1, len(wrong) // most)])
