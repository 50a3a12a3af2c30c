"""Words and logos: one to three words on a background, with or without an icon, a line or a box."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

import numpy as np
from PIL import Image, ImageDraw

from recipes.nano.data.canvas import Box, Canvas
from recipes.nano.data.colors import Rgb, article
from recipes.nano.data.fonts import Face
from recipes.nano.data.grounds import Ground, pick_ink
from recipes.nano.data.labels import SIDE, Split
from recipes.nano.data.lettering import Line, turned
from recipes.nano.data.scene_shapes import allowed
from recipes.nano.data.shapes import pick_shape, shape_mask
from recipes.nano.data.sizes import least_em, unit_of
from recipes.nano.data.studio import Studio

MIN_EM = 18.0  # no letter is drawn smaller than this font size
MIN_ADVANCE = 6.5  # nor squeezed narrower than this, on average


@dataclass
class WordPicture:
    """Everything true about one picture of words."""

    text: str
    face: Face
    color: str
    rgb: Rgb
    ground: Ground
    box: Box = field(default_factory=lambda: Box(0, 0, 1, 1))
    lines: int = 1
    tilt: float = 0.0
    icon: str | None = None  # "yellow star"
    icon_side: str = ""
    deco: str = ""  # "", "underline" or "box"
    stretch: float = 1.0
    size: tuple[int, int] = field(default=(SIDE, SIDE))

    @property
    def words(self) -> list[str]:
        return self.text.split(" ")


def draw_words(
    studio: Studio, rng: Random, split: Split, size: tuple[int, int] = (SIDE, SIDE)
) -> tuple[Canvas, WordPicture]:
    """One picture and the facts about it."""
    while True:
        ground = studio.grounds.pick(rng, size)
        ink = pick_ink(rng, ground, split)
        if ink is None:
            continue
        count = rng.choices((1, 2, 3), (62, 28, 10))[0]
        face = studio.letters.face(rng, split, capitals=rng.random() < 0.4, weighed=True)
        text = studio.words.phrase(rng, split, count, capitals=face.caps_only)
        scene = WordPicture(text, face, ink[0], ink[1], ground, size=size)
        canvas = Canvas(ground.picture, dense=size == (SIDE, SIDE))
        if _compose(studio, rng, split, canvas, scene):
            return canvas, scene


def _compose(studio: Studio, rng: Random, split: Split, canvas: Canvas, scene: WordPicture) -> bool:
    """Lays out and draws the scene; False if the words do not fit legibly."""
    width, height = scene.size
    icon_room = rng.random() < 0.28
    side = rng.choice(("left", "right", "top", "bottom")) if icon_room else ""
    shapes_up = side in ("top", "bottom")
    frame = (width * (0.66 if side in ("left", "right") else 0.94), height * (0.62 if shapes_up else 0.92))
    lines = _set_lines(studio, rng, scene, frame)
    if lines is None:
        return False
    leading = round(lines[0].em * rng.uniform(0.2, 0.4)) + 2
    block = (max(line.mask.width for line in lines), sum(x.mask.height for x in lines) + leading * (len(lines) - 1))
    if block[0] > frame[0] + 1 or block[1] > frame[1] + 1:
        return False
    left, top = _spot(rng, scene.size, block, side)
    _put_lines(rng, canvas, scene, lines, left, top, block[0], leading)
    scene.box = Box(left, top, left + block[0], top + block[1])
    scene.lines = len(lines)
    if icon_room:
        _put_icon(rng, split, canvas, scene, side)
    elif scene.tilt == 0 and rng.random() < 0.14:
        _put_deco(rng, canvas, scene)
    return True


def _set_lines(studio: Studio, rng: Random, scene: WordPicture, frame: tuple[float, float]) -> list[Line] | None:
    """The text as lines that fit the frame at a drawn size and stretch."""
    words = scene.words
    stacked = len(words) > 1 and rng.random() < (0.35 if scene.size[0] > scene.size[1] else 0.6)
    texts = words if stacked else [scene.text]
    longest = max(texts, key=len)
    tracking = rng.uniform(0.04, 0.22) if rng.random() < (0.22 if scene.text.isupper() else 0.06) else 0.0
    natural = studio.letters.natural(scene.face, 100, longest, tracking)
    small, large = least_em(scene.size, MIN_EM), 0.95 * scene.size[1]
    if small > large:
        return None
    em = small * (large / small) ** rng.random() if rng.random() < 0.5 else rng.uniform(small, large)
    stretch = _stretch(rng, scene.size == (SIDE, SIDE))
    if scene.size != (SIDE, SIDE) and rng.random() < (
        0.6 if scene.size[0] > 2 * scene.size[1] else 0.25
    ):  # a wordmark fills its picture
        em = max(small, min(large, rng.uniform(0.55, 0.97) * frame[0] / (natural[0] * stretch / 100)))
    wide = natural[0] * em / 100 * stretch
    if wide > frame[0]:  # shrink or squeeze until it fits; squeezed is how a wide logo's thumbnail looks
        if rng.random() < 0.6:
            em *= frame[0] / wide
        else:
            stretch *= frame[0] / wide
    per_line = frame[1] / (len(texts) * 1.32) / (natural[1] / 100)
    em = min(em, per_line)
    if (
        em < small - 0.01
        or natural[0] * em / 100 * stretch < MIN_ADVANCE * unit_of(scene.size) * len(longest)
        or not 0.2 < stretch < 2.2
    ):
        return None
    scene.stretch = stretch
    if len(texts) == 1 and rng.random() < 0.13 and wide < 0.8 * frame[0]:
        scene.tilt = rng.uniform(-8, 8)
    lines = [studio.letters.line(scene.face, text, em, stretch, tracking=tracking) for text in texts]
    return [turned(line, scene.tilt) for line in lines] if scene.tilt else lines


def _stretch(rng: Random, squeeze: bool) -> float:
    draw = rng.random()
    if draw < 0.5:
        return 1.0
    if draw < 0.82 or not squeeze:
        return rng.uniform(0.65, 1.7)
    return rng.uniform(0.24, 0.65)


def _spot(rng: Random, size: tuple[int, int], block: tuple[int, int], side: str) -> tuple[int, int]:
    """Where the block's top left corner goes; room is kept on the icon's side."""
    free = [size[0] - block[0], size[1] - block[1]]
    if side:
        share = {"left": (0.88, 0.5), "right": (0.12, 0.5), "top": (0.5, 0.88), "bottom": (0.5, 0.12)}[side]
    elif rng.random() < 0.5:
        share = (0.5 + rng.uniform(-0.06, 0.06), 0.5 + rng.uniform(-0.06, 0.06))
    else:
        share = (rng.uniform(0.04, 0.96), rng.uniform(0.04, 0.96))
    return round(free[0] * share[0]), round(free[1] * share[1])


def _put_lines(
    rng: Random, canvas: Canvas, scene: WordPicture, lines: list[Line], left: int, top: int, width: int, leading: int
) -> None:
    aligned = rng.choice((0.0, 0.5, 0.5))
    shade: Rgb | None = None
    if rng.random() < 0.07 and scene.ground.name != "colorful":
        tone = scene.ground.tones[0]
        shade = tuple(c // 2 if sum(tone) > 240 else c + 40 for c in tone)  # type: ignore[assignment]
    before = 0  # letters and spaces of the lines above
    for line, text in zip(lines, scene.words if len(lines) > 1 else [scene.text], strict=True):
        x = left + round((width - line.mask.width) * aligned)
        if shade and line.em > 40:
            canvas.picture.paste(shade, (x + 3, top + 3), line.mask)
        canvas.stamp(line.mask, x, top, scene.rgb, scene.color, chars=line.chars, order=line.order + np.uint8(before))
        before += len(text) + 1
        top += line.mask.height + leading


def _put_icon(rng: Random, split: Split, canvas: Canvas, scene: WordPicture, side: str) -> None:
    """A simple shape beside the words, if there is room for one that can be made out."""
    box, (width, height) = scene.box, scene.size
    room = {"left": box.left, "right": width - box.right, "top": box.top, "bottom": height - box.bottom}[side]
    across = height if side in ("left", "right") else width
    radius = min(room * 0.42, across * 0.42, max(box.height * rng.uniform(0.5, 1.0), 13 * unit_of(scene.size)))
    for _ in range(30):
        ink = (scene.color, scene.rgb) if rng.random() < 0.35 else pick_ink(rng, scene.ground, split)
        kind = pick_shape(rng)
        if ink and allowed(split, ink[0], kind) and radius >= 11 * unit_of(scene.size):
            break
    else:
        return
    gap = min(room - 2 * radius, radius * rng.uniform(0.3, 0.8))
    cx, cy = box.middle
    reach = gap + radius
    cx = {"left": box.left - reach, "right": box.right + reach}.get(side, cx)
    cy = {"top": box.top - reach, "bottom": box.bottom + reach}.get(side, cy)
    mask = shape_mask(kind, radius)
    canvas.stamp(mask, round(cx - mask.width / 2), round(cy - mask.height / 2), ink[1], ink[0], shape=kind)
    scene.icon = f"{ink[0]} {kind}"
    scene.icon_side = {"left": "to the left of", "right": "to the right of", "top": "above", "bottom": "below"}[side]


def _put_deco(rng: Random, canvas: Canvas, scene: WordPicture) -> None:
    """An underline or a box in the text's colour."""
    box, (width, height) = scene.box, scene.size
    pen = max(2, round(min(width, height) / 90))
    pad = pen * 2 + rng.randint(2, 6)
    mask = Image.new("L", scene.size)
    draw = ImageDraw.Draw(mask)
    if rng.random() < 0.5 and box.bottom + pad + pen < height and scene.lines == 1:
        draw.rectangle((box.left, box.bottom + pad // 2, box.right, box.bottom + pad // 2 + pen), fill=255)
        scene.deco = "underline"
    elif (
        box.left > pad + pen
        and box.top > pad + pen
        and box.right + pad + pen < width
        and box.bottom + pad + pen < height
    ):
        edges = (box.left - pad, box.top - pad, box.right + pad, box.bottom + pad)
        draw.rectangle(edges, outline=255, width=pen)
        scene.deco = "box"
    else:
        return
    canvas.picture.paste(scene.rgb, (0, 0), mask)


def icon_phrase(scene: WordPicture) -> str:
    """The icon with its article."""
    return article(scene.icon or "")
