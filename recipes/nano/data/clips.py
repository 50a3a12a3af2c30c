"""Clips of four to sixteen frames by number: what moves where, what changes colour, which word or shape comes when.

Owns the drawing of frames and the truth about them. A clip is drawn on one background, frame after frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import numpy as np

from recipes.nano.data.canvas import Canvas
from recipes.nano.data.clip_phrases import CLIP_ANSWERS, ask_clip
from recipes.nano.data.colors import article
from recipes.nano.data.grounds import Ground, pick_ink
from recipes.nano.data.labels import QA, SIDE, Split
from recipes.nano.data.phrases import quoted
from recipes.nano.data.scene_shapes import Item, allowed, count_answer
from recipes.nano.data.shapes import at, pick_shape, shape_mask
from recipes.nano.data.studio import Studio, studio

KINDS = ("move", "change", "words", "appear")
SHARES = (40, 20, 20, 20)
WAYS = {"to the right": (1, 0), "to the left": (-1, 0), "up": (0, -1), "down": (0, 1)}
FROM = {"to the right": ("left", "right"), "to the left": ("right", "left"), "up": ("bottom", "top"),
        "down": ("top", "bottom")}  # fmt: skip
Rgb = tuple[int, int, int]
Drawn = tuple[Item, Rgb]


@dataclass(frozen=True)
class Clip:
    """Frames uint8 `[n, 224, 224, 3]`, and every question about them."""

    frames: np.ndarray
    qa: list[QA]
    kind: str


def render_clip(index: int, split: Split, seed: int) -> Clip:
    """Draws clip number `index` of a split; the same on every machine that has the same fonts."""
    rng = Random(f"{seed}/{split}/clip/{index}")
    here = studio()
    while True:
        ground = here.grounds.pick(rng, (SIDE, SIDE), calm=0.6)
        kind = rng.choices(KINDS, SHARES)[0]
        made = _words(here, rng, split, ground) if kind == "words" else _shapes(rng, split, ground, kind)
        if made is not None:
            frames, qa = made
            return Clip(np.stack(frames), qa, kind)


def _shapes(rng: Random, split: Split, ground: Ground, kind: str) -> tuple[list[np.ndarray], list[QA]] | None:
    count = _length(rng)
    if kind == "move":
        return _move(rng, split, ground, count)
    if kind == "change":
        return _change(rng, split, ground, count)
    return _appear(rng, split, ground, count)


def _length(rng: Random) -> int:
    """Frames: mostly few, since each costs as much as a picture."""
    return rng.randint(4, 8) if rng.random() < 0.9 else rng.randint(9, 16)


def _pick(rng: Random, split: Split, ground: Ground, taken: list[Drawn]) -> tuple[str, str, Rgb] | None:
    """A shape and a colour that no other item of the clip has."""
    for _ in range(20):
        ink, kind = pick_ink(rng, ground, split), pick_shape(rng)
        fresh = ink and all(item.kind != kind and item.color != ink[0] for item, _ in taken)
        if ink and fresh and allowed(split, ink[0], kind):
            return kind, ink[0], ink[1]
    return None


def _move(rng: Random, split: Split, ground: Ground, count: int) -> tuple[list[np.ndarray], list[QA]] | None:
    """One shape moves across the middle; others stand at the edges it does not cross."""
    picked = _pick(rng, split, ground, [])
    if picked is None:
        return None
    kind, color, rgb = picked
    way = rng.choice(list(WAYS))
    dx, dy = WAYS[way]
    reach, radius, aside = rng.uniform(0.18, 0.33), rng.uniform(0.09, 0.15), rng.uniform(-0.1, 0.1)
    middle = (0.5 + aside * abs(dy), 0.5 + aside * abs(dx))
    mover: Drawn = (Item(kind, color, middle[0], middle[1], radius), rgb)
    still: list[Drawn] = []
    for side in rng.sample((0.13, 0.87), rng.randint(0, 2)):
        other = _pick(rng, split, ground, [mover, *still])
        if other:
            spot = (rng.uniform(0.15, 0.85), side) if dx else (side, rng.uniform(0.15, 0.85))
            still.append((Item(other[0], other[1], spot[0], spot[1], rng.uniform(0.07, 0.1)), other[2]))
    frames = []
    for step in np.linspace(-reach, reach, count):
        item = replace(mover[0], x=middle[0] + dx * step, y=middle[1] + dy * step)
        frames.append(_frame(ground, [(item, rgb), *still]))
    thing = mover[0].name
    start, end = (at(place) for place in FROM[way])
    said = CLIP_ANSWERS["moves"].format(thing=thing, way=way, start=start, end=end)
    return frames, [
        QA(ask_clip(rng, split, "clip"), said, "clip_caption", f"{thing}|{way}"),
        QA(ask_clip(rng, split, "what_moves"), said, "what_moves", thing),
        QA(ask_clip(rng, split, "direction", thing=thing), said, "direction", way),
    ]


def _change(rng: Random, split: Split, ground: Ground, count: int) -> tuple[list[np.ndarray], list[QA]] | None:
    """One shape changes its colour; up to two others keep theirs."""
    items: list[Drawn] = []
    cells = rng.sample([(x, y) for x in (0.25, 0.75) for y in (0.25, 0.75)], rng.randint(1, 3))
    for x, y in cells:
        picked = _pick(rng, split, ground, items)
        if picked:
            items.append((Item(picked[0], picked[1], x, y, rng.uniform(0.1, 0.18)), picked[2]))
    after = _pick(rng, split, ground, items) if items else None
    if after is None or not allowed(split, after[1], items[0][0].kind):
        return None
    turn = rng.randint(1, count - 1)
    changed = (replace(items[0][0], color=after[1]), after[2])
    frames = [_frame(ground, [items[0] if k < turn else changed, *items[1:]]) for k in range(count)]
    kind, one, other = items[0][0].kind, items[0][0].color, after[1]
    said = CLIP_ANSWERS["changes"].format(shape=kind, one=one, other=other)
    return frames, [
        QA(ask_clip(rng, split, "clip"), said, "clip_caption", f"{kind}|{one}|{other}"),
        QA(ask_clip(rng, split, "what_changes"), said, "what_changes", kind),
        QA(ask_clip(rng, split, "from_to", shape=kind), said, "from_to", f"from {one} to {other}"),
    ]


def _appear(rng: Random, split: Split, ground: Ground, count: int) -> tuple[list[np.ndarray], list[QA]] | None:
    """Two or three shapes come one after the other and stay."""
    items: list[Drawn] = []
    cells = rng.sample([(x, y) for x in (0.22, 0.5, 0.78) for y in (0.22, 0.5, 0.78)], rng.randint(2, 3))
    for x, y in cells:
        picked = _pick(rng, split, ground, items)
        if picked:
            items.append((Item(picked[0], picked[1], x, y, rng.uniform(0.09, 0.13)), picked[2]))
    if len(items) < 2:
        return None
    turns = [0, *sorted(rng.sample(range(1, count), len(items) - 1))]
    frames = [_frame(ground, [i for i, turn in zip(items, turns, strict=True) if k >= turn]) for k in range(count)]
    first, last = article(items[0][0].name), article(items[-1][0].name)
    return frames, [
        QA(
            ask_clip(rng, split, "clip"), CLIP_ANSWERS["appear"].format(one=first, other=last), "clip_caption",
            f"{first}|{last}",
        ),
        QA(ask_clip(rng, split, "order"), CLIP_ANSWERS["first"].format(a_thing=first), "order", first),
        QA(ask_clip(rng, split, "latest"), CLIP_ANSWERS["last"].format(a_thing=last), "latest", last),
        QA(ask_clip(rng, split, "count_end"), count_answer(len(items), "shape"), "count_end", str(len(items))),
    ]  # fmt: skip


def _words(here: Studio, rng: Random, split: Split, ground: Ground) -> tuple[list[np.ndarray], list[QA]] | None:
    """One word is replaced by another."""
    ink = pick_ink(rng, ground, split)
    if ink is None:
        return None
    face = here.letters.face(rng, split, capitals=rng.random() < 0.4)
    one, other = (here.words.phrase(rng, split, 1, capitals=face.caps_only) for _ in range(2))
    if one == other or max(len(one), len(other)) > 9:
        return None
    count = _length(rng)
    turn = rng.randint(1, count - 1)
    stills = []
    for word in (one, other):
        width, height = here.letters.natural(face, 100, word)
        em = min(100 * 0.88 * SIDE / width, 100 * 0.5 * SIDE / height, rng.uniform(40, 90))
        if em < 22:
            return None
        canvas = Canvas(ground.picture.copy(), dense=False)
        line = here.letters.line(face, word, em)
        left, top = (SIDE - line.mask.width) // 2, (SIDE - line.mask.height) // 2
        canvas.stamp(line.mask, left, top, ink[1], ink[0])
        stills.append(np.array(canvas.picture))
    frames = [stills[k >= turn] for k in range(count)]
    said = CLIP_ANSWERS["words"].format(one=quoted(one), other=quoted(other))
    return frames, [
        QA(ask_clip(rng, split, "clip"), said, "clip_caption", f"{quoted(one)}|{quoted(other)}"),
        QA(
            ask_clip(rng, split, "first_word"), CLIP_ANSWERS["first_word"].format(text=quoted(one)), "first_word",
            quoted(one),
        ),
        QA(
            ask_clip(rng, split, "last_word"), CLIP_ANSWERS["last_word"].format(text=quoted(other)), "last_word",
            quoted(other),
        ),
    ]  # fmt: skip


def _frame(ground: Ground, items: list[Drawn]) -> np.ndarray:
    canvas = Canvas(ground.picture.copy(), dense=False)
    for item, rgb in items:
        mask = shape_mask(item.kind, item.radius * SIDE)
        left, top = round(item.x * SIDE - mask.width / 2), round(item.y * SIDE - mask.height / 2)
        canvas.stamp(mask, left, top, rgb, item.color, shape=item.kind)
    return np.array(canvas.picture)
