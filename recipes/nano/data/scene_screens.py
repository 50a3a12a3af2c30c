"""Slides with a title and points, and phones that show a short message."""

from __future__ import annotations

from random import Random

from PIL import Image, ImageDraw

from recipes.nano.data.asking import ask, ask_scene, title_question
from recipes.nano.data.canvas import Box, Canvas
from recipes.nano.data.colors import Rgb, pick_rgb
from recipes.nano.data.grounds import Ground, clashing, pick_ink
from recipes.nano.data.labels import QA, SIDE, Split
from recipes.nano.data.phrases import answer, quoted
from recipes.nano.data.scene_phrases import say
from recipes.nano.data.shapes import listed
from recipes.nano.data.sizes import Size, least_em, unit_of
from recipes.nano.data.studio import Studio
from recipes.nano.data.writing import Ink, fitting, width_of, wrapped, write, write_lines

_LEAST = 16.0  # of a letter's font, in pixels of a tile
_NTH = ("first", "second", "third")
_BUBBLES = ("green", "blue", "white", "light green", "light blue", "light gray", "dark gray", "dark green", "dark blue")
_SCREENS = ("white", "white", "light gray", "black", "black", "dark gray", "light blue", "light yellow", "dark blue")


def draw_slide(studio: Studio, rng: Random, split: Split, size: Size = (SIDE, SIDE)) -> tuple[Canvas, list[QA]]:
    """A title, and two or three points beneath it."""
    while True:
        made = _slide(studio, rng, split, size)
        if made:
            return made


def _slide(studio: Studio, rng: Random, split: Split, size: Size) -> tuple[Canvas, list[QA]] | None:
    width, height = size
    ground = studio.grounds.pick(rng, size, calm=0.85)
    ink, points_ink = pick_ink(rng, ground, split), pick_ink(rng, ground, split)
    if ground.name in ("colorful", "gradient") or ink is None or points_ink is None:
        return None
    points_ink = ink if rng.random() < 0.6 else points_ink
    title = studio.words.phrase(rng, split, rng.choice((1, 1, 2)), longest=8)
    points = [
        studio.words.phrase(rng, split, rng.choice((1, 1, 1, 2)), longest=8) for _ in range(rng.choice((2, 2, 3)))
    ]
    face = studio.letters.face(rng, split, capitals=False)
    margin, least = 0.05 * min(size), least_em(size, _LEAST)
    head = Box(margin, margin, width - margin, height * rng.uniform(0.24, 0.34))
    pitch = (height - margin - head.bottom) / (len(points) + 0.3)
    biggest = min(fitting(studio, face, [title], head), head.height * 0.8)
    fit = min(
        fitting(studio, face, [f"  {p}" for p in points], Box(0, 0, width * 0.86 - margin, 99 * pitch)), 0.72 * pitch
    )
    em, small = biggest * rng.uniform(0.75, 1.0), fit * rng.uniform(0.7, 1.0)
    small = min(small, 0.9 * em)
    if min(em, small) < least:
        return None
    canvas = Canvas(ground.picture, dense=True)
    if rng.random() < 0.3:
        band = pick_ink(rng, Ground(ground.picture, (ink[1],), ink[0], names=clashing(ink[0])), split)
        if band:
            canvas.picture.paste(band[1], (0, 0, width, round(head.bottom)))
    middle = rng.random() < 0.5
    y = head.top + head.height / 2 + em * 0.36
    write(studio, canvas, face, em, ink, title, width / 2 if middle else margin, y, head.width, 0.5 if middle else 0.0)
    bullet, left = rng.choice(("dot", "dash", "square", "number", "none")), margin * rng.uniform(1.0, 2.5)
    for k, point in enumerate(points):
        y = head.bottom + pitch * (k + 0.8)
        if bullet == "number":
            write(studio, canvas, face, small, points_ink, str(k + 1), left, y)
        else:
            _bullet(canvas, bullet, left, y - small * 0.34, small, points_ink)
        write(
            studio,
            canvas,
            face,
            small,
            points_ink,
            point,
            left + small * 1.1,
            y,
            width - left - small * 1.1 - 0.6 * margin,
        )
    return canvas, _slide_questions(rng, split, title, points, ground)


def _bullet(canvas: Canvas, kind: str, x: float, y: float, em: float, ink: Ink) -> None:
    draw, r = ImageDraw.Draw(canvas.picture), em * 0.14
    if kind == "dot":
        draw.ellipse((x, y - r, x + 2 * r, y + r), fill=ink[1])
    elif kind != "none":
        flat = r if kind == "square" else r * 0.35
        draw.rectangle((x, y - flat, x + 2.4 * r, y + flat), fill=ink[1])


def _slide_questions(rng: Random, split: Split, title: str, points: list[str], ground: Ground) -> list[QA]:
    count, named = str(len(points)), [quoted(point) for point in points]
    said = say("caption_slide", text=quoted(title), count=count, list=listed(named))
    keys = "|".join([f"title {quoted(title)}", f"{count} points", *named])
    made = [
        QA(ask(rng, split, "caption"), said, "caption_slide", keys),
        title_question(rng, split, title),
        title_question(rng, split, title),
        QA(ask_scene(rng, split, "points"), say("points", list=listed(named)), "points", "|".join(named)),
        QA(ask_scene(rng, split, "count_points"), say("count_points", count=count), "count_all", count),
    ]
    for k, name in enumerate(named):
        question = ask_scene(rng, split, "point", nth=_NTH[k])
        made.append(QA(question, say("point", nth=_NTH[k], text=name), "point", name))
    return made


def draw_phone(studio: Studio, rng: Random, split: Split, size: Size = (SIDE, SIDE)) -> tuple[Canvas, list[QA]]:
    """A screen with one bubble of one to four words."""
    while True:
        made = _phone(studio, rng, split, size)
        if made:
            return made


def _phone(studio: Studio, rng: Random, split: Split, size: Size) -> tuple[Canvas, list[QA]] | None:
    width, height = size
    name = rng.choice(_SCREENS)
    screen = studio.grounds.plain(rng, size, name)
    bubble = rng.choice([b for b in _BUBBLES if b not in screen.names and b != name])
    rgb = pick_rgb(bubble, rng)
    if sum(abs(a - b) for a, b in zip(rgb, screen.tones[0], strict=True)) < 60:
        return None
    ink: Ink = ("white", (255, 255, 255)) if _is_dark(rgb) else ("black", (15, 15, 15))
    if ink[0] in clashing(bubble):
        return None
    text = studio.words.phrase(rng, split, rng.choices((1, 2, 3, 4), (34, 34, 20, 12))[0], longest=8)
    face = rng.choice(rng.choice(studio.letters.book.groups(split, False)))
    unit, edge = unit_of(size), min(size)
    em = max(least_em(size, _LEAST), edge * rng.uniform(0.06, 0.16))
    lines = wrapped(studio, face, em, text, width * 0.72)
    wide = max(width_of(studio, face, line, em) for line in lines)
    pad = em * rng.uniform(0.4, 0.7)
    high = em * (1.0 + 1.25 * (len(lines) - 1)) + 2 * pad
    bar = max(10 * unit, 0.05 * edge)
    if wide > width * 0.8 or high > height - 2.4 * bar:
        return None
    canvas = Canvas(screen.picture, dense=True)
    _chrome(rng, canvas, bar, unit, screen.tones[0])
    left = (width - wide - 2 * pad) * rng.choice((0.06, 0.94, 0.94))
    top = bar * 1.6 + (height - high - 2.2 * bar) * rng.random()
    box = Box(left, top, left + wide + 2 * pad, top + high)
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).rounded_rectangle(box, min(pad * 1.3, high / 2), fill=255)
    canvas.picture.paste(rgb, (0, 0), mask)
    frame = Box(left + pad, top + pad, left + pad + wide, top + high - pad)
    write_lines(studio, canvas, face, em, ink, lines, frame, anchor=0.0)
    return canvas, _phone_questions(rng, split, text, ink, screen)


def _is_dark(rgb: Rgb) -> bool:
    return 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2] < 150


def _chrome(rng: Random, canvas: Canvas, bar: float, unit: float, tone: Rgb) -> None:
    """The status bar with its battery and signal, and now and then a field to type in; no letters."""
    draw = ImageDraw.Draw(canvas.picture)
    grey = (190, 190, 190) if _is_dark(tone) else (90, 90, 90)
    faint: Rgb = tuple(t + (24 if _is_dark(tone) else -18) for t in tone)  # type: ignore[assignment]
    width, height, pad = canvas.width, canvas.height, bar * 0.3
    if rng.random() < 0.6:
        draw.rectangle((0, 0, width, bar), fill=faint)
    if rng.random() < 0.85:
        draw.rectangle((width - pad - bar * 0.8, pad, width - pad, bar - pad), outline=grey, width=max(1, round(unit)))
        draw.rectangle((width - pad - bar * 0.8, pad, width - pad - bar * rng.uniform(0.2, 0.6), bar - pad), fill=grey)
        for k in range(4):
            x = width - pad - bar * (1.2 + 0.22 * (4 - k))
            draw.rectangle((x, bar - pad - bar * 0.12 * (k + 1), x + bar * 0.13, bar - pad), fill=grey)
    if rng.random() < 0.5:
        box = (pad, height - bar * 1.0, width - pad, height - pad * 0.6)
        draw.rounded_rectangle(box, bar * 0.3, outline=grey, width=max(1, round(unit)))


def _phone_questions(rng: Random, split: Split, text: str, ink: Ink, screen: Ground) -> list[QA]:
    shown, count = quoted(text), len(text.split(" "))
    kind = f"read{count}"
    made = [
        QA(ask(rng, split, "caption"), say("caption_phone", text=shown), "caption_phone", f"a phone|{shown}"),
        QA(ask_scene(rng, split, "message"), say("message", text=shown), kind, shown),
        QA(ask(rng, split, "read"), answer("read", text=shown), kind, shown),
        QA(ask(rng, split, "text_color"), answer("text_color", color=ink[0]), "text_color", ink[0]),
        screen.qa(rng, split),
    ]
    word = answer("count_word") if count == 1 else answer("count_words", count=count)
    made.append(QA(ask(rng, split, "count_words"), word, "count_words", str(count)))
    return made
