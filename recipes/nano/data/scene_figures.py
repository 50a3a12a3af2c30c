"""Numbers, small calculations and clocks."""

from __future__ import annotations

from random import Random

import numpy as np
from PIL import Image, ImageDraw

from recipes.nano.data.asking import ask
from recipes.nano.data.canvas import Canvas
from recipes.nano.data.fonts import Face
from recipes.nano.data.grounds import Ground, pick_ink
from recipes.nano.data.labels import CHARS, QA, SIDE, Split
from recipes.nano.data.lettering import Line
from recipes.nano.data.phrases import answer, quoted
from recipes.nano.data.scene_clocks import draw_clock
from recipes.nano.data.sizes import Size, least_em
from recipes.nano.data.studio import Studio
from recipes.nano.data.writing import Ink

_CLOCKS, _NUMBERS = 0.3, 0.3  # shares; the rest are sums


def draw_figures(studio: Studio, rng: Random, split: Split, size: Size = (SIDE, SIDE)) -> tuple[Canvas, list[QA]]:
    """One picture of a number, a calculation or a clock."""
    draw = rng.random()
    if draw < _CLOCKS:
        return draw_clock(studio, rng, split, size)
    while True:
        ground = studio.grounds.pick(rng, size, calm=0.3)
        ink = pick_ink(rng, ground, split)
        if ink:
            break
    canvas = Canvas(ground.picture, dense=True)
    common = [
        QA(ask(rng, split, "text_color"), answer("text_color", color=ink[0]), "text_color", ink[0]),
        ground.qa(rng, split),
    ]
    if draw < _CLOCKS + _NUMBERS:
        text = str(rng.randint(0, 10 ** rng.randint(1, 4) - 1))
        _write(studio, rng, split, canvas, text, ink)
        made = QA(ask(rng, split, "number"), answer("number", text=quoted(text)), "number", quoted(text))
        return canvas, [_caption(rng, split, "caption_number", text, ink[0], ground), made, *common]
    text, made = calculation(rng, split)
    asks = rng.choice((" = ?", " =", " = ?")) if rng.random() < 0.35 else ""
    _write(studio, rng, split, canvas, text + asks, ink)
    shown = quoted(text + asks)
    read = QA(ask(rng, split, "read"), answer("read", text=shown), "read_sum", shown)
    again = QA(ask(rng, split, "sum"), made.answer, "sum", made.key)
    return canvas, [_caption(rng, split, "caption_sum", text, ink[0], ground), made, again, read, *common]


def _caption(rng: Random, split: Split, kind: str, text: str, color: str, ground: Ground) -> QA:
    said = answer(kind, text=quoted(text), style=color, ground=ground.phrase)
    return QA(ask(rng, split, "caption"), said, kind, f"{quoted(text)}|in {color}|{ground.key}")


def calculation(rng: Random, split: Split) -> tuple[str, QA]:
    """What is written, and the question for its result."""
    text, result = _calculation(rng)
    said = answer("sum", text=quoted(text), count=result)
    return text, QA(ask(rng, split, "sum"), said, "sum", str(result))


def _calculation(rng: Random) -> tuple[str, int]:
    draw = rng.random()
    a, b = rng.randint(0, 12), rng.randint(0, 12)
    if draw < 0.42:
        return f"{a} + {b}", a + b
    if draw < 0.84:
        # The numbers are drawn as for a sum, so that only the sign between them tells which of the two it is.
        a, b = max(a, b), min(a, b)
        return f"{a} - {b}", a - b
    a, b = rng.randint(1, 9), rng.randint(1, 5)
    return f"{a} × {b}", a * b


def _write(studio: Studio, rng: Random, split: Split, canvas: Canvas, text: str, ink: Ink) -> None:
    width, height = canvas.width, canvas.height
    face = studio.letters.face(rng, split, capitals=True)
    natural = studio.letters.natural(face, 100, text)
    largest = min(0.94 * width / natural[0], 0.85 * height / natural[1]) * 100
    least = min(least_em((width, height), 30.0), largest)
    em = rng.uniform(least, min(largest, max(200.0, 0.8 * height)))
    sign = next((s for s in "+-×" if f" {s} " in text), "")
    if sign in ("+", "-") and rng.random() < 0.4:
        line = _own_sign(studio, rng, face, text, sign, em)
    else:
        line = studio.letters.line(face, text, em, rng.uniform(0.75, 1.0) if rng.random() < 0.4 else 1.0)
    if line.mask.width > 0.97 * width:
        line = studio.letters.line(face, text, em)
    share = (0.5, 0.5) if rng.random() < 0.5 else (rng.uniform(0.05, 0.95), rng.uniform(0.05, 0.95))
    left, top = round((width - line.mask.width) * share[0]), round((height - line.mask.height) * share[1])
    canvas.stamp(line.mask, left, top, ink[1], ink[0], chars=line.chars, order=line.order)


def _own_sign(studio: Studio, rng: Random, face: Face, text: str, sign: str, em: float) -> Line:
    """The line with a sign of plain strokes instead of the font's, as hands and other fonts write it."""
    parts = [studio.letters.line(face, part, em) for part in text.split(f" {sign} ")]
    high = max(part.mask.height for part in parts)
    edge, gap = round(em * rng.uniform(0.34, 0.6)), round(em * rng.uniform(0.1, 0.45))
    pen = max(2, round(em * rng.uniform(0.04, 0.13)))
    mask = Image.new("L", (parts[0].mask.width + parts[1].mask.width + edge + 2 * gap, high))
    chars, order = (np.zeros((high, mask.width), np.uint8) for _ in "co")
    left, before = 0, 0
    for k, part in enumerate(parts):
        wide, tall = part.mask.size
        top = high - tall if k == 0 or "=" not in text else (high - tall) // 2
        mask.paste(part.mask, (left, top))
        here = np.s_[top : top + tall, left : left + wide]
        chars[here], order[here] = part.chars, part.order + np.uint8(before)
        left += wide + gap
        if k == 0:
            draw, middle = ImageDraw.Draw(mask), high // 2
            draw.rectangle((left, middle - pen // 2, left + edge, middle - pen // 2 + pen - 1), fill=255)
            if sign == "+":
                x = left + edge // 2 - pen // 2
                draw.rectangle((x, middle - edge // 2, x + pen - 1, middle + edge // 2), fill=255)
            here = np.s_[:, left - gap // 2 : left + edge + gap // 2]
            before = len(text.split(f" {sign} ")[0]) + 3
            chars[here], order[here] = CHARS.index(sign) + 1, before - 1
            left += edge + gap
    return Line(mask, chars, order, em)
