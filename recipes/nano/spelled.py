"""Words of the recipe's own sentences that its tokenizer still spells: `python -m recipes.nano.spelled --samples 2000`.

Whoever adds phrases adds these to `recipes/nano/data/scene_words.txt`, before a run starts: then they are whole pieces.
Words in quotation marks are texts of pictures and stay spelled.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter

from recipes.nano.data import render_sample
from recipes.nano.data.pieces import whole_pieces
from recipes.nano.look import QUOTED, looked


def spelled(samples: int, seed: int = 1) -> Counter[str]:
    """How often each such word stands in questions and answers; questions beyond the model's world are left out."""
    pieces, found = set(whole_pieces()), Counter[str]()
    for index in range(samples):
        for qa in render_sample(index, "train", "mix", seed).qa:
            texts = [looked(qa.answer)] if qa.kind == "outside" else [qa.question, looked(qa.answer)]
            for text in texts:
                words = re.findall(r" [A-Za-z]+|^[A-Za-z]+", QUOTED.sub("", text))
                found.update(word for word in words if len(word) > 1 and word not in pieces)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=500)
    for word, count in spelled(parser.parse_args().samples).most_common():
        print(f"{count:6} {word!r}")


if __name__ == "__main__":
    main()
