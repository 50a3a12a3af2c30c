"""A contact sheet to look at: `python -m recipes.nano.data.contact --stage mix --split heldout --out sheet.png`."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from recipes.nano.data.labels import CHARS, COLORS, PATCH, SHAPES, SIDE, STAGES, Sample
from recipes.nano.data.sample import render_sample
from recipes.nano.data.studio import studio

_CELL = (360, 232)
_LINE = 12


def draw_sheet(samples: list[Sample], columns: int, overlay: bool) -> Image.Image:
    """Pictures in a grid with their questions and answers beneath."""
    font = ImageFont.load_default(10)
    text_lines = max([4, *(sum(len(_wrap(f"{q.question} [{q.key}]", q.answer)) for q in s.qa) for s in samples)])
    height = _CELL[1] + _LINE * text_lines + 8
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * _CELL[0], rows * height), (245, 245, 240))
    draw = ImageDraw.Draw(sheet)
    for k, sample in enumerate(samples):
        left, top = (k % columns) * _CELL[0] + 4, (k // columns) * height + 4
        if sample.picture is not None:
            picture = Image.fromarray(sample.picture)
            if overlay and sample.chars is not None:
                picture = _overlay(picture, sample)
            picture.thumbnail((_CELL[0] - 8, SIDE))
            sheet.paste(picture, (left, top))
            draw.text((left + 230, top), f"{sample.picture.shape[1]}x{sample.picture.shape[0]}", (120, 120, 120), font)
        y = top + SIDE + 2
        for qa in sample.qa:
            for line in _wrap(f"{qa.question} [{qa.key}]", qa.answer):
                draw.text((left, y), line, (0, 90, 0) if line.startswith("  ") else (20, 20, 20), font)
                y += _LINE
    return sheet


def _wrap(question: str, answer: str, width: int = 68) -> list[str]:
    lines = [question[:width]]
    return lines + ["  " + answer[k : k + width] for k in range(0, len(answer), width)]


def _overlay(picture: Image.Image, sample: Sample) -> Image.Image:
    """Prints each patch's label on a paled picture: characters blue, shapes red, other ink's colour gray."""
    pale = Image.blend(picture, Image.new("RGB", picture.size, (255, 255, 255)), 0.55)
    draw = ImageDraw.Draw(pale)
    font = ImageFont.load_default(11)
    assert sample.chars is not None and sample.shape is not None and sample.color is not None
    for row, column in zip(*np.nonzero(sample.color), strict=True):
        char, shape = sample.chars[row, column], sample.shape[row, column]
        label, tint = COLORS[sample.color[row, column] - 1][:2], (110, 110, 110)
        if char:
            label, tint = CHARS[char - 1], (0, 0, 220)
        elif shape:
            label, tint = SHAPES[shape - 1][:2], (200, 0, 0)
        draw.text((column * PATCH + 2, row * PATCH), label, tint, font)
    return pale


def main() -> None:
    """Writes one sheet and says how fast it was drawn."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=STAGES, default="mix")
    parser.add_argument("--split", choices=("train", "heldout"), default="heldout")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--columns", type=int, default=5)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--labels", action="store_true", help="print the dense labels on the pictures")
    args = parser.parse_args()
    if advice := studio().letters.book.advise():
        print(advice)
    start = time.perf_counter()
    samples = [render_sample(args.start + k, args.split, args.stage, args.seed) for k in range(args.count)]
    print(f"{args.count / (time.perf_counter() - start):.0f} pictures/s")
    draw_sheet(samples, args.columns, args.labels).save(args.out)


if __name__ == "__main__":
    main()
