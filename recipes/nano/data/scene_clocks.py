"""Clocks with hands or digits, in many looks."""

from __future__ import annotations

import math
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from recipes.nano.data.asking import ask
from recipes.nano.data.canvas import Box, Canvas
from recipes.nano.data.colors import pick_rgb
from recipes.nano.data.grounds import Ground, clashing, pick_ink
from recipes.nano.data.labels import CHARS, QA, SIDE, Split
from recipes.nano.data.phrases import answer, quoted
from recipes.nano.data.sizes import Size, least_em, unit_of
from recipes.nano.data.studio import Studio
from recipes.nano.data.writing import Ink, fitting, write, write_lines

_FACES = ("white", "white", "black", "light yellow", "light gray", "light blue", "yellow", "dark blue", "red", "green")
_SEGMENTS = {  # of the digits: top, top right, bottom right, bottom, bottom left, top left, middle
    "0": "abcdef", "1": "bc", "2": "abged", "3": "abgcd", "4": "fgbc", "5": "afgcd", "6": "afgedc", "7": "abc",
    "8": "abcdefg", "9": "abcdfg",
}  # fmt: skip


def draw_clock(studio: Studio, rng: Random, split: Split, size: Size = (SIDE, SIDE)) -> tuple[Canvas, list[QA]]:
    """One clock with its questions."""
    while True:
        ground = studio.grounds.pick(rng, size, calm=0.4)
        ink = pick_ink(rng, ground, split)
        made = ink and (_hands if rng.random() < 0.58 else _digits)(studio, rng, split, ground, ink)
        if made:
            return made


def clock_questions(rng: Random, split: Split, text: str, ground: Ground) -> list[QA]:
    """Caption, time and background."""
    said = answer("caption_clock", text=quoted(text), ground=ground.phrase)
    return [
        QA(ask(rng, split, "caption"), said, "caption_clock", f"a clock|{quoted(text)}|{ground.key}"),
        *(QA(ask(rng, split, "time"), answer("time", text=quoted(text)), "time", quoted(text)) for _ in "12"),
        ground.qa(rng, split),
    ]


def _hands(studio: Studio, rng: Random, split: Split, ground: Ground, ink: Ink) -> tuple[Canvas, list[QA]]:
    """Two hands on the hour, the half or a quarter; now and then on another five minutes."""
    hour, minute = rng.randint(1, 12), rng.choice((0, 0, 30, 30, 15, 45))
    if rng.random() < 0.12:
        minute = 5 * rng.randint(0, 11)
    size = ground.picture.size
    edge = min(size)
    radius = rng.uniform(0.3 if edge < 1.6 * SIDE else 0.2, 0.46) * edge
    cx, cy = (rng.uniform(radius + 0.02 * edge, length - radius - 0.02 * edge) for length in size)
    canvas = Canvas(ground.picture, dense=True)
    under, fine = ground, 2 if edge < 700 else 1
    whole = Image.new("L", (size[0] * fine, size[1] * fine))
    box = tuple(fine * v for v in (cx - radius, cy - radius, cx + radius, cy + radius))
    if rng.random() < 0.6:
        name = rng.choice(_FACES)
        rgb = pick_rgb(name, rng)
        ImageDraw.Draw(whole).ellipse(box, fill=255)
        canvas.picture.paste(rgb, (0, 0), whole.resize(size, Image.Resampling.BOX))
        under = Ground(ground.picture, (rgb,), name, names=clashing(name))
        ink = pick_ink(rng, under, split) or ink
    parts = _draw_hands(rng, whole.size, fine, (cx, cy, radius), (hour, minute))
    second = pick_ink(rng, under, split) if rng.random() < 0.35 else None
    for part, tint in zip(parts, (ink, second or ink), strict=True):
        canvas.stamp(part.resize(size, Image.Resampling.BOX), 0, 0, tint[1], tint[0])
    if radius * 0.25 > least_em(size, 13.0) and rng.random() < 0.6:
        _numerals(studio, rng, split, canvas, ink, (cx, cy, radius))
    return canvas, clock_questions(rng, split, f"{hour}:{minute:02d}", ground)


def _draw_hands(
    rng: Random, sheet: Size, fine: int, circle: tuple[float, float, float], time: tuple[int, int]
) -> tuple[Image.Image, Image.Image]:
    """The rim with its ticks, and the hands."""
    cx, cy, radius = circle
    rim, hands = Image.new("L", sheet), Image.new("L", sheet)

    def point(turn: float, reach: float) -> tuple[float, float]:
        angle = 2 * math.pi * turn
        return fine * (cx + radius * reach * math.sin(angle)), fine * (cy - radius * reach * math.cos(angle))

    draw = ImageDraw.Draw(rim)
    pen = max(1.0, radius * rng.uniform(0.02, 0.07)) * fine
    draw.ellipse(
        [fine * v for v in (cx - radius, cy - radius, cx + radius, cy + radius)], outline=255, width=round(pen)
    )
    ticks = rng.choice((12, 12, 12, 4, 60, 0))
    for k in range(ticks):
        heavy = k * 4 % ticks == 0
        draw.line(
            (point(k / ticks, 0.84 if heavy else 0.88), point(k / ticks, 0.95)),
            fill=255,
            width=round(pen * (1.1 if heavy else 0.6)) or 1,
        )
    draw = ImageDraw.Draw(hands)
    hour, minute = time
    thick = radius * rng.uniform(0.05, 0.1) * fine
    tail = rng.choice((0.0, 0.0, -0.12))
    for turn, reach, width in (
        ((hour % 12 + minute / 60) / 12, rng.uniform(0.44, 0.54), thick),
        (minute / 60, rng.uniform(0.72, 0.86), thick * rng.uniform(0.4, 0.7)),
    ):
        draw.line((point(turn, tail), point(turn, reach)), fill=255, width=max(2, round(width)))
    hub = thick * 0.7
    x, y = point(0, 0)
    draw.ellipse((x - hub, y - hub, x + hub, y + hub), fill=255)
    return rim, hands


def _numerals(
    studio: Studio, rng: Random, split: Split, canvas: Canvas, ink: Ink, circle: tuple[float, float, float]
) -> None:
    cx, cy, radius = circle
    face = studio.letters.face(rng, split, capitals=True)
    em = radius * 0.25
    for hour in range(1, 13) if rng.random() < 0.6 else (3, 6, 9, 12):
        angle = 2 * math.pi * hour / 12
        x, y = cx + radius * 0.72 * math.sin(angle), cy - radius * 0.72 * math.cos(angle)
        write(studio, canvas, face, em, ink, str(hour), x, y + em * 0.36, anchor=0.5)


def _digits(studio: Studio, rng: Random, split: Split, ground: Ground, ink: Ink) -> tuple[Canvas, list[QA]] | None:
    """Digits with a colon, of a font or of seven strokes, on the ground or on a display of its own."""
    hour, minute = rng.randint(0, 23) if rng.random() < 0.5 else rng.randint(1, 12), rng.randint(0, 59)
    text = f"{hour:02d}:{minute:02d}" if hour < 10 and rng.random() < 0.3 else f"{hour}:{minute:02d}"
    size = ground.picture.size
    wide = rng.uniform(0.55, 0.94) * min(size[0], 3 * size[1])
    high = min(wide * rng.uniform(0.36, 0.5), 0.9 * size[1])
    left, top = (size[0] - wide) * rng.random(), (size[1] - high) * rng.random()
    box = Box(left, top, left + wide, top + high)
    canvas, pen = Canvas(ground.picture, dense=True), ink
    if rng.random() < 0.6:
        name = rng.choice(("black", "black", "white", "dark gray", "dark green", "dark blue", "light green"))
        rgb = pick_rgb(name, rng)
        found = pick_ink(rng, Ground(ground.picture, (rgb,), name, names=clashing(name)), split)
        if found is None:
            return None
        pen = found
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).rounded_rectangle(box, high * rng.uniform(0.0, 0.2), fill=255)
        canvas.picture.paste(rgb, (0, 0), mask)
    frame = Box(left + wide * 0.08, top + high * 0.14, left + wide * 0.92, top + high * 0.86)
    if rng.random() < 0.45:
        _seven_strokes(rng, canvas, pen, text, frame)
    else:
        face = studio.letters.face(rng, split, capitals=True)
        em = fitting(studio, face, [text], frame)
        if em < 20 * unit_of(size):
            return None
        write_lines(studio, canvas, face, em, pen, [text], frame)
    made = clock_questions(rng, split, text, ground)
    return canvas, [*made, QA(ask(rng, split, "read"), answer("read", text=quoted(text)), "number", quoted(text))]


def _seven_strokes(rng: Random, canvas: Canvas, pen: Ink, text: str, frame: Box) -> None:
    """Each character in a cell of its own; unlit strokes are not drawn."""
    cells = [0.4 if char == ":" else 1.0 for char in text]
    pitch = min(frame.width / sum(cells), frame.height * 0.72)
    width, height = max(8, round(pitch * sum(cells))), max(8, round(frame.height))
    mask, chars, order = (
        Image.new("L", (width, height)),
        np.zeros((height, width), np.uint8),
        np.zeros((height, width), np.uint8),
    )
    draw, x = ImageDraw.Draw(mask), 0.0
    thick = max(2.0, pitch * rng.uniform(0.12, 0.2))
    for place, (char, cell) in enumerate(zip(text, cells, strict=True), start=1):
        left, right = x + pitch * cell * 0.12, x + pitch * cell * 0.88
        here = np.s_[:, round(x) : round(x + pitch * cell)]
        chars[here], order[here] = CHARS.index(char) + 1, place
        half, low = height / 2, height - 1
        if char == ":":
            for y in (height * 0.3, height * 0.7):
                draw.rectangle(
                    ((left + right - thick) / 2, y - thick / 2, (left + right + thick) / 2, y + thick / 2), fill=255
                )
        bars = {
            "a": (left, 0, right, thick), "b": (right - thick, 0, right, half), "c": (right - thick, half, right, low),
            "d": (left, low - thick, right, low), "e": (left, half, left + thick, low),
            "f": (left, 0, left + thick, half),
            "g": (left, half - thick / 2, right, half + thick / 2),
        }  # fmt: skip
        for name in _SEGMENTS.get(char, ""):
            draw.rectangle(bars[name], fill=255)
        x += pitch * cell
    left = round(frame.left + (frame.width - width) / 2)
    canvas.stamp(mask, left, round(frame.top), pen[1], pen[0], chars=chars, order=order)
