"""Pie charts and line charts: charts that the model is not taught to read, and says so."""

from __future__ import annotations

import math
from random import Random

from PIL import Image, ImageDraw

from recipes.nano.data.colors import Rgb, pick_rgb
from recipes.nano.data.labels import COLORS, Split
from recipes.nano.data.sizes import Size, least_em
from recipes.nano.data.studio import Studio

_HUES = [name for name in COLORS if name not in ("black", "white", "gray")]


def pie_chart(studio: Studio, rng: Random, split: Split, size: Size) -> Image.Image:
    """A disc or a ring in slices, with or without labels."""
    picture, ink = _sheet(rng, size)
    draw, edge = ImageDraw.Draw(picture), min(size)
    radius = edge * rng.uniform(0.26, 0.42)
    cx = rng.uniform(radius + edge * 0.04, size[0] - radius - edge * 0.04)
    cy = rng.uniform(radius + edge * 0.04, size[1] - radius - edge * 0.04)
    shares = [rng.uniform(0.3, 1.6) for _ in range(rng.randint(3, 7))]
    start, box = rng.uniform(0, 360), (cx - radius, cy - radius, cx + radius, cy + radius)
    for k, share in enumerate(shares):
        stop = start + 360 * share / sum(shares)
        tint = pick_rgb(_HUES[(k + len(shares)) % len(_HUES)], rng)
        draw.pieslice(box, start, stop, fill=tint, outline=picture.getpixel((0, 0)))
        if len(shares) < 6 and rng.random() < 0.6:
            angle, text = math.radians((start + stop) / 2), f"{round(100 * share / sum(shares))}%"
            at = (cx + 0.68 * radius * math.cos(angle), cy + 0.68 * radius * math.sin(angle))
            draw.text(at, text, ink, studio.letters.book.open(_path(studio, rng, split), _em(size)), anchor="mm")
        start = stop
    if rng.random() < 0.3:
        hole = radius * rng.uniform(0.4, 0.65)
        draw.ellipse((cx - hole, cy - hole, cx + hole, cy + hole), fill=picture.getpixel((0, 0)))
    return picture


def line_chart(studio: Studio, rng: Random, split: Split, size: Size) -> Image.Image:
    """One to three lines between two axes, with or without dots and a grid."""
    picture, ink = _sheet(rng, size)
    width, height = size
    draw, edge = ImageDraw.Draw(picture), min(size)
    left, top, right, low = edge * 0.14, edge * 0.08, width - edge * 0.06, height - edge * 0.14
    pen = max(1, round(edge * rng.uniform(0.006, 0.02)))
    faint: Rgb = (128, 128, 128)
    for k in range(rng.choice((0, 3, 4, 5))):
        y = low - (low - top) * (k + 1) / 5
        draw.line((left, y, right, y), fill=faint, width=1)
    font = studio.letters.book.open(_path(studio, rng, split), _em(size))
    for _ in range(rng.randint(1, 3)):
        count, value = rng.randint(4, 12), rng.random()
        tint, points = pick_rgb(rng.choice(_HUES), rng), []
        for k in range(count):
            value = min(1.0, max(0.0, value + rng.uniform(-0.35, 0.35)))
            points.append((left + (right - left) * k / (count - 1), low - (low - top) * value))
        draw.line(points, fill=tint, width=pen, joint="curve")
        for x, y in points if rng.random() < 0.5 else []:
            draw.ellipse((x - 1.6 * pen, y - 1.6 * pen, x + 1.6 * pen, y + 1.6 * pen), fill=tint)
    draw.line((left, top, left, low, right, low), fill=ink, width=pen)
    for k in range(rng.choice((0, 2, 4))):
        draw.text((left + (right - left) * (k + 0.5) / 4, low + edge * 0.02), "ABCD"[k], ink, font, anchor="ma")
    return picture


def _sheet(rng: Random, size: Size) -> tuple[Image.Image, Rgb]:
    paper: Rgb = rng.choice(((255, 255, 255), (255, 255, 255), (246, 244, 238), (28, 30, 38), (0, 0, 0)))
    return Image.new("RGB", size, paper), (20, 20, 20) if sum(paper) > 300 else (230, 230, 230)


def _path(studio: Studio, rng: Random, split: Split) -> str:
    return rng.choice(rng.choice(studio.letters.book.groups(split, False))).path


def _em(size: Size) -> int:
    return round(least_em(size, 15.0) / 3) * 3
