"""Sizes of pictures as people have them, and how large a letter must be drawn at each to be read after cutting."""

from __future__ import annotations

import math
from random import Random

from recipes.nano.data.labels import SIDE
from recipes.nano.tiles import TILING
from vita.media.image import choose_grid

Size = tuple[int, int]  # width, height

SMALLEST, LARGEST = 100, 4000  # of an edge
WIDEST = 4.0  # the longer edge over the shorter
USUAL = (  # screens, photographs, phones, banners
    (1280, 720), (1280, 720), (1920, 1080), (1366, 768), (800, 600), (640, 480), (320, 240), (1024, 768), (390, 844),
    (360, 640), (1080, 1920), (1200, 630), (1080, 1080), (512, 512), (300, 250), (600, 200), (2798, 770),
)  # fmt: skip
_DRAWN = (520, 760)  # the longer edge of a larger picture is drawn at one of these


def pick_size(rng: Random) -> Size:
    """A size from 100 to 4,000 pixels and an aspect from 1:4 to 4:1; squares and usual sizes are common."""
    draw = rng.random()
    if draw < 0.24:
        return rng.choice(USUAL)
    if draw < 0.3:
        edge = rng.randint(SMALLEST, SIDE - 1)
        return edge, edge
    if draw < 0.54:
        edge = _log(rng, SIDE + 1, 1200)
        return edge, edge
    aspect = WIDEST ** rng.uniform(-1, 1)
    reach = rng.random()
    long = (
        _log(rng, SMALLEST, SIDE)
        if reach < 0.08
        else _log(rng, SIDE, 1300)
        if reach < 0.92
        else _log(rng, 1300, LARGEST)
    )
    short = max(SMALLEST, round(long / max(aspect, 1 / aspect)))
    long = max(long, short)
    return (long, short) if aspect > 1 else (short, long)


def drawn_size(rng: Random, size: Size) -> Size:
    """The size at which a picture of `size` is drawn: large ones are mostly drawn smaller, which costs less.

    Cut into tiles both look alike, as the larger one is made smaller then. Some are drawn as large as they are.
    """
    long = max(size)
    if long <= _DRAWN[1] or (long <= 1600 and rng.random() < 0.06):
        return size
    grid = choose_grid(*size, TILING)
    wanted = max(rng.uniform(*_DRAWN), SIDE * max(grid) * rng.uniform(0.95, 1.1))
    smaller = round(size[0] * wanted / long), round(size[1] * wanted / long)
    return smaller if wanted < long and choose_grid(*smaller, TILING) == grid else size


def unit_of(size: Size) -> float:
    """Pixels of the picture that become one pixel of a tile."""
    columns, rows = choose_grid(*size, TILING)
    return max(size[0] / (columns * SIDE), size[1] / (rows * SIDE))


def least_em(size: Size, wanted: float) -> float:
    """The smallest font size at which letters are read after cutting: `wanted` pixels of a tile, and 12 as drawn."""
    return max(12.0, wanted * unit_of(size))


def _log(rng: Random, low: float, high: float) -> int:
    return round(low * math.exp(rng.random() * math.log(high / low)))
