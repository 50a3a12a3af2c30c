"""Pictures that look like photographs and drawings: the model says that it cannot describe them."""

from __future__ import annotations

import math
from random import Random

from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from recipes.nano.data.asking import ask, honest
from recipes.nano.data.canvas import Canvas
from recipes.nano.data.colors import Rgb, tint
from recipes.nano.data.labels import QA, SIDE, Split
from recipes.nano.data.phrases import answer
from recipes.nano.data.scene_drawings import drawing
from recipes.nano.data.scene_other_charts import line_chart, pie_chart
from recipes.nano.data.scene_papers import draw_paper
from recipes.nano.data.sizes import Size
from recipes.nano.data.studio import Studio

_SKINS = ((236, 200, 172), (214, 168, 130), (168, 118, 82), (108, 72, 50), (244, 214, 190))


def draw_beyond(studio: Studio, rng: Random, split: Split, size: Size = (SIDE, SIDE)) -> tuple[Canvas, list[QA]]:
    """A picture beyond the model's world with its honest answers."""
    kind = rng.choices(("photograph", "drawing", "paper", "pie chart", "line chart"), (36, 20, 36, 4, 4))[0]
    if kind == "paper":
        return draw_paper(studio, rng, split, size)
    if kind.endswith("chart"):
        picture = (pie_chart if kind == "pie chart" else line_chart)(studio, rng, split, size)
        return Canvas(picture, dense=False), honest(rng, split, f"a {kind}")
    picture = photograph(studio, rng, size) if kind == "photograph" else drawing(rng, size)
    made = honest(rng, split, f"a {kind}")
    made.append(QA(ask(rng, split, "read"), answer("no_text"), "absent", "no text"))
    made.append(QA(ask(rng, split, "bars"), answer("no_chart"), "absent", "no chart"))
    return Canvas(picture, dense=False), made


def photograph(studio: Studio, rng: Random, size: Size) -> Image.Image:
    """Something with the light, the depth and the grain of a photograph."""
    kind = rng.choices(("land", "person", "blur", "room", "cloud"), (34, 22, 20, 12, 12))[0]
    small = tuple(max(48, round(v * min(1.0, 300 / max(size)))) for v in size)
    make = {"land": _landscape, "person": _person, "blur": _blobs, "room": _room}.get(kind)
    picture = make(studio, rng, small) if make else studio.textures.cut(rng.choice(studio.textures.clouds), rng, small)
    picture = ImageEnhance.Color(picture).enhance(rng.uniform(0.15, 1.0))  # few photographs are as gaudy as noise
    picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.4)))
    picture = studio.textures.grained(picture, rng)
    return picture.resize(size, Image.Resampling.BICUBIC) if picture.size != size else picture


def _textured(studio: Studio, rng: Random, picture: Image.Image, mask: Image.Image, base: Rgb, deep: float) -> None:
    """Fills the mask with a colour that varies as surfaces do."""
    cloud = studio.textures.cut(rng.choice(studio.textures.clouds), rng, picture.size).convert("L").convert("RGB")
    flat = Image.new("RGB", picture.size, base)
    mixed = Image.blend(flat, Image.eval(cloud, lambda v: min(255, v)), deep)
    picture.paste(mixed, (0, 0), mask)


def _hills(rng: Random, size: Size, level: float, rough: float) -> Image.Image:
    """A mask of everything under a wavy line."""
    mask = Image.new("L", size)
    waves = [(rng.uniform(0.5, 6), rng.uniform(0, 6.3), rng.uniform(0.2, 1)) for _ in range(4)]
    line = []
    for k in range(61):
        x = k / 60
        y = level + rough * sum(a * math.sin(f * x * 3 + p) / (1 + f) for f, p, a in waves)
        line.append((x * size[0], y * size[1]))
    ImageDraw.Draw(mask).polygon([*line, (size[0], size[1]), (0, size[1])], fill=255)
    return mask


def _sky(rng: Random, size: Size) -> Image.Image:
    top, low = rng.choice(
        (
            ((60, 120, 200), (190, 215, 240)),
            ((40, 50, 90), (240, 150, 90)),
            ((140, 150, 160), (215, 220, 225)),
            ((15, 20, 45), (60, 70, 110)),
            ((90, 160, 220), (235, 240, 245)),
        )
    )
    ramp = Image.new("RGB", (1, 16))
    for k in range(16):
        ramp.putpixel((0, k), tuple(round(a + (b - a) * k / 15) for a, b in zip(top, low, strict=True)))
    return ramp.resize(size, Image.Resampling.BICUBIC)


def _landscape(studio: Studio, rng: Random, size: Size) -> Image.Image:
    picture = _sky(rng, size)
    width, height = size
    if rng.random() < 0.7:
        cloud = studio.textures.cut(rng.choice(studio.textures.clouds), rng, size).convert("L")
        mask = Image.eval(cloud, lambda v: max(0, min(255, 3 * (v - 140))))
        picture.paste(tint(rng, (235, 235, 238)), (0, 0), mask)
    greens: tuple[Rgb, ...] = (
        (60, 95, 50),
        (90, 110, 60),
        (120, 100, 70),
        (50, 70, 80),
        (150, 130, 90),
        (200, 200, 205),
        (40, 80, 110),
    )
    level, steps = rng.uniform(0.35, 0.6), rng.randint(1, 4)
    for k in range(steps):
        _textured(
            studio,
            rng,
            picture,
            _hills(rng, size, level, 0.12 / (k + 1)),
            tint(rng, rng.choice(greens)),
            rng.uniform(0.15, 0.4),
        )
        level += (1 - level) * rng.uniform(0.25, 0.5)
    for _ in range(rng.randint(0, 9)):
        x, y = rng.uniform(0, width), rng.uniform(0.45, 0.95) * height
        tall = height * rng.uniform(0.06, 0.3) * (y / height)
        mask = Image.new("L", size)
        draw = ImageDraw.Draw(mask)
        draw.rectangle((x - tall * 0.05, y - tall * 0.4, x + tall * 0.05, y), fill=255)
        for _ in range(6):
            r = tall * rng.uniform(0.15, 0.3)
            cx, cy = x + rng.uniform(-0.3, 0.3) * tall, y - tall * rng.uniform(0.4, 0.95)
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=255)
        _textured(studio, rng, picture, mask, tint(rng, (45, 75, 40)), 0.3)
    return picture


def _blobs(studio: Studio, rng: Random, size: Size) -> Image.Image:
    """Things out of focus: fruit, lights, animals, who knows."""
    picture = studio.textures.cut(rng.choice(studio.textures.clouds), rng, size).filter(ImageFilter.GaussianBlur(6))
    edge = min(size)
    for _ in range(rng.randint(2, 9)):
        mask = Image.new("L", size)
        draw, r = ImageDraw.Draw(mask), edge * rng.uniform(0.06, 0.35)
        x, y = rng.uniform(0, size[0]), rng.uniform(0, size[1])
        for _ in range(rng.randint(2, 6)):
            dx, dy, s = rng.uniform(-r, r), rng.uniform(-r, r), rng.uniform(0.4, 1)
            draw.ellipse((x + dx - r * s, y + dy - r * s * 0.7, x + dx + r * s, y + dy + r * s * 0.7), fill=255)
        mask = mask.filter(ImageFilter.GaussianBlur(rng.uniform(1, 7)))
        _textured(
            studio,
            rng,
            picture,
            mask,
            tint(rng, rng.choice((*_SKINS, (150, 60, 40), (90, 120, 60), (70, 70, 80))), 40),
            rng.uniform(0.2, 0.5),
        )
    return picture


def _person(studio: Studio, rng: Random, size: Size) -> Image.Image:
    picture = (_landscape if rng.random() < 0.4 else _blobs)(studio, rng, size).filter(ImageFilter.GaussianBlur(4))
    width, height = size
    r = min(size) * rng.uniform(0.14, 0.24)
    cx, cy = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.3, 0.45)
    skin, hair = (
        tint(rng, rng.choice(_SKINS), 12),
        tint(rng, rng.choice(((40, 28, 20), (90, 60, 30), (160, 120, 70), (30, 30, 32), (150, 150, 150))), 12),
    )

    def put(box: tuple[float, float, float, float], color: Rgb, blur: float = 1.0) -> None:
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).ellipse(box, fill=255)
        _textured(studio, rng, picture, mask.filter(ImageFilter.GaussianBlur(blur)), color, 0.16)

    put(
        (cx - 2.4 * r, cy + 1.3 * r, cx + 2.4 * r, cy + 6 * r),
        tint(rng, rng.choice(((60, 70, 110), (130, 50, 50), (70, 90, 70), (200, 200, 195))), 30),
    )
    put((cx - 1.1 * r, cy - 1.5 * r, cx + 1.1 * r, cy + (1.9 if rng.random() < 0.5 else 0.4) * r), hair)
    put((cx - 0.4 * r, cy + 0.6 * r, cx + 0.4 * r, cy + 1.7 * r), skin)
    put((cx - 0.82 * r, cy - 1.0 * r, cx + 0.82 * r, cy + 1.1 * r), skin)
    for side in (-1, 1):
        put(
            (cx + side * 0.36 * r - 0.13 * r, cy - 0.15 * r, cx + side * 0.36 * r + 0.13 * r, cy + 0.02 * r),
            (45, 35, 30),
            0.5,
        )
    put((cx - 0.3 * r, cy + 0.55 * r, cx + 0.3 * r, cy + 0.7 * r), (160, 80, 80), 0.7)
    return picture


def _room(studio: Studio, rng: Random, size: Size) -> Image.Image:
    """Walls, a floor and boxes of furniture in soft light."""
    width, height = size
    picture = Image.new("RGB", size, tint(rng, (205, 195, 180)))
    full = Image.new("L", size, 255)
    _textured(studio, rng, picture, full, tint(rng, (205, 195, 180)), 0.2)
    floor = Image.new("L", size)
    ImageDraw.Draw(floor).polygon(
        [(0, height), (width * 0.1, height * 0.68), (width * 0.9, height * 0.66), (width, height)], fill=255
    )
    _textured(studio, rng, picture, floor, tint(rng, (130, 95, 65)), 0.3)
    for _ in range(rng.randint(3, 7)):
        x, y = rng.uniform(0, 0.8) * width, rng.uniform(0.2, 0.75) * height
        w, h = rng.uniform(0.1, 0.35) * width, rng.uniform(0.08, 0.3) * height
        lean = rng.uniform(-0.15, 0.15) * w
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon(
            [(x + lean, y), (x + w + lean, y + 0.1 * h), (x + w, y + h), (x, y + h * 0.9)], fill=255
        )
        _textured(
            studio,
            rng,
            picture,
            mask.filter(ImageFilter.GaussianBlur(1)),
            tint(rng, rng.choice(((90, 70, 55), (60, 80, 110), (180, 170, 160), (120, 50, 45), (40, 40, 45)))),
            0.3,
        )
    return picture
