"""Full pages of letters without questions: what the vision encoder learns to read from, in four steps."""

from __future__ import annotations

import string
from random import Random

from PIL import Image

from recipes.nano.data.canvas import Canvas
from recipes.nano.data.colors import Rgb
from recipes.nano.data.fonts import Face
from recipes.nano.data.grounds import pick_ink
from recipes.nano.data.labels import CHARS, SIDE, Sample, Split, Stage
from recipes.nano.data.studio import Studio

_SIGNS = "".join(c for c in CHARS if not c.isalnum())
_SIZES = ((22.0, 36.0), (19.0, 45.0), (19.0, 72.0), (16.0, 36.0))  # of the letters on each step's pages


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
    chars, shape, color, order = canvas.labels()
    return Sample(picture, [], chars, shape, color, order)


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


def _hand(studio: Studio, rng: Random, split: Split, step: int) -> tuple[Face, float]:
    """A face and a size; small sizes as common as large ones on a logarithmic scale."""
    low, high = _SIZES[step - 1]
    em = low * (high / low) ** rng.random()
    if step <= 2:
        group = rng.choice(studio.letters.book.plain())
        return (group[0] if step == 1 else rng.choice(group)), em
    return studio.letters.face(rng, split, capitals=rng.random() < 0.3), em


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
    studio: Studio, rng: Random, canvas: Canvas, face: Face, em: float, top: int, ink: tuple[str, Rgb], step: int
) -> float:
    """Fills one row from left to right, in runs with gaps between; returns the height of its capitals."""
    letters = studio.letters
    left = rng.randint(-6, 10)
    stretch = rng.uniform(0.55, 1.5) if step >= 3 and rng.random() < 0.5 else 1.0
    signs = _signs(rng, face, step)
    gaps = len(signs) * (0.2 if step < 4 else rng.choice((0.2, 0.4, 1.2)))
    drawn = "".join(rng.choices(signs + " " * max(1, round(gaps)), k=70)).lstrip()
    line = letters.line(face, drawn or "O", em, stretch, room=SIDE + 25 - left)
    canvas.stamp(line.mask, left, top + round(line.drop), ink[1], ink[0], chars=line.chars)
    return letters.ascent(face, em)
