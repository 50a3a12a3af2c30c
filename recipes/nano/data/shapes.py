"""The shapes as masks, and where in a picture things are said to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from random import Random
from typing import TypeVar

from PIL import Image, ImageDraw

from recipes.nano.data.labels import SHAPES

Thing = TypeVar("Thing")
_FINE = 3  # drawn this much larger, then shrunk
_CLEAR_LOW, _CLEAR_MID = 0.37, 0.08  # a place is named only outside the doubtful bands between these
_NAMES = (("top left", "top", "top right"), ("left", "center", "right"), ("bottom left", "bottom", "bottom right"))


def shape_mask(kind: str, radius: float, degrees: float = 0.0) -> Image.Image:
    """Coverage of a shape whose outermost points lie about `radius` from its middle."""
    side = max(6, round(2 * radius))
    mask = Image.new("L", (side * _FINE, side * _FINE))
    draw = ImageDraw.Draw(mask)
    middle = side * _FINE / 2
    reach = middle * 0.98

    def polygon(points: list[tuple[float, float]], fill: int = 255) -> None:
        cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turned = [(middle + reach * (x * cos - y * sin), middle + reach * (x * sin + y * cos)) for x, y in points]
        draw.polygon(turned, fill=fill)

    def disc(x: float, y: float, r: float, fill: int = 255) -> None:
        cx, cy, rr = middle + reach * x, middle + reach * y, reach * r
        draw.ellipse((cx - rr, cy - rr, cx + rr, cy + rr), fill=fill)

    if kind == "circle":
        disc(0, 0, 0.92)
    elif kind == "ring":
        disc(0, 0, 0.95)
        disc(0, 0, 0.56, 0)
    elif kind == "crescent":
        disc(0, 0, 0.95)
        disc(0.42, -0.12, 0.78, 0)
    elif kind == "heart":
        polygon(_heart())
    else:
        polygon(_OUTLINES[kind])
    return mask.resize((side, side), Image.Resampling.BOX)


def _regular(corners: int, start: float) -> list[tuple[float, float]]:
    angles = [math.radians(start + 360 * k / corners) for k in range(corners)]
    return [(math.cos(a), math.sin(a)) for a in angles]


def _star() -> list[tuple[float, float]]:
    points = []
    for k in range(10):
        r, a = (1.0 if k % 2 == 0 else 0.42), math.radians(-90 + 36 * k)
        points.append((r * math.cos(a), r * math.sin(a)))
    return points


def _heart() -> list[tuple[float, float]]:
    points = []
    for k in range(48):
        t = 2 * math.pi * k / 48
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((16 * math.sin(t) ** 3 / 17.5, -(y + 2.5) / 17.5))
    return points


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.78, -0.78), (0.78, -0.78), (0.78, 0.78), (-0.78, 0.78)],
    "rectangle": [(-0.96, -0.48), (0.96, -0.48), (0.96, 0.48), (-0.96, 0.48)],
    "triangle": [(0.0, -0.9), (0.95, 0.75), (-0.95, 0.75)],
    "star": _star(),
    "diamond": [(0.0, -1.0), (0.68, 0.0), (0.0, 1.0), (-0.68, 0.0)],
    "hexagon": _regular(6, 0),
    "cross": [
        (-0.3, -0.92), (0.3, -0.92), (0.3, -0.3), (0.92, -0.3), (0.92, 0.3), (0.3, 0.3),
        (0.3, 0.92), (-0.3, 0.92), (-0.3, 0.3), (-0.92, 0.3), (-0.92, -0.3), (-0.3, -0.3),
    ],
}  # fmt: skip


def pick_shape(rng: Random) -> str:
    """Any shape, all alike."""
    return rng.choice(SHAPES)


def band(share: float) -> int | None:
    """0, 1 or 2 for the first, middle or last part of an edge; None where people would disagree."""
    if share < _CLEAR_LOW:
        return 0
    if share > 1 - _CLEAR_LOW:
        return 2
    return 1 if abs(share - 0.5) <= _CLEAR_MID else None


def place_name(x: float, y: float) -> str | None:
    """The name of a place given as shares of width and height."""
    column, row = band(x), band(y)
    return None if column is None or row is None else _NAMES[row][column]


def at(place: str) -> str:
    """The place with its preposition."""
    if place == "center":
        return "in the center"
    return f"on the {place}" if place in ("left", "right") else f"at the {place}"


def plural(thing: str, count: int = 2) -> str:
    """The thing, or several of it."""
    if count == 1:
        return thing
    return thing + ("es" if thing.endswith(("s", "x")) else "s")


def marked(names: list[str], numbers: list[int]) -> list[str]:
    """The names with their numbers, "a ring (1)"; 0 stands for none.

    A small decoder that marks what was asked for while it lists has only to read its marks to conclude.
    """
    return [f"{name} ({number})" if number else name for name, number in zip(names, numbers, strict=True)]


def counted(found: list[bool]) -> list[int]:
    """Numbers from 1 on for what is found."""
    return [n if hit else 0 for hit, n in zip(found, accumulate(map(int, found)), strict=True)]


def numbered(things: Sequence[Thing], asked: Sequence[Thing]) -> list[int]:
    """Numbers from 1 on for what is asked for, as the question names it."""
    return [asked.index(thing) + 1 if thing in asked else 0 for thing in things]


def asked_pair(one: str, other: str) -> str:
    """What a question compares, numbered before the list: in the list the numbers are then found by these words."""
    return f"{one} (1) and {other} (2); "


def listed(items: list[str]) -> str:
    """a, b and c."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]
