"""Held-out evaluation of an exported checkpoint: `python -m recipes.evaluate runs/first/export --out runs/first`.

Owns the choice of held-out pictures and the report's files. Does not know how answers are scored or decoded.
Held out are words, fonts, combinations of colours, phrasings and speakers.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from recipes.data import QA, Stage, render_sample
from recipes.data.studio import studio
from recipes.decode import Answerer, Asked
from recipes.score import Blind, Line, lines, markdown, score
from recipes.senses import listen, shown_wrong, watch
from recipes.speech.espeak import MissingSpeechEngine
from vita.checkpoint.open import open_checkpoint
from vita.options import SCHEMES

SEED = 2024
SHOWN = 40  # wrong answers kept for reading
TITLES = {
    "mix": "Held-out pictures",
    "tiles": "Held-out wide and tall pictures, cut into tiles",
    "sounds": "Held-out voices and sounds",
    "clips": "Held-out clips",
}


@dataclass(frozen=True)
class Part:
    """The result on one kind of held-out data."""

    name: str  # of TITLES
    rows: list[Line]
    wrong: list[tuple[str, str, str]]  # question, answer, truth
    seconds: float


def draw(stage: Stage, count: int) -> tuple[list[np.ndarray], list[QA], list[Asked]]:
    """Held-out pictures, and every question about them."""
    pictures: list[np.ndarray] = []
    questions: list[QA] = []
    asked: list[Asked] = []
    for index in range(count):
        sample = render_sample(index, "heldout", stage, SEED)
        here = None
        if sample.picture is not None:
            here = len(pictures)
            pictures.append(sample.picture)
        questions += sample.qa
        asked += [Asked(qa.question, here, before_of(qa)) for qa in sample.qa]
    return pictures, questions, asked


def before_of(qa: QA) -> tuple[tuple[str, str], ...]:
    """The turn before, not answered yet."""
    return () if qa.after is None else ((qa.after.question, ""),)


def with_own_answers(answerer: Answerer, asked: Sequence[Asked], seen: Sequence[Tensor]) -> list[Asked]:
    """The same, each first turn answered by the model itself, right or wrong, as in a conversation."""
    second = [k for k, one in enumerate(asked) if one.before]
    firsts = [Asked(asked[k].before[0][0], asked[k].picture) for k in second]
    said = dict(zip(second, answerer.answer(firsts, seen), strict=True)) if firsts else {}
    return [replace(one, before=((one.before[0][0], said[k]),)) if k in said else one for k, one in enumerate(asked)]


def training_questions(stage: Stage, count: int) -> list[QA]:
    """What the blind baseline may know."""
    return [qa for index in range(count) for qa in render_sample(index, "train", stage, SEED).qa]


def evaluate(answerer: Answerer, stage: Stage, count: int) -> Part:
    """Asks everything about `count` held-out pictures of a stage."""
    start = time.monotonic()
    pictures, questions, asked = draw(stage, count)
    seen = answerer.see(pictures)
    answers = answerer.answer(with_own_answers(answerer, asked, seen), seen)
    scored = score(questions, answers, Blind(training_questions(stage, 2 * count)))
    wrong = [
        (qa.question, answer, qa.answer)
        for qa, answer, points in zip(questions, answers, scored, strict=True)
        if points.right < points.of
    ]
    return Part(stage, lines(scored), shown_wrong(wrong, SHOWN), time.monotonic() - start)


def evaluate_sounds(answerer: Answerer, pictures: int, sounds: int) -> Part:
    """Hearing: spoken questions about `pictures` samples, and so many sentences and noises."""
    start = time.monotonic()
    rows, wrong = listen(answerer, SEED, pictures, sounds)
    return Part("sounds", rows, shown_wrong(wrong, SHOWN), time.monotonic() - start)


def evaluate_clips(answerer: Answerer, count: int) -> Part:
    """Everything about `count` clips."""
    start = time.monotonic()
    rows, wrong = watch(answerer, SEED, count)
    return Part("clips", rows, shown_wrong(wrong, SHOWN), time.monotonic() - start)


def describe(answerer: Answerer, files: Sequence[Path]) -> list[tuple[str, str, str]]:
    """What is said about pictures on disk: file, question, answer."""
    questions = ("Describe this images.", "What does the logo say?", "What color is the text?", "Who are you?")
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    asked = [Asked(question, k) for k in range(len(files)) for question in questions]
    answers = answerer.answer(asked, answerer.see(pictures)) if asked else []
    return [(files[a.picture or 0].name, a.question, b) for a, b in zip(asked, answers, strict=True)]


def report(parts: Sequence[Part], described: Sequence[tuple[str, str, str]]) -> str:
    """The whole report as Markdown."""
    text = "\n".join(markdown(TITLES[part.name], part.rows) for part in parts)
    if described:
        text += "\n### Pictures of ours\n\n" + "".join(f"- {f}: {q} *{a}*\n" for f, q, a in described)
    for part in parts:
        text += f"\n### Some wrong answers ({part.name})\n\n"
        text += "".join(f"- {q} *{a}* (truth: {t})\n" for q, a, t in part.wrong)
    return text


def as_json(parts: Sequence[Part], described: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "parts": {
            part.name: {
                "seconds": round(part.seconds, 1),
                "rows": [{**asdict(row), "share": row.share, "interval": row.interval} for row in part.rows],
            }
            for part in parts
        },
        "described": [list(line) for line in described],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="exported folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for eval.md and eval.json")
    parser.add_argument("--pictures", type=int, default=260, help="held-out pictures of the mix")
    parser.add_argument("--wide", type=int, default=50, help="held-out pictures to be tiled")
    parser.add_argument("--spoken", type=int, default=70, help="held-out pictures asked about aloud")
    parser.add_argument("--sounds", type=int, default=100, help="held-out sentences to repeat, and sounds to ignore")
    parser.add_argument("--clips", type=int, default=60, help="held-out clips")
    parser.add_argument("--describe", type=Path, nargs="*", default=[], help="pictures to describe")
    parser.add_argument("--quantize", choices=SCHEMES, help="answer with rounded weights")
    options = parser.parse_args()
    if advice := studio().letters.book.advise():
        sys.exit(f"vita: the held-out pictures need the recipe's fonts: {advice}")
    torch.set_grad_enabled(False)
    answerer = Answerer.load(options.checkpoint, options.quantize)
    wanted: list[tuple[Stage, int]] = [("mix", options.pictures), ("tiles", options.wide)]
    parts = [evaluate(answerer, stage, count) for stage, count in wanted if count]
    if options.spoken and "audio" not in open_checkpoint(options.checkpoint, offline=True).untrained:
        try:
            parts.append(evaluate_sounds(answerer, options.spoken, options.sounds))
        except MissingSpeechEngine as missing:
            print(f"SKIPPED: hearing. {missing}")
    if options.clips:
        parts.append(evaluate_clips(answerer, options.clips))
    described = describe(answerer, options.describe)
    options.out.mkdir(parents=True, exist_ok=True)
    text = report(parts, described)
    (options.out / "eval.md").write_text(text, encoding="utf-8")
    (options.out / "eval.json").write_text(json.dumps(as_json(parts, described), indent=1) + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
