"""How well sounds are heard after other turns: `python -m benchmarks.conversations --model CHECKPOINT`.

The held-out recordings of `tests/default/heldout`: each spoken question as the first, second and third turn of a
conversation about its image, and each sound that is not meant for the model as the first turn and after another one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recipes.nano.score import share_right, wilson
from recipes.nano.senses import reply

import vita
from vita.types import SamplingParams

HELD_OUT = Path(__file__).resolve().parents[1] / "tests" / "default" / "heldout"
TYPED = ("Describe the image.", "What is in the background?")  # the turns before, in order
WITHOUT_IMAGE = ("What can you do?", "Who are you?")
PARAMS = SamplingParams(max_tokens=90)
AT_ONCE = 8  # conversations
Entry = dict[str, str]


def answer(model: vita.Vita, entry: Entry, turns_before: int) -> vita.Result:
    """The answer to a recording after so many typed turns; an image is shown in the first turn."""
    chat = model.chat()
    images = [HELD_OUT / entry["picture"]] if entry.get("picture") else []
    for question in (TYPED if images else WITHOUT_IMAGE)[:turns_before]:
        chat.ask(question, images=images, params=PARAMS)
        images = []
    return chat.ask(audios=[HELD_OUT / entry["sound"]], images=images, params=PARAMS)


def answered(model: vita.Vita, entry: Entry, turns_before: int) -> float:
    """The share of points of a spoken question."""
    return share_right(entry, reply(answer(model, entry, turns_before).text))


def ignored(model: vita.Vita, entry: Entry, turns_before: int) -> float:
    """1 if a sound is taken for noise."""
    return float(answer(model, entry, turns_before).state == "noise")


def row(name: str, judge: Callable[[vita.Vita, Entry, int], float], model: vita.Vita, entries: Sequence[Entry],
        turns_before: int) -> str:  # fmt: skip
    with ThreadPoolExecutor(AT_ONCE) as pool:
        won = sum(pool.map(lambda entry: judge(model, entry, turns_before), entries))
    low, high = wilson(won, len(entries))
    return f"| {name} | {turns_before} | {won:.1f} | {len(entries)} | {100 * low:.0f} to {100 * high:.0f} % |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="checkpoint folder; without: the embedded model")
    options = parser.parse_args()
    sounds: list[Entry] = json.loads((HELD_OUT / "sounds.json").read_text(encoding="utf-8"))
    questions = [entry for entry in sounds if entry["use"] == "question"]
    others = [entry for entry in sounds if entry["use"] == "ignore"]
    print("| | turns before | right | of | 95 % interval |\n|---|---|---|---|---|")
    with vita.load(options.model) as model:
        for turns in range(len(TYPED) + 1):
            print(row("spoken questions answered", answered, model, questions, turns), flush=True)
        for turns in range(2):
            print(row("sounds that are not meant for it: ignored", ignored, model, others, turns), flush=True)


if __name__ == "__main__":
    main()
