"""Renders the slow voices once to files: `python -m recipes.nano.speech.bake --out FOLDER`.

Owns which texts are said. A group goes on where its files end, and utterance number k of a group always has the same
text. Run `nice -n 10`, and name the folder in the environment variable VITA_BAKED_VOICES when you train.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np

from recipes.nano.data import render_sample
from recipes.nano.data.clips import render_clip
from recipes.nano.data.scene_other import talk_only
from recipes.nano.speech.baked import append, read_index, words_key
from recipes.nano.speech.bakers import Baker, festival, kokoro, pico
from recipes.nano.speech.texts import backchannel, not_for_the_model, question, sentence_to_repeat, spoken

BAKERS: dict[str, Callable[[], Baker]] = {"festival": lambda: festival, "pico": pico, "kokoro": kokoro}
COUNTS = {"festival": 3500, "pico": 3500, "kokoro": 2500}
KINDS = ("question", "any question", "repeat", "others", "backchannel")
SHARES = (50, 6, 28, 9, 7)
AT_ONCE = 10
SAMPLES, CLIPS = 4000, 300  # drawn to see which questions are asked most
EVENNESS = 0.7  # power of a question's count: the seldom ones are many, and each comes once


class Texts:
    """What is said under each number.

    Args:
        folder: keeps the questions, so that a change of the recipe does not move the numbers.
    """

    def __init__(self, folder: Path) -> None:
        kept = folder / "questions.txt"
        if not kept.exists():
            part = kept.with_suffix(".part")
            part.write_text("".join(f"{n}\t{text}\n" for text, n in often().most_common()), encoding="utf-8")
            part.replace(kept)
        lines = [line.split("\t") for line in kept.read_text(encoding="utf-8").splitlines()]
        self._questions = [text for _, text in lines]
        self._weights = [int(n) ** EVENNESS for n, _ in lines]

    def text(self, group: str, number: int) -> tuple[str, str]:
        """Its kind and its words."""
        rng = Random(f"baked/{group}/{number}")
        kind = rng.choices(KINDS, SHARES)[0]
        if kind == "question":
            return kind, rng.choices(self._questions, self._weights)[0]
        if kind == "any question":
            return "question", question(rng, "train")
        if kind == "repeat":
            return kind, sentence_to_repeat(rng)
        return kind, not_for_the_model(rng, "train") if kind == "others" else backchannel(rng, "train")


def often() -> Counter[str]:
    """How often each question of the training split that can be spoken is drawn."""
    counts: Counter[str] = Counter()
    forms: dict[str, str] = {}
    for qa in _questions():
        if spoken(qa):
            counts[forms.setdefault(words_key(qa.question), qa.question)] += 1
    return counts


def _questions() -> Iterator:
    for k in range(SAMPLES):
        yield from render_sample(k, "train", "mix", 1901).qa
        if k % 5 == 0:
            yield from talk_only(Random(f"baked/{k}"), "train")
    for k in range(CLIPS):
        yield from render_clip(k, "train", 1901).qa


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Without the silence around it, peak at 0.9."""
    loud = np.abs(samples)
    peak = float(loud.max(initial=0.0)) or 1.0
    there = np.flatnonzero(loud > 0.01 * peak)
    if not len(there):
        return samples
    return samples[max(0, there[0] - 400) : there[-1] + 800] * np.float32(0.9 / peak)


def bake(folder: Path, group: str, count: int, until: float) -> int:
    """Utterances of one group up to number `count`, or until this moment of `time.monotonic`; how many there are."""
    texts, index = Texts(folder), folder / f"{group}.tsv"
    done = len(read_index(index)) if index.exists() else 0
    baker = BAKERS[group]() if done < count else festival
    while done < count and time.monotonic() < until:
        numbers = range(done, min(count, done + AT_ONCE))
        chosen = [texts.text(group, k) for k in numbers]
        said = baker([(text, Random(f"speaker/{group}/{k}")) for k, (_, text) in zip(numbers, chosen, strict=True)])
        append(index, ((trimmed(s), who, *what) for (s, who), what in zip(said, chosen, strict=True)))
        done += len(chosen)
    return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the files")
    parser.add_argument("--groups", nargs="+", choices=tuple(BAKERS), default=list(BAKERS))
    parser.add_argument("--minutes", type=float, default=60.0, help="most for each group")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for group in options.groups:
        began = time.process_time()
        try:
            count = bake(options.out, group, COUNTS[group], time.monotonic() + 60 * options.minutes)
        except (ImportError, FileNotFoundError) as error:
            print(
                f"{group}: SKIPPED, not installed ({error}); see recipes/nano/speech/packages.txt and bake.txt",
                flush=True,
            )
            continue
        print(f"{group}: {count} utterances, {time.process_time() - began:.0f} s of this process", flush=True)


if __name__ == "__main__":
    main()
