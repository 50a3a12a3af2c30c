"""Held-out evaluation of an exported checkpoint: `python -m recipes.nano.evaluate runs/first/export --out runs/first`.

Held out are words, fonts, combinations of colours, phrasings and speakers. `vita eval` runs this module. Each table is
printed and the report is written as soon as a part is done; an interrupted run keeps what was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from recipes.nano.data import QA, Stage, render_sample
from recipes.nano.data.fonts import install_hint
from recipes.nano.data.natural import varied
from recipes.nano.data.studio import studio
from recipes.nano.decode import Answerer, Asked
from recipes.nano.look import visible
from recipes.nano.progress import SECONDS, Progress, minutes
from recipes.nano.score import Blind, Line, Scored, lines, markdown, score
from recipes.nano.senses import listen, shown_wrong, watch
from recipes.nano.speech.espeak import MissingSpeechEngine, espeak
from vita.checkpoint.open import open_checkpoint
from vita.options import SCHEMES

SEED = 2024
SHOWN = 40  # wrong answers kept for reading
CHUNK = 30  # samples drawn and answered at a time
TITLES = {
    "mix": "Held-out pictures",
    "tiles": "Held-out wide and tall pictures, cut into tiles",
    "natural": "Held-out pictures, asked as people type",
    "sounds": "Held-out voices and sounds",
    "clips": "Held-out clips",
}


@dataclass(frozen=True)
class Part:
    """The result on one kind of held-out data.

    Attributes:
        name: of TITLES.
        rows: of the table.
        wrong: question, answer and truth.
        seconds: it took.
        done, of: samples that were asked about, and that there are.
    endless: answers that stopped inside a look, and all of them.
    """

    name: str
    rows: list[Line]
    wrong: list[tuple[str, str, str]]
    seconds: float
    done: int
    of: int
    endless: tuple[int, int] = (0, 0)

    @property
    def title(self) -> str:
        """With the number of samples, if it is not finished."""
        return TITLES[self.name] + (f" (the first {self.done} of {self.of})" if self.done < self.of else "")


def draw(stage: Stage, samples: range, *, natural: bool = False) -> tuple[list[np.ndarray], list[QA], list[Asked]]:
    """Held-out pictures, and every question about them; each in a held-out way of typing, if asked for."""
    pictures: list[np.ndarray] = []
    questions: list[QA] = []
    asked: list[Asked] = []
    for index in samples:
        sample = render_sample(index, "heldout", stage, SEED)
        here = None
        if sample.picture is not None:
            here = len(pictures)
            pictures.append(sample.picture)
        made = varied(Random(f"{SEED}/natural/{index}"), "heldout", sample.qa, 1.0) if natural else sample.qa
        questions += made
        asked += [Asked(qa.question, here, before_of(qa)) for qa in made]
    return pictures, questions, asked


def before_of(qa: QA) -> tuple[tuple[str, str], ...]:
    """The turn before, not answered yet."""
    return () if qa.after is None else ((qa.after.question, ""),)


def with_own_answers(answerer: Answerer, asked: Sequence[Asked], seen: Sequence[Tensor]) -> list[Asked]:
    """The same, each first turn answered by the model itself, right or wrong, as in a conversation."""
    second = [k for k, one in enumerate(asked) if one.before]
    firsts = [Asked(asked[k].before[0][0], asked[k].picture) for k in second]
    answers = answerer.answer(firsts, seen) if firsts else []
    said = {k: visible(answer) for k, answer in zip(second, answers, strict=True)}  # no look is in the history
    return [replace(one, before=((one.before[0][0], said[k]),)) if k in said else one for k, one in enumerate(asked)]


def training_questions(stage: Stage, count: int) -> list[QA]:
    """What the blind baseline may know."""
    return [qa for index in range(count) for qa in render_sample(index, "train", stage, SEED).qa]


def evaluate(answerer: Answerer, stage: Stage, count: int, *, natural: bool = False) -> Iterator[Part]:
    """Ask everything about `count` held-out pictures of a stage; yields the result so far after each chunk."""
    name = "natural" if natural else stage
    start = time.monotonic()
    blind = Blind(training_questions(stage, 2 * count))
    scored: list[Scored] = []
    wrong: list[tuple[str, str, str]] = []
    for chunk in chunks(count):
        pictures, questions, asked = draw(stage, chunk, natural=natural)
        seen = answerer.see(pictures)
        answers = answerer.answer(with_own_answers(answerer, asked, seen), seen)
        made = score(questions, answers, blind)
        scored += made
        wrong += [
            (qa.question, answer, qa.answer)
            for qa, answer, points in zip(questions, answers, made, strict=True)
            if points.right < points.of
        ]
        open_ended = sum(one.endless for one in scored), len(scored)
        seconds = time.monotonic() - start
        yield Part(name, lines(scored), shown_wrong(wrong, SHOWN), seconds, chunk.stop, count, open_ended)


def chunks(count: int) -> list[range]:
    """0 to `count` in ranges of up to CHUNK."""
    return [range(first, min(first + CHUNK, count)) for first in range(0, count, CHUNK)]


def evaluate_sounds(answerer: Answerer, pictures: int, sounds: int) -> Iterator[Part]:
    """Hearing: spoken questions about `pictures` samples, and so many sentences and noises; yields after each kind."""
    start, rows, wrong, done = time.monotonic(), list[Line](), list[tuple[str, str, str]](), 0
    for made, misheard, count in listen(answerer, SEED, pictures, sounds):
        rows, wrong, done = [*rows, *made], [*wrong, *misheard], done + count
        seconds = time.monotonic() - start
        yield Part("sounds", rows, shown_wrong(wrong, SHOWN), seconds, done, pictures + 2 * sounds)


def evaluate_clips(answerer: Answerer, count: int) -> Iterator[Part]:
    """Everything about `count` clips; yields the result so far after each chunk."""
    start = time.monotonic()
    for rows, wrong, done in watch(answerer, SEED, chunks(count)):
        yield Part("clips", rows, shown_wrong(wrong, SHOWN), time.monotonic() - start, done, count)


def describe(answerer: Answerer, files: Sequence[Path]) -> list[tuple[str, str, str]]:
    """What is said about pictures on disk: file, question, answer."""
    questions = ("Describe this images.", "What does the logo say?", "What color is the text?", "Who are you?")
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in files]
    asked = [Asked(question, k) for k in range(len(files)) for question in questions]
    answers = answerer.answer(asked, answerer.see(pictures)) if asked else []
    return [(files[a.picture or 0].name, a.question, b) for a, b in zip(asked, answers, strict=True)]


def report(parts: Sequence[Part], described: Sequence[tuple[str, str, str]], note: str = "") -> str:
    """The whole report as Markdown."""
    text = f"{note}\n\n" if note else ""
    text += "\n".join(markdown(part.title, part.rows) + looks_of(part) for part in parts)
    if described:
        text += "\n### Pictures of ours\n\n" + "".join(f"- {f}: {q} *{a}*\n" for f, q, a in described)
    for part in parts:
        text += f"\n### Some wrong answers ({part.name})\n\n"
        text += "".join(f"- {q} *{a}* (truth: {t})\n" for q, a, t in part.wrong)
    return text


def looks_of(part: Part) -> str:
    """A sentence about looks that never ended, if there are any."""
    stopped, answers = part.endless
    return f"\nLooks that never ended: {stopped} of {answers} answers.\n" if stopped else ""


def as_json(parts: Sequence[Part], described: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "parts": {
            part.name: {
                "seconds": round(part.seconds, 1),
                "samples": [part.done, part.of],
                "endless_looks": list(part.endless),
                "rows": [{**asdict(row), "share": row.share, "interval": row.interval} for row in part.rows],
            }
            for part in parts
        },
        "described": [list(line) for line in described],
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, prog="recipes.nano.evaluate")
    parser.add_argument("checkpoint", type=Path, help="exported folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for eval.md and eval.json")
    parser.add_argument("--pictures", type=int, default=260, help="held-out pictures of the mix")
    parser.add_argument("--wide", type=int, default=50, help="held-out pictures to be tiled")
    parser.add_argument("--natural", type=int, default=60, help="held-out pictures asked about as people type")
    parser.add_argument("--spoken", type=int, default=70, help="held-out pictures asked about aloud")
    parser.add_argument("--sounds", type=int, default=100, help="held-out sentences to repeat, and sounds to ignore")
    parser.add_argument("--clips", type=int, default=60, help="held-out clips")
    parser.add_argument("--describe", type=Path, nargs="*", default=[], help="pictures to describe")
    parser.add_argument("--quantize", choices=SCHEMES, help="answer with rounded weights")
    parser.add_argument("--any-fonts", action="store_true", help="draw with the fonts there are, with a note")
    return parser.parse_args(arguments)


def needs(options: argparse.Namespace, hears: bool) -> tuple[str, str]:
    """What the data is drawn with, and the note of the report if fonts are missing.

    Raises:
        SystemExit: too few fonts, without --any-fonts.
    """
    book = studio().letters.book
    advice, note = book.advise(), ""
    said = f"fonts of 40 families or more ({len(book.families)} found)"
    if advice:
        if not options.any_fonts:
            sys.exit(f"vita: the held-out pictures need the recipe's fonts: {advice}")
        note = (
            f"Drawn with {len(book.families)} font families instead of 40 or more: the rows about words cannot be "
            "compared with the model's card."
        )
        said += f". {note} To install them: {install_hint()}"
    if not (options.spoken and hears):
        return said, note
    try:
        espeak()
    except MissingSpeechEngine as missing:
        options.spoken = options.sounds = 0
        return f"{said}; hearing is left out: {missing}", note
    return f"{said} and eSpeak NG (found)", note


def parts_of(answerer: Answerer, options: argparse.Namespace, hears: bool) -> Iterator[Part]:
    """Every part, each several times while it grows."""
    wanted: list[tuple[Stage, int]] = [("mix", options.pictures), ("tiles", options.wide)]
    for stage, count in wanted:
        yield from evaluate(answerer, stage, count)
    yield from evaluate(answerer, "mix", options.natural, natural=True)
    if options.spoken and hears:
        yield from evaluate_sounds(answerer, options.spoken, options.sounds)
    yield from evaluate_clips(answerer, options.clips)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print each table when its part is done, and keep eval.md and eval.json up to date.

    Raises:
        KeyboardInterrupt: after the table so far has been printed and written.
    """
    options = parse(arguments)
    hears = "audio" not in open_checkpoint(options.checkpoint, offline=True).untrained
    said, note = needs(options, hears)
    audios = options.spoken + 2 * options.sounds if hears else 0
    counts = {
        "mix": options.pictures, "tiles": options.wide, "natural": options.natural, "sounds": audios,
        "clips": options.clips,
    }  # fmt: skip
    seconds = sum(SECONDS[name] * count for name, count in counts.items())
    names = {
        "mix": "images",
        "tiles": "wide images",
        "natural": "images asked about freely",
        "sounds": "audio clips",
        "clips": "videos",
    }
    drawn = ", ".join(f"{count} {names[name]}" for name, count in counts.items() if count)
    print(f"vita: draws and asks about {drawn}: about {minutes(seconds)} on one quiet core", file=sys.stderr)
    print(f"vita: needs {said}", file=sys.stderr, flush=True)
    parts: dict[str, Part] = {}
    options.out.mkdir(parents=True, exist_ok=True)

    def write(described: Sequence[tuple[str, str, str]] = ()) -> None:
        text = report(list(parts.values()), described, note)
        (options.out / "eval.md").write_text(text, encoding="utf-8")
        data = json.dumps(as_json(list(parts.values()), described), indent=1) + "\n"
        (options.out / "eval.json").write_text(data, encoding="utf-8")

    part: Part | None = None
    with torch.inference_mode(), Progress(counts) as progress:
        answerer = Answerer.load(options.checkpoint, options.quantize)
        try:
            for part in parts_of(answerer, options, hears):
                parts[part.name] = part
                progress.show(part.name, TITLES[part.name], part.done)
                if part.done == part.of:
                    write()
                    print(markdown(part.title, part.rows), flush=True)
        except KeyboardInterrupt:
            if part is not None:
                write()
                if part.done < part.of:
                    print(markdown(part.title, part.rows), flush=True)
            raise
        write(describe(answerer, options.describe))
    print(f"written to {options.out / 'eval.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
