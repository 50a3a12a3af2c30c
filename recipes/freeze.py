"""Freezes held-out pictures for the test suite: `python -m recipes.freeze --out tests/default/heldout`.

The suite must run on machines without the recipe's fonts, so it brings its pictures along. They are drawn with a
seed that neither training nor the card's evaluation uses.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from PIL import Image

from recipes.data import Stage, render_sample
from recipes.score import fine_kind, known_words

SEED = 4711


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mix", type=int, default=72)
    parser.add_argument("--tiles", type=int, default=6)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    dictionary, asked = known_words(), []
    wanted: list[tuple[Stage, int]] = [("mix", options.mix), ("tiles", options.tiles)]
    for stage, count in wanted:
        for index in range(count):
            sample = render_sample(index, "heldout", stage, SEED)
            name = None
            if sample.picture is not None:
                name = f"{stage}{index:02}.webp"
                Image.fromarray(sample.picture).save(options.out / name, quality=88, method=6)
            for qa in sample.qa:
                kind = fine_kind(qa, dictionary)
                asked.append({"picture": name, "question": qa.question, "answer": qa.answer, "key": qa.key,
                              "kind": kind, "stage": stage})  # fmt: skip
    (options.out / "questions.json").write_text(json.dumps(asked, indent=0, ensure_ascii=False) + "\n", "utf-8")
    size = sum(f.stat().st_size for f in options.out.iterdir())
    print(f"{len(asked)} questions, {size / 1e3:.0f} kB in {options.out}")


if __name__ == "__main__":
    main()
