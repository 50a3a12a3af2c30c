"""Right answers of the embedded model by the size of the picture and by the most tiles it is cut into.

    python benchmarks/picture_sizes.py --pictures 30

Draws its own pictures, not with the recipe's renderer: up to three shapes of clear colours, a word, two words, a
number. Prints a Markdown table; one line for each size and grid, per cent right, and how many questions are answered
rightly at this size and wrongly at the first one ("won"), and the reverse ("lost"): scenes and questions are the same
at every size. Sizes that two limits cut alike are asked about once. `--json FILE` keeps the counts, for the model card.
Takes some ten minutes on two cores; `--sizes` and `--pictures` shorten it.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import vita
from vita.media.image import choose_grid
from vita.types import MediaOptions, SamplingParams

SIZES = ((224, 224), (320, 320), (500, 500), (800, 800), (1200, 1200), (640, 480), (480, 640), (1280, 720), (2798, 770))
KINDS = ("colour", "shape", "count", "position", "relation", "yes/no", "caption", "number", "one word", "two words")
COLORS = {"red": (220, 25, 30), "green": (25, 160, 45), "blue": (30, 60, 225), "yellow": (245, 225, 20),
          "orange": (250, 135, 15), "purple": (130, 35, 165), "black": (8, 8, 8)}  # fmt: skip
SHAPES = ("circle", "square", "triangle", "star", "diamond")
COLUMNS, ROWS = ("left", "", "right"), ("top", "", "bottom")
WORDS = ("HOUSE", "RIVER", "GREEN", "TABLE", "MUSIC", "LIGHT", "STONE", "APPLE", "CLOUD", "TRAIN", "PAPER", "WATER")
PARAMS = SamplingParams(max_tokens=120)


@dataclass(frozen=True)
class Question:
    """What is asked, and what a right answer says: all of `keys`, in its conclusion."""

    kind: str
    text: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Shape:
    """One shape in a ninth of the picture."""

    kind: str
    color: str
    column: int
    row: int

    @property
    def place(self) -> str:
        words = " ".join(word for word in (ROWS[self.row], COLUMNS[self.column]) if word)
        return f"{'on' if words in COLUMNS else 'at'} the {words}" if words else "in the center"


def outline(kind: str) -> list[tuple[float, float]]:
    """Corners of a shape in the unit circle."""
    if kind == "square":
        return [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]
    spans = {"triangle": (3, 1.0), "diamond": (4, 1.0), "star": (10, 0.4), "circle": (64, 1.0)}
    count, inner = spans[kind]
    rays = [(inner if k % 2 and kind == "star" else 1.0, 2 * math.pi * k / count - math.pi / 2) for k in range(count)]
    narrow = 0.75 if kind == "diamond" else 1.0
    return [(narrow * r * math.cos(a), r * math.sin(a)) for r, a in rays]


def draw_shapes(size: tuple[int, int], rng: random.Random) -> tuple[np.ndarray, list[Question]]:
    """One to three shapes, all of different kinds and colours, on white: uint8 `[height, width, 3]`."""
    count = rng.choice((1, 2, 2, 3, 3))
    cells = rng.sample([(column, row) for row in range(3) for column in range(3)], count)
    kinds, colors = rng.sample(SHAPES, count), rng.sample(sorted(COLORS), count)
    shapes = [Shape(*one, *cell) for one, cell in zip(zip(kinds, colors, strict=True), cells, strict=True)]
    picture = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(picture)
    for shape in shapes:
        radius = min(size) * rng.uniform(0.10, 0.14)
        x, y = size[0] * (0.2 + 0.3 * shape.column), size[1] * (0.2 + 0.3 * shape.row)
        pen.polygon([(x + radius * a, y + radius * b) for a, b in outline(shape.kind)], fill=COLORS[shape.color])
    return np.asarray(picture), shape_questions(shapes, rng)


def shape_questions(shapes: list[Shape], rng: random.Random) -> list[Question]:
    """One question of each kind; a relation needs two shapes that stand apart."""
    one = rng.choice(shapes)
    count = ("1 shape" if len(shapes) == 1 else f"{len(shapes)} shapes",)
    there = rng.random() < 0.5
    other = next(kind for kind in SHAPES if kind not in [shape.kind for shape in shapes])
    asked = [
        Question("colour", f"What color is the {one.kind}?", (one.color,)),
        Question("shape", f"What shape is {one.color}?", (one.kind,)),
        Question("count", "How many shapes are there?", count),
        Question("position", f"Where is the {one.kind}?", (one.place,)),
        Question("yes/no", f"Is there a {one.color} {one.kind if there else other}?", ("yes" if there else "no",)),
        Question("caption", "Describe the image.", tuple(f"{s.color} {s.kind}" for s in shapes)),
    ]
    if len(shapes) == 1:
        return asked
    a, b = rng.sample(shapes, 2)
    words, apart = (("left of", "right of"), b.column - a.column) if a.column != b.column else (
        ("above", "below"), b.row - a.row)  # fmt: skip
    true = rng.random() < 0.5
    text = f"Is the {a.kind} {words[0 if (apart > 0) == true else 1]} the {b.kind}?"
    return [*asked, Question("relation", text, ("yes" if true else "no",))]


def draw_text(kind: str, size: tuple[int, int], rng: random.Random) -> tuple[np.ndarray, list[Question]]:
    """A number or one or two words across half to four fifths of the picture: uint8 `[height, width, 3]`."""
    words = rng.sample(WORDS, 2 if kind == "two words" else 1)
    text = str(rng.randint(100, 999)) if kind == "number" else " ".join(words)
    color, ground = rng.choice(("black", "red", "blue", "purple")), (250, 250, 250)
    box = ImageFont.load_default(100).getbbox(text)
    points = 100 * min(size[0] * rng.uniform(0.5, 0.8) / (box[2] - box[0]), size[1] * 0.4 / (box[3] - box[1]))
    picture = Image.new("RGB", size, ground)
    middle = (size[0] / 2, size[1] / 2)
    font = ImageFont.load_default(points)
    ImageDraw.Draw(picture).text(middle, text, fill=COLORS[color], font=font, anchor="mm")
    asked = "What number is shown?" if kind == "number" else "What does the picture say?"
    return np.asarray(picture), [Question(kind, asked, (text,))]


def right(said: str, question: Question) -> bool:
    """Whether the answer's conclusion says everything, in whole words; a place or a shade must not be another one."""
    said = said.lower() if question.kind == "caption" else said.rpartition(": ")[2]
    said = re.sub(r"\b(dark|light) ", r"\1", said)
    if question.keys[0] in ("yes", "no"):
        return re.match(rf"{question.keys[0]}\b", said, re.IGNORECASE) is not None
    return all(re.search(rf"(?<!\w){re.escape(key)}(?!\w)(?! left| right)", said) for key in question.keys)


def measure(model: vita.Vita, size: tuple[int, int], most: int, pictures: int) -> list[tuple[str, bool]]:
    """The kind of each question and whether it is answered rightly; the same scenes, in one order, for every size."""
    rng = random.Random(7)
    scenes = [draw_shapes(size, rng) for _ in range(pictures)]
    scenes += [draw_text(kind, size, rng) for kind in KINDS[-3:] for _ in range(pictures)]
    options = MediaOptions(max_tiles=most)

    def ask(scene: tuple[np.ndarray, list[Question]]) -> list[tuple[str, bool]]:
        picture, questions = scene
        return [(q.kind, right(model.ask(q.text, images=[picture], params=PARAMS, options=options).text, q))
                for q in questions]  # fmt: skip

    with ThreadPoolExecutor(8) as pool:  # requests that decode at the same time share each step
        return [one for group in pool.map(ask, scenes) for one in group]


def counts_of(outcomes: list[tuple[str, bool]]) -> dict[str, tuple[int, int]]:
    """Right answers and questions of each kind."""
    by_kind = {kind: [won for one, won in outcomes if one == kind] for kind in KINDS}
    return {kind: (sum(won), len(won)) for kind, won in by_kind.items() if won}


def differences(first: list[tuple[str, bool]], other: list[tuple[str, bool]]) -> tuple[int, int]:
    """Questions answered rightly at the other size alone, and at the first size alone."""
    pairs = [(a, b) for (_, a), (_, b) in zip(first, other, strict=True)]
    return sum(b and not a for a, b in pairs), sum(a and not b for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a checkpoint; default: the embedded one")
    parser.add_argument("--pictures", type=int, default=30, help="of shapes, and of each kind of text")
    parser.add_argument("--sizes", nargs="*", default=[f"{w}x{h}" for w, h in SIZES], help="as 640x480")
    parser.add_argument("--tiles", type=int, nargs="*", default=[1, 2, 3, 4], help="the limits to try")
    parser.add_argument("--json", type=Path, help="file for the counts")
    args = parser.parse_args()
    start = time.monotonic()
    model = vita.load(args.model, device="cpu")
    columns = ("size", "grid", "most tiles", *KINDS, "all", "won", "lost")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    kept: list[dict[str, object]] = []
    first: list[tuple[str, bool]] | None = None
    for size in (tuple(map(int, text.split("x"))) for text in args.sizes):
        limits: dict[tuple[int, int], list[int]] = {}
        for most in args.tiles:
            tiling = replace(model.engine.model.config.tiling, min_tiles=1, max_tiles=most)
            limits.setdefault(choose_grid(*size, tiling), []).append(most)
        for grid, mosts in limits.items():
            outcomes = measure(model, size, mosts[0], args.pictures)
            first = first or outcomes
            counts, (won, lost) = counts_of(outcomes), differences(first, outcomes)
            shares = [100 * counts[kind][0] / counts[kind][1] for kind in KINDS]
            cells = [f"{share:.0f}" for share in [*shares, sum(shares) / len(shares)]]
            named = (f"{size[0]}x{size[1]}", f"{grid[0]}x{grid[1]}", ", ".join(map(str, mosts)))
            print("| " + " | ".join([*named, *cells, str(won), str(lost)]) + " |", flush=True)
            kept.append({"size": list(size), "grid": list(grid), "counts": counts, "won": won, "lost": lost})
    if args.json:
        args.json.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(f"\n{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
