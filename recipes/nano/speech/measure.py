"""How well voices that were never trained on are understood: `python -m recipes.nano.speech.measure CHECKPOINT`.

Owns the questions, the voices and the table. Flite's slt, rms and awb were built from recorded speakers; nothing is
trained on them, and no choice is made by them. Beside them eSpeak's held-out speakers. What is judged is what is
visible of an answer.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
import soxr

from recipes.nano.data import QA, Split, render_sample
from recipes.nano.decode import Answerer, Asked
from recipes.nano.score import points, wilson
from recipes.nano.senses import reply, word_errors, words_of
from recipes.nano.speech.bakers import Baker, festival, kokoro, pico
from recipes.nano.speech.flite import MEASURED, TRAINED, Manner, flite
from recipes.nano.speech.people import Recording, people
from recipes.nano.speech.room import RATE
from recipes.nano.speech.rows import HEARD, NO_ANSWER
from recipes.nano.speech.sample import render_utterance, say
from recipes.nano.speech.texts import REPEAT_HELD_OUT, backchannel, sentence_to_repeat, spoken

# The kinds of question, and the marks of Flite's three voices in per cent.
KINDS: dict[str, tuple[frozenset[str], int]] = {
    "colour": (frozenset(("shape_color", "text_color")), 88),
    "shape": (frozenset(("which_shape", "shape_at")), 90),
    "count": (frozenset(("count_all", "count_kind", "count_color")), 90),
    "reading": (frozenset(("read", "read1", "read2")), 85),
}
MOST_WORD_ERRORS = 15  # per cent
LEAST_IGNORED, LEAST_TAKEN = 95, 97
# Fresh pictures both: asked in the words of training, or with held-out words about held-out fonts and words.
PHRASES: dict[Split, str] = {"train": "", "heldout": ", held-out words"}
ESPEAK = "espeak"  # its held-out speakers
Speak = Callable[[str, Random], np.ndarray]
TAUGHT: dict[str, Callable[[], Baker]] = {"festival": lambda: festival, "pico": pico, "kokoro": kokoro}
FLITE = "flite"  # the two of its voices that are trained on
NEW = (*MEASURED, ESPEAK)


@dataclass(frozen=True)
class Row:
    """One figure of one voice; `least` is its mark in per cent."""

    voice: str
    name: str
    right: int
    of: int
    least: int

    def __str__(self) -> str:
        low, high = wilson(self.right, self.of)
        share = 100 * self.right / max(1, self.of)
        met = "met" if share >= self.least else "missed"
        return (
            f"| {self.voice} | {self.name} | {self.right}/{self.of} | {share:.0f} % | "
            f"{100 * low:.0f} to {100 * high:.0f} | {self.least} {met} |"
        )


def voice(name: str) -> Speak:
    """Who speaks: float32 samples at 16 kHz.

    Raises:
        MissingSpeechEngine: a synthesiser is not installed.
        ImportError: the package of one is not.
    """
    if name == ESPEAK:
        return lambda text, rng: say(text, "heldout", rng).samples
    if name in TAUGHT:
        baker = TAUGHT[name]()
        return lambda text, rng: baker([(text, rng)])[0][0]

    def recorded(text: str, rng: Random) -> np.ndarray:
        if name == FLITE:
            said, rate = flite(rng.choice(TRAINED)).speak(text, Manner.drawn(rng))
        else:
            said, rate = flite(name).speak(text)
        return soxr.resample(said, rate, RATE).astype(np.float32)

    return recorded


def right(qa: QA, answer: str) -> bool:
    """Whether what is visible answers the question."""
    won, of = points(qa, reply(answer))
    return won == of


def questions(kind: str, count: int, seed: int, split: Split) -> Iterator[tuple[QA, np.ndarray]]:
    """Questions of a kind about fresh pictures of the split, in its words, one of a picture, with the picture."""
    index, found = 0, 0
    while found < count:
        sample = render_sample(index, split, "mix", seed)
        index += 1
        fit = [qa for qa in sample.qa if qa.kind in KINDS[kind][0] and spoken(qa)]
        if fit and sample.picture is not None:
            found += 1
            yield Random(f"{seed}/{kind}/{index}").choice(fit), sample.picture


def ask(
    answerer: Answerer, speak: Speak, voice: str, count: int, seed: int, split: Split
) -> tuple[list[Row], list[str]]:
    """Rows of one voice, and what was misunderstood."""
    rows, wrong = [], []
    taken = asked_in_all = 0
    for kind, (_, mark) in KINDS.items():
        chosen = list(questions(kind, count, seed, split))
        said = [speak(qa.question, Random(f"{seed}/{voice}/{k}")) for k, (qa, _) in enumerate(chosen)]
        seen = answerer.see([picture for _, picture in chosen])
        answers = answerer.answer([Asked("", k, sound=k) for k in range(len(chosen))], seen, answerer.hear(said))
        won = [right(qa, answer) for (qa, _), answer in zip(chosen, answers, strict=True)]
        rows.append(Row(voice, f"{kind}{PHRASES[split]}", sum(won), len(won), mark))
        taken += sum(not answer.startswith(NO_ANSWER) for answer in answers)
        asked_in_all += len(answers)
        wrong += [
            f"{voice}: {qa.question!r} -> {answer!r} ({qa.answer!r})"
            for (qa, _), answer, ok in zip(chosen, answers, won, strict=True) if not ok
        ]  # fmt: skip
    rows.append(Row(voice, f"questions not taken for noise{PHRASES[split]}", taken, asked_in_all, LEAST_TAKEN))
    return rows, wrong


def written(answerer: Answerer, speak: Speak, voice: str, count: int, seed: int) -> Row:
    """Words written down right."""
    truths = [sentence_to_repeat(Random(f"{seed}/write/{k}")) for k in range(count)]
    said = _write(answerer, [speak(text, Random(f"{seed}/{voice}/write/{k}")) for k, text in enumerate(truths)])
    return _words_right(voice, "words written down right", list(zip(truths, said, strict=True)))


def _write(answerer: Answerer, sounds: Sequence[np.ndarray]) -> list[str]:
    """What is answered where the model is asked to write down what it hears."""
    asked = [Asked(REPEAT_HELD_OUT[0], None, sound=k) for k in range(len(sounds))]
    return answerer.answer(asked, [], answerer.hear(sounds))


def _words_right(voice: str, name: str, pairs: Sequence[tuple[str, str]]) -> Row:
    """Words of truths and answers: those of the truths less the errors, insertions too."""
    words = sum(len(words_of(truth)) for truth, _ in pairs)
    errors = sum(word_errors(truth, reply(answer).removeprefix(HEARD)) for truth, answer in pairs)
    return Row(voice, name, max(0, words - errors), words, 100 - MOST_WORD_ERRORS)


def written_by_people(answerer: Answerer, voice: str, recordings: Sequence[Recording]) -> list[Row]:
    """Words of theirs that are written down right, where the model was taught to write all of them; and all that they
    say that is not taken for noise."""
    said = _write(answerer, [one.samples for one in recordings])
    known = [(one.text, answer) for one, answer in zip(recordings, said, strict=True) if one.known]
    taken = sum(not answer.startswith(NO_ANSWER) for answer in said)
    return [
        _words_right(voice, f"words written down right ({len(known)} recordings)", known),
        Row(voice, "speech not taken for noise", taken, len(said), LEAST_TAKEN),
    ]


def listens(answerer: Answerer, speak: Speak, voice: str, count: int, seed: int) -> Row:
    """Held-out backchannels that get no answer."""
    rngs = [Random(f"{seed}/{voice}/listen/{k}") for k in range(count)]
    heard = answerer.hear([speak(backchannel(rng, "heldout"), rng) for rng in rngs])
    return _ignored(answerer, heard, voice, "backchannels ignored")


def noise(answerer: Answerer, count: int, seed: int) -> Row:
    """Noise, music, babble and sounds of a body that get no answer."""
    made = (render_utterance(k, "heldout", seed) for k in itertools.count())
    sounds = (one.samples for one in made if one.kind not in ("repeat", "others", "backchannel"))
    return _ignored(answerer, answerer.hear(list(itertools.islice(sounds, count))), "none", "noise ignored")


def _ignored(answerer: Answerer, heard: Sequence, voice: str, name: str) -> Row:
    said = answerer.answer([Asked("", None, sound=k) for k in range(len(heard))], [], heard)
    return Row(voice, name, sum(a.startswith(NO_ANSWER) for a in said), len(said), LEAST_IGNORED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--count", type=int, default=20, help="questions of each kind, for each voice")
    parser.add_argument("--voices", nargs="+", default=list(NEW), choices=(*NEW, FLITE, *TAUGHT))
    parser.add_argument("--words", nargs="+", default=list(PHRASES), choices=tuple(PHRASES), help="of the questions")
    parser.add_argument("--seed", type=int, default=4901, help="of pictures and questions")
    parser.add_argument("--wrong", type=int, default=0, help="misunderstood questions to show for each voice")
    parser.add_argument("--people", type=Path, help="where the packages of recordings are: / or a folder")
    parser.add_argument("--json", type=Path, help="file for the counts, for the model card")
    options = parser.parse_args()
    answerer = Answerer.load(options.checkpoint)
    print("| voice | what | right | share | 95 % interval | mark |\n|---|---|---|---|---|---|", flush=True)
    shown: list[str] = []
    kept: list[Row] = []

    def keep(*rows: Row) -> None:
        kept.extend(rows)
        print("\n".join(map(str, rows)), flush=True)
        if options.json:
            options.json.write_text(json.dumps([asdict(row) for row in kept], indent=1) + "\n", encoding="utf-8")

    for name in options.voices:
        speak = voice(name)
        for split in options.words:
            rows, wrong = ask(answerer, speak, name, options.count, options.seed, split)
            keep(*rows)
            shown += wrong[: options.wrong]
        keep(written(answerer, speak, name, 2 * options.count, options.seed))
        keep(listens(answerer, speak, name, 2 * options.count, options.seed))
    keep(noise(answerer, 3 * options.count, options.seed))
    for name, recordings in people(options.people).items() if options.people else ():
        keep(*written_by_people(answerer, name, recordings))
    print("\n".join(shown))


if __name__ == "__main__":
    main()
