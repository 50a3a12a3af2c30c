"""Receipts, pages of long text, maps and crowded screens: the model says that it cannot describe them."""

from __future__ import annotations

from random import Random

from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont

from recipes.nano.data.asking import ask, honest
from recipes.nano.data.canvas import Canvas
from recipes.nano.data.colors import Rgb
from recipes.nano.data.labels import QA, SIDE, Split
from recipes.nano.data.scene_phrases import LONG
from recipes.nano.data.sizes import Size, unit_of
from recipes.nano.data.studio import Studio

_ACCENTS = ((60, 120, 220), (220, 70, 60), (60, 170, 90), (240, 170, 40), (140, 90, 200), (90, 90, 100))


def draw_paper(studio: Studio, rng: Random, split: Split, size: Size = (SIDE, SIDE)) -> tuple[Canvas, list[QA]]:
    """One of the four with its honest answers."""
    looks = rng.choices(("a receipt", "a page of text", "a map", "a screenshot with many things"), (26, 30, 20, 24))[0]
    make = {"a receipt": _receipt, "a page of text": _page, "a map": _map}.get(looks, _screen)
    picture = make(studio, rng, split, size)
    said = honest(rng, split, looks)
    if looks != "a map":
        said += [QA(ask(rng, split, "read"), LONG, "nothing", "only read a few words") for _ in "12"]
    return Canvas(picture, dense=False), said


def _font(studio: Studio, rng: Random, split: Split, pixels: float) -> FreeTypeFont:
    face = rng.choice(rng.choice(studio.letters.book.groups(split, False)))
    sizes = (7, 8, 9, 10, 11, 12, 14, 16, 18, 21, 24, 28, 33, 40, 48)  # few, so that opened fonts are found again
    return studio.letters.book.open(face.path, min(sizes, key=lambda s: abs(s - pixels)))


def _words(studio: Studio, rng: Random, split: Split, count: int) -> str:
    return " ".join(rng.choices(studio.words.dictionary[split], k=count))


def _lines(
    studio: Studio, rng: Random, split: Split, draw: ImageDraw.ImageDraw, font: FreeTypeFont,
    box: tuple[float, float, float, float], ink: Rgb, ragged: bool = True,
) -> None:  # fmt: skip
    """Fills the box with lines of words."""
    left, top, right, bottom = box
    step = font.size * rng.uniform(1.15, 1.6)
    per_line = max(1, round((right - left) / (font.size * 3.2)))
    y, rest = top, rng.randint(3, 8)
    while y + font.size < bottom:
        text = _words(studio, rng, split, per_line + 1)
        rest -= 1
        share = rng.uniform(0.3, 0.8) if rest == 0 else rng.uniform(0.86, 1.0) if ragged else 1.0
        while len(text) > 3 and font.getlength(text) > (right - left) * share:
            text = text[: int(len(text) * 0.93)]
        draw.text((left, y), text, ink, font)
        y += step * (1.7 if rest == 0 else 1.0)
        rest = rng.randint(3, 8) if rest == 0 else rest


def _page(studio: Studio, rng: Random, split: Split, size: Size) -> Image.Image:
    width, height = size
    dark = rng.random() < 0.25
    paper: Rgb = (
        rng.choice(((24, 26, 30), (0, 0, 0), (30, 30, 46)))
        if dark
        else rng.choice(((255, 255, 255), (255, 255, 255), (250, 247, 236), (238, 238, 238)))
    )
    ink: Rgb = (215, 215, 215) if dark else rng.choice(((0, 0, 0), (40, 40, 40), (60, 50, 40)))
    picture = Image.new("RGB", size, paper)
    draw = ImageDraw.Draw(picture)
    font = _font(studio, rng, split, max(7, rng.uniform(7, 15) * unit_of(size)))
    margin, top = min(size) * rng.uniform(0.03, 0.1), min(size) * rng.uniform(0.03, 0.1)
    if rng.random() < 0.5:
        head = _font(studio, rng, split, font.size * 1.8)
        draw.text((margin, top), _words(studio, rng, split, 2), ink, head)
        top += head.size * 1.6
    columns = 2 if width > 30 * font.size and rng.random() < 0.35 else 1
    wide = (width - margin * (columns + 1)) / columns
    for k in range(columns):
        left = margin + k * (wide + margin)
        _lines(studio, rng, split, draw, font, (left, top, left + wide, height - margin * 0.5), ink, rng.random() < 0.7)
    return picture


def _receipt(studio: Studio, rng: Random, split: Split, size: Size) -> Image.Image:
    width, height = size
    picture = Image.new(
        "RGB", size, rng.choice(((70, 60, 55), (120, 110, 100), (40, 44, 50), (200, 200, 200), (255, 255, 255)))
    )
    wide = min(width * 0.94, max(width * 0.3, height * rng.uniform(0.4, 0.75)))
    left = (width - wide) * rng.uniform(0.2, 0.8)
    draw = ImageDraw.Draw(picture)
    draw.rectangle(
        (left, height * 0.02, left + wide, height * rng.uniform(0.93, 1.0)),
        fill=rng.choice(((255, 255, 255), (246, 246, 240), (238, 236, 228))),
    )
    font = _font(studio, rng, split, max(7, min(wide / 15, height / 14)))
    ink, y, pad = rng.choice(((20, 20, 20), (70, 70, 75), (50, 50, 90))), height * 0.05, wide * 0.06
    name = _words(studio, rng, split, 2).upper()
    draw.text((left + wide / 2, y), name, ink, font, anchor="ma")
    y += font.size * 2.2
    step = font.size * rng.uniform(1.1, 1.4)
    while y < height - 5 * step:
        draw.text((left + pad, y), _words(studio, rng, split, 1)[:9].capitalize(), ink, font)
        draw.text((left + wide - pad, y), f"{rng.randint(0, 30)}.{rng.randint(0, 99):02d}", ink, font, anchor="ra")
        y += step
    draw.line(
        (left + pad, y + step * 0.3, left + wide - pad, y + step * 0.3), fill=ink, width=max(1, round(font.size / 12))
    )
    draw.text((left + pad, y + step * 0.6), "TOTAL", ink, font)
    draw.text(
        (left + wide - pad, y + step * 0.6), f"{rng.randint(10, 250)}.{rng.randint(0, 99):02d}", ink, font, anchor="ra"
    )
    if rng.random() < 0.5:  # a bar code
        x = left + pad
        while x < left + wide - pad:
            thick = rng.randint(1, 3) * max(1, wide / 150)
            draw.rectangle((x, y + 2.2 * step, x + thick, y + 3.6 * step), fill=ink)
            x += thick + rng.randint(1, 3) * max(1, wide / 150)
    return picture


def _map(studio: Studio, rng: Random, split: Split, size: Size) -> Image.Image:
    """Streets between blocks, water and a park, with names of places."""
    width, height = size
    dark = rng.random() < 0.2
    land, road, park, water = (
        ((240, 236, 228), (255, 255, 255), (200, 225, 180), (165, 205, 235))
        if not dark
        else ((40, 44, 52), (90, 95, 105), (45, 70, 50), (30, 50, 85))
    )
    picture = Image.new("RGB", size, land)
    draw, edge = ImageDraw.Draw(picture), min(size)
    for tint in (park, park, water):
        x, y, r = rng.uniform(0, width), rng.uniform(0, height), edge * rng.uniform(0.15, 0.4)
        draw.polygon(
            [
                (x + r * rng.uniform(0.5, 1.2) * dx, y + r * rng.uniform(0.5, 1.2) * dy)
                for dx, dy in ((1, 0), (0.7, 0.7), (0, 1), (-0.7, 0.7), (-1, 0), (-0.7, -0.7), (0, -1), (0.7, -0.7))
            ],
            fill=tint,
        )
    slope = rng.uniform(-0.4, 0.4)
    for lines in range(2):
        gap = edge * rng.uniform(0.12, 0.28)
        at = -max(size)
        while at < 2 * max(size):
            wide = max(1, round(edge * rng.choice((0.008, 0.012, 0.03))))
            tint = (250, 215, 120) if wide > edge * 0.02 and not dark else road
            run = (at, 0, at + slope * height, height) if lines else (0, at, width, at - slope * width)
            draw.line(run, fill=tint, width=wide + 1)
            at += gap * rng.uniform(0.6, 1.5)
    ink = (210, 210, 210) if dark else (70, 70, 70)
    font = _font(studio, rng, split, max(8, rng.uniform(8, 12) * unit_of(size)))
    for _ in range(rng.randint(3, 9)):
        draw.text(
            (rng.uniform(0, width * 0.85), rng.uniform(0, height * 0.95)),
            _words(studio, rng, split, 1).capitalize(),
            ink,
            font,
        )
    if rng.random() < 0.6:
        x, y, r = rng.uniform(0.2, 0.8) * width, rng.uniform(0.3, 0.8) * height, edge * 0.03
        draw.polygon([(x, y), (x - r, y - 2 * r), (x + r, y - 2 * r)], fill=(220, 50, 45))
        draw.ellipse((x - r, y - 3 * r, x + r, y - r), fill=(220, 50, 45))
    return picture


def _screen(studio: Studio, rng: Random, split: Split, size: Size) -> Image.Image:
    """A window with a side bar, cards, buttons and lines of text."""
    width, height = size
    dark = rng.random() < 0.4
    back, card, ink = (
        ((32, 34, 40), (48, 51, 60), (210, 212, 218)) if dark else ((240, 242, 245), (255, 255, 255), (45, 48, 55))
    )
    picture = Image.new("RGB", size, back)
    draw, accent = ImageDraw.Draw(picture), rng.choice(_ACCENTS)
    unit = unit_of(size)
    font = _font(studio, rng, split, max(7, rng.uniform(7, 12) * unit))
    em = font.size
    draw.rectangle((0, 0, width, em * 2), fill=accent if rng.random() < 0.5 else card)
    for k in range(3):
        draw.ellipse((em * (0.6 + k), em * 0.6, em * (1.3 + k), em * 1.3), fill=_ACCENTS[(k + 1) % 6])
    draw.text((em * 4.5, em * 0.4), _words(studio, rng, split, 4), ink, font)
    side = width * rng.uniform(0.16, 0.28) if width > height * 0.8 else 0.0
    if side:
        draw.rectangle((0, em * 2, side, height), fill=card)
        _lines(studio, rng, split, draw, font, (em * 0.5, em * 3, side - em * 0.3, height), ink)
    columns, rows = rng.randint(1, 3), rng.randint(2, 4)
    wide, high = (width - side) / columns, (height - em * 2) / rows
    for column in range(columns):
        for row in range(rows):
            x, y = side + column * wide + em * 0.4, em * 2.4 + row * high
            draw.rounded_rectangle((x, y, x + wide - em * 0.8, y + high - em * 0.8), em * 0.4, fill=card)
            kind = rng.random()
            if kind < 0.3:
                piece = studio.textures.cut(
                    rng.choice(studio.textures.clouds), rng, (max(4, round(wide * 0.5)), max(4, round(high * 0.5)))
                )
                picture.paste(piece, (round(x + em * 0.4), round(y + em * 0.4)))
            elif kind < 0.5:
                draw.rounded_rectangle(
                    (x + em, y + em, x + min(wide * 0.8, em * 7), y + em * 2.6), em * 0.4, fill=rng.choice(_ACCENTS)
                )
            _lines(
                studio,
                rng,
                split,
                draw,
                font,
                (x + em * 0.5, y + (high * 0.6 if kind < 0.5 else em * 0.4), x + wide - em * 1.2, y + high - em),
                ink,
            )
    return picture
