"""Full pages of letters without questions: what the vision encoder learns to read from, in four steps."""

from __future__ import annotations

import string
from random import Random

from PIL import Image

from recipes.data.canvas import Canvas
from recipes.data.colors import Rgb
from recipes.data.fonts import Face
from recipes.data.grounds import pick_ink
from recipes.data.labels import CHARS, SIDE, Sample, Split, Stage
from recipes.data.studio import Studio

_SIGNS = "".join(c for c in CHARS if not c.isalnum())
_PAGE_SIZES = (14, 16, 18, 20, 23, 26, 30, 36, 44, 56, 72)


def render_page(studio: Studio, rng: Random, split: Split, stage: Stage) -> Sample:
    """One page of the given step."""
    step = int(stage[-1])
    canvas, inks = _sheet(studio, rng, split, step)
    top = -rng.randint(0, 12)
    face, size = _hand(studio, rng, split, step)
    one_hand = step < 3 or rng.random() < 0.4
    while top < SIDE:
        if not one_hand:
            face, size = _hand(studio, rng, split, step)
        name, rgb = rng.choice(inks)
        height = _write_row(studio, rng, canvas, face, size, top, (name, rgb), step)
        top += round(height * rng.uniform(1.0, 1.25 if step < 4 else 1.9)) + rng.randint(1, 5)
    if step >= 3:
        studio.weather(canvas, rng)
    picture = studio.pixels(canvas)
    chars, shape, color = canvas.labels()
    return Sample(picture, [], chars, shape, color)


def _sheet(studio: Studio, rng: Random, split: Split, step: int) -> tuple[Canvas, list[tuple[str, Rgb]]]:
    """The background of this step and the inks for it."""
    size = (SIDE, SIDE)
    if step <= 2:
        inverted = step == 2 and rng.random() < 0.5
        ground, ink = ("black", "white") if inverted else ("white", "black")
        rgbs: dict[str, Rgb] = {"white": (255, 255, 255), "black": (0, 0, 0)}
        return Canvas(Image.new("RGB", size, rgbs[ground]), dense=True), [(ink, rgbs[ink])]
    while True:
        ground_ = studio.grounds.pick(rng, size, calm=0.7 if step == 3 else 0.0)
        inks = [ink for ink in (pick_ink(rng, ground_, split) for _ in range(3)) if ink]
        if inks:
            return Canvas(ground_.picture, dense=True), inks


def _hand(studio: Studio, rng: Random, split: Split, step: int) -> tuple[Face, int]:
    """A face and a size."""
    if step == 1:
        face = rng.choice(studio.letters.book.plain())[0]
        return face, rng.choice(_PAGE_SIZES[4:8])
    if step == 2:
        return rng.choice(rng.choice(studio.letters.book.plain())), rng.choice(_PAGE_SIZES[3:9])
    face = studio.letters.face(rng, split, capitals=rng.random() < 0.3)
    return face, rng.choice(_PAGE_SIZES[3:] if step == 3 else _PAGE_SIZES[:8])


def _signs(rng: Random, face: Face, step: int) -> str:
    """The characters one row is drawn from."""
    if step == 1 or face.caps_only:
        return string.ascii_uppercase + (string.digits if step > 1 else "")
    draw = rng.random()
    if draw < 0.25:
        return string.ascii_uppercase
    if draw < 0.5:
        return string.ascii_lowercase
    if draw < 0.62:
        return string.digits + _SIGNS
    return string.ascii_letters + string.digits


def _write_row(
    studio: Studio, rng: Random, canvas: Canvas, face: Face, size: int, top: int, ink: tuple[str, Rgb], step: int
) -> int:
    """Fills one row from left to right, in runs with gaps between; returns its height."""
    left = rng.randint(-6, 10)
    signs = _signs(rng, face, step)
    stretch = rng.uniform(0.55, 1.5) if step >= 3 and rng.random() < 0.5 else 1.0
    ascent = studio.letters.ascent(face, size)
    while left < SIDE:
        text = "".join(rng.choices(signs, k=rng.randint(2, 9)))
        line = (
            studio.letters.line(face, text, size, stretch) if stretch != 1.0 else studio.letters.exact(face, size, text)
        )
        canvas.stamp(line.mask, left, top + studio.letters.drop(face, size, text), *reversed(ink), chars=line.chars)
        left += line.mask.width + round(
            size * stretch * (rng.uniform(0.15, 0.5) if step < 4 else rng.uniform(0.2, 2.0))
        )
    return ascent
