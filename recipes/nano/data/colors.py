"""Colour names and the pixels that bear them, with clear margins between neighbours."""

from __future__ import annotations

import colorsys
from random import Random

from recipes.nano.data.labels import COLORS

Rgb = tuple[int, int, int]
# name: (hue range in degrees, saturation range, value range)
_RANGES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "black": ((0, 360), (0.0, 0.3), (0.0, 0.08)),
    "white": ((0, 360), (0.0, 0.02), (0.96, 1.0)),
    "gray": ((0, 360), (0.0, 0.05), (0.46, 0.6)),
    "red": ((-5, 4), (0.82, 1.0), (0.78, 0.98)),
    "green": ((108, 140), (0.7, 1.0), (0.52, 0.78)),
    "blue": ((218, 238), (0.78, 1.0), (0.75, 1.0)),
    "yellow": ((51, 58), (0.8, 1.0), (0.93, 1.0)),
    "orange": ((24, 33), (0.88, 1.0), (0.95, 1.0)),
    "purple": ((272, 288), (0.65, 0.95), (0.5, 0.7)),
    "pink": ((325, 340), (0.36, 0.55), (0.97, 1.0)),
    "brown": ((20, 29), (0.65, 0.82), (0.38, 0.52)),
    "cyan": ((178, 186), (0.78, 1.0), (0.86, 1.0)),
    "dark blue": ((220, 238), (0.72, 1.0), (0.2, 0.4)),
    "dark green": ((118, 150), (0.7, 1.0), (0.18, 0.33)),
    "dark red": ((-4, 3), (0.82, 1.0), (0.3, 0.42)),
    "dark purple": ((272, 288), (0.65, 0.95), (0.2, 0.33)),
    "dark gray": ((0, 360), (0.0, 0.06), (0.19, 0.28)),
    "light gray": ((0, 360), (0.0, 0.03), (0.76, 0.85)),
    "light blue": ((206, 222), (0.2, 0.36), (0.93, 1.0)),
    "light green": ((108, 138), (0.24, 0.38), (0.88, 0.97)),
    "light yellow": ((49, 56), (0.2, 0.34), (0.97, 1.0)),
}
SHADES = tuple(name for name in _RANGES if name not in COLORS)
PLAIN_BACKGROUNDS = COLORS + SHADES


def pick_rgb(name: str, rng: Random) -> Rgb:
    """A pixel value that bears this name."""
    (h0, h1), (s0, s1), (v0, v1) = _RANGES[name]
    hue = rng.uniform(h0, h1) / 360.0 % 1.0
    r, g, b = colorsys.hsv_to_rgb(hue, rng.uniform(s0, s1), rng.uniform(v0, v1))
    return round(255 * r), round(255 * g), round(255 * b)


def luminance(rgb: Rgb) -> float:
    """Perceived brightness, 0 to 255."""
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]


def readable(ink: Rgb, ground: Rgb) -> bool:
    """Whether ink stands out from ground clearly enough to be read."""
    apart = sum((a - b) ** 2 for a, b in zip(ink, ground, strict=True)) ** 0.5
    return apart > 120 and abs(luminance(ink) - luminance(ground)) > 48


def article(noun: str) -> str:
    """The noun with its a or an."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def tint(rng: Random, base: Rgb, by: int = 25) -> Rgb:
    """A value near this one."""
    return tuple(max(0, min(255, c + rng.randint(-by, by))) for c in base)  # type: ignore[return-value]
