"""Signs, buttons, labels and banners: one or two words on a plate of one colour."""

from __future__ import annotations

import math
from random import Random
from typing import NamedTuple

from PIL import Image, ImageDraw

from recipes.nano.data.asking import ask, ask_scene
from recipes.nano.data.canvas import Box, Canvas
from recipes.nano.data.colors import Rgb, article
from recipes.nano.data.grounds import Ground, clashing, pick_ink
from recipes.nano.data.labels import QA, SIDE, Split
from recipes.nano.data.phrases import answer, quoted
from recipes.nano.data.scene_phrases import say
from recipes.nano.data.scene_words import WordPicture
from recipes.nano.data.sizes import Size, least_em
from recipes.nano.data.studio import Studio
from recipes.nano.data.word_questions import word_questions
from recipes.nano.data.words import held_out_word
from recipes.nano.data.writing import Ink, fitting, write_lines

WORDS = (
    "STOP", "STOP", "STOP", "STOP", "STOP", "STOP", "EXIT", "OPEN", "SALE", "CLOSED", "PUSH", "PULL", "WAIT", "SLOW",
    "TAXI", "BUS", "YIELD",
    "PARKING", "ENTER", "DANGER", "CAUTION", "HELP", "FREE", "NEW", "HOTEL", "CAFE", "PIZZA", "BAKERY", "SCHOOL",
    "POLICE", "TOILET", "INFO", "WARNING", "PRIVATE", "STAFF ONLY", "NO ENTRY", "ONE WAY", "KEEP OUT", "FOR RENT",
    "FOR SALE", "BUS STOP", "NO PARKING", "WET FLOOR", "SLOW DOWN", "NO SMOKING", "FIRE EXIT", "WELCOME", "BUY NOW",
    "SIGN UP", "LOG IN", "SEND", "SAVE", "CANCEL", "DELETE", "SEARCH", "LOGIN", "SUBMIT", "NEXT", "BACK", "SHOP NOW",
    "START", "PLAY", "COFFEE", "BEER", "BOOKS", "FLOWERS", "MUSEUM", "BANK", "GARAGE", "LIBRARY", "AIRPORT", "HOSPITAL",
)  # fmt: skip
_ROOM = {
    "octagon": (0.84, 0.5),
    "circle": (0.8, 0.44),
    "diamond": (0.62, 0.34),
    "plate": (0.88, 0.76),
    "pill": (0.82, 0.7),
}


class Plate(NamedTuple):
    """What the words stand on."""

    kind: str  # of _ROOM
    box: Box
    color: str
    rgb: Rgb
    rim: Rgb | None


def draw_sign(studio: Studio, rng: Random, split: Split, size: Size = (SIDE, SIDE)) -> tuple[Canvas, list[QA]]:
    """A sign, button or label with its questions."""
    made = None
    while made is None:
        made = _try(studio, rng, split, size, rng.choices(("sign", "button", "label"), (60, 22, 18))[0])
    return made


def _try(studio: Studio, rng: Random, split: Split, size: Size, thing: str) -> tuple[Canvas, list[QA]] | None:
    """None where the words do not fit legibly."""
    text = sign_words(studio, rng, split)
    ground = studio.grounds.pick(rng, size, calm=0.35)
    plate = _plate(rng, split, ground, size, thing, text)
    under = plate and Ground(ground.picture, (plate.rgb,), plate.color, names=clashing(plate.color))
    ink = under and pick_ink(rng, under, split)
    if plate is None or ink is None:
        return None
    if rng.random() < 0.5 and plate.color in ("red", "blue", "green", "black", "purple", "brown"):
        ink = ("white", (255, 255, 255))
    face = studio.letters.face(rng, split, capitals=text.isupper(), weighed=True)
    lines = _lines(text, plate)
    across, down = _ROOM[plate.kind]
    (cx, cy), box = plate.box.middle, plate.box
    frame = Box(
        cx - box.width * across / 2, cy - box.height * down / 2, cx + box.width * across / 2, cy + box.height * down / 2
    )
    em = fitting(studio, face, lines, frame) * rng.uniform(0.72, 1.0)
    if em < least_em(size, 17.0):
        return None
    canvas = Canvas(ground.picture, dense=True)
    _draw_plate(rng, canvas, plate, ink, thing)
    where = write_lines(studio, canvas, face, em, ink, lines, frame)
    covered = box.width * box.height / (size[0] * size[1])
    scene = WordPicture(text, face, ink[0], ink[1], ground, where, len(lines), size=size)
    return canvas, _questions(studio, rng, split, scene, plate, thing, covered < 0.55)


def sign_words(studio: Studio, rng: Random, split: Split) -> str:
    """What signs say, or any words: only those of the split."""
    for _ in range(12 if rng.random() < 0.62 else 0):
        text = rng.choice(WORDS)
        if all(held_out_word(word) == (split == "heldout") for word in text.split(" ")):
            text = text if rng.random() < 0.75 else text.capitalize()
            if studio.words.spelled(text):
                return text
    return studio.words.phrase(rng, split, 1 if rng.random() < 0.7 else 2, longest=8)


def _plate(rng: Random, split: Split, ground: Ground, size: Size, thing: str, text: str) -> Plate | None:
    ink = pick_ink(rng, ground, split)
    if ink is None:
        return None
    width, height = size
    kind = {"button": rng.choice(("plate", "pill", "pill")), "label": "plate"}.get(thing) or rng.choices(
        ("octagon", "plate", "circle", "diamond"), (40, 36, 12, 12)
    )[0]
    if kind == "octagon" and rng.random() < 0.7 and "red" not in ground.names:
        ink = ("red", (200 + rng.randint(0, 40), rng.randint(0, 24), rng.randint(0, 28)))
    if kind in ("plate", "pill"):
        wide = rng.uniform(0.5, 0.96) * width
        high = min(rng.uniform(0.2, 0.8) * height, wide * rng.uniform(0.25, 0.75))
    else:
        wide = high = rng.uniform(0.6, 0.98) * min(size)
    left = (width - wide) * (0.5 if rng.random() < 0.5 else rng.random())
    top = (height - high) * (0.5 if rng.random() < 0.5 else rng.random())
    rim = None
    if rng.random() < 0.5:
        rim = (255, 255, 255) if ink[0] != "white" else (20, 20, 20)
    return Plate(kind, Box(left, top, left + wide, top + high), *ink, rim)


def _lines(text: str, plate: Plate) -> list[str]:
    words = text.split(" ")
    stacked = len(words) > 1 and plate.box.width < 2.2 * plate.box.height
    return words if stacked else [text]


def _draw_plate(rng: Random, canvas: Canvas, plate: Plate, ink: Ink, thing: str) -> None:
    box, picture = plate.box, canvas.picture
    if thing == "sign" and rng.random() < 0.5 and box.bottom < canvas.height - 6:
        half = max(2, round(box.width * rng.uniform(0.02, 0.05)))
        middle = round(box.middle[0])
        picture.paste((120, 120, 124), (middle - half, round(box.middle[1]), middle + half, canvas.height))
    if thing == "button" and rng.random() < 0.4:
        drop = max(1, round(box.height * 0.05))
        shade = Box(box.left + drop, box.top + drop, box.right + drop, box.bottom + drop)
        picture.paste((90, 90, 90), (0, 0), _mask(canvas, plate.kind, shade, 0))
    if plate.rim:
        picture.paste(plate.rim, (0, 0), _mask(canvas, plate.kind, box, 0))
    inset = min(box.width, box.height) * rng.uniform(0.02, 0.05) if plate.rim else 0.0
    picture.paste(plate.rgb, (0, 0), _mask(canvas, plate.kind, box, inset))
    if not plate.rim and thing != "button" and rng.random() < 0.4:
        at = min(box.width, box.height) * 0.05
        picture.paste(ink[1], (0, 0), _mask(canvas, plate.kind, box, at))
        picture.paste(plate.rgb, (0, 0), _mask(canvas, plate.kind, box, at * 1.6))


def _mask(canvas: Canvas, kind: str, box: Box, inset: float) -> Image.Image:
    fine = 2 if max(canvas.width, canvas.height) < 500 else 1
    mask = Image.new("L", (canvas.width * fine, canvas.height * fine))
    edges = tuple(fine * v for v in (box.left + inset, box.top + inset, box.right - inset, box.bottom - inset))
    draw = ImageDraw.Draw(mask)
    (x, y), radius = ((edges[0] + edges[2]) / 2, (edges[1] + edges[3]) / 2), (edges[2] - edges[0]) / 2
    if kind in ("octagon", "diamond"):
        corners, start = (8, 22.5) if kind == "octagon" else (4, 0.0)
        reach = radius / math.cos(math.pi / 8) if corners == 8 else radius
        angles = [math.radians(start + 360 * k / corners) for k in range(corners)]
        draw.polygon([(x + reach * math.cos(a), y + reach * math.sin(a)) for a in angles], fill=255)
    elif kind == "circle":
        draw.ellipse(edges, fill=255)
    else:
        round_by = (edges[3] - edges[1]) * (0.5 if kind == "pill" else 0.08)
        draw.rounded_rectangle(edges, round_by, fill=255)
    return mask if fine == 1 else mask.resize((canvas.width, canvas.height), Image.Resampling.BOX)


def _questions(
    studio: Studio, rng: Random, split: Split, scene: WordPicture, plate: Plate, thing: str, around: bool
) -> list[QA]:
    """Of the words as of any words; of the plate its colour; of what is around it only where enough is seen."""
    unwanted = {"caption_words", "icon", *(() if around else ("background",))}
    kept = [
        qa for qa in word_questions(rng, split, scene, studio.words)
        if qa.kind not in unwanted and (qa.after is None or qa.after.kind not in unwanted)
    ]  # fmt: skip
    text, count = quoted(scene.text), len(scene.words)
    kind = f"caption_{thing}" + ("s" if count > 1 else "")
    said = say(kind, color=article(plate.color), text=text, ink=scene.color)
    keys = f"{plate.color} {thing}|{text}|in {scene.color} letters"
    return [
        QA(ask(rng, split, "caption"), said, "caption_words", keys),
        QA(ask_scene(rng, split, thing), answer("read", text=text), f"read{count}", text),
        QA(
            ask_scene(rng, split, f"{thing}_color"), say(f"{thing}_color", color=plate.color), "shape_color",
            plate.color,
        ),
        *kept,
    ]  # fmt: skip
