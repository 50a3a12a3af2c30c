"""Numbers, small calculations and clocks."""

from __future__ import annotations

import math
from random import Random

from PIL import Image, ImageDraw

from recipes.data.canvas import Canvas
from recipes.data.grounds import Ground, pick_ink
from recipes.data.labels import QA, SIDE, Split
from recipes.data.phrases import answer, ask, quoted
from recipes.data.studio import Studio


def draw_figures(studio: Studio, rng: Random, split: Split) -> tuple[Canvas, list[QA]]:
    """One picture of a number, a calculation or a clock."""
    while True:
        ground = studio.grounds.pick(rng, (SIDE, SIDE), calm=0.3)
        ink = pick_ink(rng, ground, split)
        if ink:
            break
    canvas = Canvas(ground.picture, dense=True)
    common = [
        QA(ask(rng, split, "text_color"), answer("text_color", color=ink[0]), "text_color", ink[0]),
        ground.qa(rng, split),
    ]
    draw = rng.random()
    if draw < 0.15:
        return canvas, [*_clock(rng, split, canvas, ground, ink), common[1]]
    if draw < 0.6:
        text = str(rng.randint(0, 10 ** rng.randint(1, 4) - 1))
        _write(studio, rng, split, canvas, text, ink)
        made = QA(ask(rng, split, "number"), answer("number", text=quoted(text)), "number", quoted(text))
        return canvas, [_caption(rng, split, "caption_number", text, ink[0], ground), made, *common]
    text, made = calculation(rng, split)
    asks = rng.random() < 0.3 and len(text) < 6
    _write(studio, rng, split, canvas, text + (" = ?" if asks else ""), ink)
    read = QA(ask(rng, split, "read"), answer("read", text=quoted(text)), "read_sum", quoted(text))
    asked = [_caption(rng, split, "caption_sum", text, ink[0], ground), made, *common]
    return canvas, asked if asks else [*asked, read]


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
    if draw < 0.5:
        a, b = rng.randint(0, 10), rng.randint(0, 10)
        return f"{a} + {b}", a + b
    if draw < 0.8:
        a = rng.randint(0, 15)
        b = rng.randint(0, a)
        return f"{a} - {b}", a - b
    a, b = rng.randint(1, 9), rng.randint(1, 5)
    return f"{a} × {b}", a * b


def _write(
    studio: Studio, rng: Random, split: Split, canvas: Canvas, text: str, ink: tuple[str, tuple[int, int, int]]
) -> None:
    face = studio.letters.face(rng, split, capitals=True)
    natural = studio.letters.natural(face, 100, text)
    largest = min(0.94 * SIDE / natural[0], 0.85 * SIDE / natural[1]) * 100
    em = rng.uniform(min(30.0, largest), min(largest, 200.0))
    line = studio.letters.line(face, text, em, rng.uniform(0.75, 1.0) if rng.random() < 0.4 else 1.0)
    share = (0.5, 0.5) if rng.random() < 0.5 else (rng.uniform(0.05, 0.95), rng.uniform(0.05, 0.95))
    left, top = round((SIDE - line.mask.width) * share[0]), round((SIDE - line.mask.height) * share[1])
    canvas.stamp(line.mask, left, top, ink[1], ink[0], chars=line.chars, order=line.order)


def _clock(
    rng: Random, split: Split, canvas: Canvas, ground: Ground, ink: tuple[str, tuple[int, int, int]]
) -> list[QA]:
    """A face with two hands, on the hour, the half or a quarter."""
    hour, minute = rng.randint(1, 12), rng.choice((0, 0, 30, 30, 15, 45))
    text = f"{hour}:{minute:02d}"
    radius = rng.uniform(0.25, 0.46) * SIDE
    cx, cy = (rng.uniform(radius + 4, SIDE - radius - 4) for _ in range(2))
    mask = Image.new("L", (SIDE * 2, SIDE * 2))
    draw = ImageDraw.Draw(mask)

    def point(turn: float, reach: float) -> tuple[float, float]:
        angle = 2 * math.pi * turn
        return 2 * (cx + radius * reach * math.sin(angle)), 2 * (cy - radius * reach * math.cos(angle))

    draw.ellipse((2 * (cx - radius), 2 * (cy - radius), 2 * (cx + radius), 2 * (cy + radius)), outline=255, width=6)
    for k in range(12):
        draw.line((point(k / 12, 0.86), point(k / 12, 0.94)), fill=255, width=8 if k % 3 == 0 else 4)
    draw.line((point(0, 0), point((hour % 12 + minute / 60) / 12, 0.48)), fill=255, width=12)
    draw.line((point(0, 0), point(minute / 60, 0.8)), fill=255, width=6)
    canvas.stamp(mask.resize((SIDE, SIDE), Image.Resampling.BOX), 0, 0, ink[1], ink[0])
    said = answer("caption_clock", text=quoted(text), ground=ground.phrase)
    return [
        QA(ask(rng, split, "caption"), said, "caption_clock", f"a clock|{quoted(text)}|{ground.key}"),
        QA(ask(rng, split, "time"), answer("time", text=quoted(text)), "time", quoted(text)),
    ]
