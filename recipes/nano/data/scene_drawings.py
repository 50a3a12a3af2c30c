"""Things drawn with a pen, some coloured in: houses, people, animals, trees, cars."""

from __future__ import annotations

import math
from random import Random

from PIL import Image, ImageDraw

from recipes.nano.data.colors import tint
from recipes.nano.data.sizes import Size

Point = tuple[float, float]


def drawing(rng: Random, size: Size) -> Image.Image:
    """Things drawn with a pen, some coloured in: a house, people, animals, trees, cars."""
    paper = rng.choice(((255, 255, 255), (255, 255, 255), (250, 246, 235), (240, 240, 240), (30, 34, 40)))
    picture = Image.new("RGB", size, paper)
    draw, edge = ImageDraw.Draw(picture), min(size)
    pen = (
        rng.choice(((20, 20, 20), (20, 20, 20), (40, 60, 150), (120, 60, 30))) if sum(paper) > 300 else (230, 230, 230)
    )
    wide = max(1, round(edge * rng.uniform(0.006, 0.02)))
    count = rng.randint(1, 3)
    for k in range(count):
        big = edge * rng.uniform(0.55, 0.9) if count == 1 else min(edge * 0.75, size[0] / count * 0.9)
        x = size[0] * (k + 0.5) / count - big / 2
        y = (size[1] - big) * rng.uniform(0.3, 0.8)
        fill = rng.random() < 0.4
        for closed, points in rng.choice(_THINGS):
            line = [
                (x + big * (px + rng.uniform(-0.008, 0.008)), y + big * (py + rng.uniform(-0.008, 0.008)))
                for px, py in points
            ]
            if closed and fill and sum(paper) > 300:
                draw.polygon(
                    line,
                    fill=tint(
                        rng,
                        rng.choice(
                            ((230, 120, 100), (250, 220, 120), (140, 190, 120), (130, 170, 220), (200, 170, 140))
                        ),
                        30,
                    ),
                )
            draw.line([*line, line[0]] if closed else line, fill=pen, width=wide, joint="curve")
    return picture


def _round(x: float, y: float, rx: float, ry: float | None = None, start: float = 0, stop: float = 360) -> list[Point]:
    ry = rx if ry is None else ry
    turns = [math.radians(start + (stop - start) * k / 24) for k in range(25)]
    return [(x + rx * math.cos(t), y + ry * math.sin(t)) for t in turns]


def _box(left: float, top: float, right: float, bottom: float) -> list[Point]:
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


_HOUSE = [
    (True, _box(0.15, 0.42, 0.85, 0.95)), (True, [(0.08, 0.42), (0.5, 0.08), (0.92, 0.42)]),
    (True, _box(0.42, 0.65, 0.58, 0.95)), (True, _box(0.22, 0.52, 0.36, 0.66)), (True, _box(0.64, 0.52, 0.78, 0.66)),
    (False, [(0.29, 0.52), (0.29, 0.66)]), (False, [(0.22, 0.59), (0.36, 0.59)]),
    (False, [(0.68, 0.22), (0.68, 0.08), (0.78, 0.08), (0.78, 0.31)]),
]  # fmt: skip
_PERSON = [
    (True, _round(0.5, 0.18, 0.12)),
    (False, [(0.5, 0.3), (0.5, 0.65)]),
    (False, [(0.28, 0.42), (0.5, 0.38), (0.72, 0.42)]),
    (False, [(0.32, 0.95), (0.5, 0.65), (0.68, 0.95)]), (False, _round(0.5, 0.19, 0.06, None, 20, 160)),
    (False, _round(0.46, 0.15, 0.01)), (False, _round(0.54, 0.15, 0.01)),
]  # fmt: skip
_CAT = [
    (True, _round(0.3, 0.35, 0.17)),
    (True, [(0.16, 0.27), (0.16, 0.1), (0.27, 0.2)]),
    (True, [(0.33, 0.2), (0.45, 0.1), (0.44, 0.27)]),
    (True, _round(0.58, 0.62, 0.26, 0.2)), (False, [(0.82, 0.58), (0.92, 0.45), (0.9, 0.28)]),
    *[(False, [(x, 0.78), (x, 0.94)]) for x in (0.4, 0.5, 0.66, 0.76)],
    (False, _round(0.24, 0.33, 0.015)),
    (False, _round(0.36, 0.33, 0.015)),
    (False, [(0.12, 0.4), (0.26, 0.41)]),
    (False, [(0.34, 0.41), (0.48, 0.4)]),
]  # fmt: skip
_TREE = [
    (True, _round(0.5, 0.32, 0.27, 0.25)),
    (False, [(0.45, 0.56), (0.43, 0.95)]),
    (False, [(0.55, 0.56), (0.57, 0.95)]),
    (False, [(0.1, 0.95), (0.9, 0.95)]),
]  # fmt: skip
_CAR = [
    (True, [(0.05, 0.7), (0.05, 0.52), (0.25, 0.5), (0.36, 0.32), (0.68, 0.32), (0.8, 0.5), (0.95, 0.54), (0.95, 0.7)]),
    (True, _round(0.26, 0.71, 0.09)),
    (True, _round(0.74, 0.71, 0.09)),
    (False, [(0.3, 0.5), (0.76, 0.5)]),
    (False, [(0.52, 0.33), (0.52, 0.5)]),
]  # fmt: skip
_FISH = [
    (True, _round(0.45, 0.5, 0.3, 0.18)),
    (True, [(0.74, 0.5), (0.93, 0.34), (0.93, 0.66)]),
    (False, _round(0.28, 0.45, 0.025)),
    (False, _round(0.35, 0.5, 0.12, 0.15, -70, 70)), (False, _round(0.48, 0.5, 0.12, 0.12, -60, 60)),
]  # fmt: skip
_FLOWER = [
    *[(True, _round(0.5 + 0.14 * math.cos(a), 0.3 + 0.14 * math.sin(a), 0.1)) for a in (0, 1.05, 2.1, 3.14, 4.2, 5.24)],
    (True, _round(0.5, 0.3, 0.07)), (False, [(0.5, 0.5), (0.48, 0.95)]), (True, _round(0.6, 0.7, 0.11, 0.04)),
]  # fmt: skip
_THINGS = (_HOUSE, _HOUSE, _PERSON, _PERSON, _CAT, _TREE, _CAR, _FISH, _FLOWER)
