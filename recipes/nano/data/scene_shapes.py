"""Pictures of one to six coloured shapes and the questions about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from recipes.nano.data.asking import ask
from recipes.nano.data.canvas import Canvas
from recipes.nano.data.colors import article
from recipes.nano.data.grounds import Ground, held_out_pair, pick_ink
from recipes.nano.data.labels import COLORS, QA, SHAPES, SIDE, Split, capital, small
from recipes.nano.data.phrases import answer, concluded
from recipes.nano.data.shapes import (
    asked_pair,
    at,
    counted,
    listed,
    marked,
    numbered,
    pick_shape,
    place_name,
    plural,
    shape_mask,
)
from recipes.nano.data.sizes import Size
from recipes.nano.data.studio import Studio
from recipes.nano.data.turns import follow

_CELLS = (0.2, 0.5, 0.8)
_RELATIONS = (("left of", "right of"), ("above", "below"))


@dataclass(frozen=True)
class Item:
    """One drawn shape; x and y are shares of the picture's width and height, the radius of its shorter edge."""

    kind: str
    color: str
    x: float
    y: float
    radius: float

    @property
    def name(self) -> str:
        return f"{self.color} {self.kind}"

    @property
    def place(self) -> str:
        return place_name(self.x, self.y) or "center"


def draw_shapes(studio: Studio, rng: Random, split: Split, size: Size = (SIDE, SIDE)) -> tuple[Canvas, list[QA]]:
    """One picture with its questions."""
    ground = studio.grounds.pick(rng, size, calm=0.45)
    canvas = Canvas(ground.picture, dense=True)
    items = _scatter(rng, ground, split, size)
    edge = min(size)
    for item, rgb in items:
        mask = shape_mask(item.kind, item.radius * edge, rng.uniform(-8, 8) if rng.random() < 0.3 else 0.0)
        left, top = round(item.x * size[0] - mask.width / 2), round(item.y * size[1] - mask.height / 2)
        canvas.stamp(mask, left, top, rgb, item.color, shape=item.kind)
    shapes = [item for item, _ in items]
    return canvas, shape_questions(rng, split, shapes, ground) if shapes else [_nothing(rng, split)]


def _nothing(rng: Random, split: Split) -> QA:
    return QA(ask(rng, split, "count_all"), answer("no_shapes"), "absent", "no shapes")


def allowed(split: Split, color: str, kind: str) -> bool:
    """Whether this colour and shape may be named together in this split."""
    return split == "heldout" or not held_out_pair("shape", color, kind)


def concluding_questions(rng: Random, split: Split, items: list[Item]) -> list[QA]:
    """Those whose answers follow from what they say was seen."""
    makes = (_count_kind, _count_color, _exists, _where, _relation, _which, _color_of)
    made = [qa for make in (*makes, *makes[:5], _relation, _relation) if (qa := make(rng, split, items))]
    return [qa for qa in made if ": " in qa.answer]


def imagined(rng: Random, split: Split) -> list[Item]:
    """Shapes that could stand in a picture."""
    count = rng.choices((1, 2, 3, 4, 5, 6), (6, 18, 22, 20, 18, 16))[0]
    cells = rng.sample([(x, y) for y in _CELLS for x in _CELLS], count)
    kinds = rng.sample(SHAPES, rng.choice((2, 2, 3, 4, 6)))
    colors = rng.sample(COLORS, rng.choice((1, 2, 2, 3, 4, 6)))
    pairs = [(k, c) for k in kinds for c in colors if allowed(split, c, k)] or [("star", "red")]
    items = [Item(*rng.choice(pairs), x, y, 0.1) for x, y in cells]
    return sorted(items, key=lambda i: (i.y, i.x))


def _scatter(rng: Random, ground: Ground, split: Split, size: Size) -> list[tuple[Item, tuple[int, int, int]]]:
    """Shapes in different ninths of the picture that do not touch."""
    count = rng.choices((1, 2, 3, 4, 5, 6), (18, 22, 22, 16, 12, 10))[0]
    cells = rng.sample([(x, y) for x in _CELLS for y in _CELLS], count)
    few = rng.sample(SHAPES, 2) if rng.random() < 0.35 else None  # pictures with several of a kind
    palette = [ink for ink in (pick_ink(rng, ground, split) for _ in range(rng.choice((1, 2, 4, 6)))) if ink]
    wide, high = size[0] / min(size), size[1] / min(size)
    least = 0.065 if size == (SIDE, SIDE) or max(wide, high) > 1.6 else 0.045
    placed: list[tuple[Item, tuple[int, int, int]]] = []
    for cx, cy in cells:
        x, y = cx + rng.uniform(-0.07, 0.07), cy + rng.uniform(-0.07, 0.07)
        room = min(x * wide, y * high, (1 - x) * wide, (1 - y) * high) - 0.015
        room = min([room, *(_gap(x * wide, y * high, o.x * wide, o.y * high) - o.radius - 0.02 for o, _ in placed)])
        radius = min(room, rng.uniform(least + 0.005, 0.2 if count > 1 else 0.45))
        fit = [(i, k) for i in palette for k in (few or SHAPES) if allowed(split, i[0], k)]
        if radius < least or not fit:
            continue
        (color, rgb), kind = rng.choice(fit)
        placed.append((Item(kind, color, x, y, radius), rgb))
    return sorted(placed, key=lambda p: (int(p[0].y * 3), p[0].x))


def _gap(x: float, y: float, ox: float, oy: float) -> float:
    return float(((x - ox) ** 2 + (y - oy) ** 2) ** 0.5)


def shape_questions(rng: Random, split: Split, items: list[Item], ground: Ground) -> list[QA]:
    """The caption and a draw of the rest."""
    rest = [
        _count_all(rng, split, items), _count_kind(rng, split, items), _count_color(rng, split, items),
        _exists(rng, split, items), ground.qa(rng, split),
    ]  # fmt: skip
    for make in (_color_of, _which, _where, _shape_at, _relation, _bigger):
        made = make(rng, split, items)
        rest += [made] if made else []
    for make in (_count_kind, _count_color, _exists, _where, _relation, _relation):  # what is hard, asked again
        made = make(rng, split, items)
        rest += [made] if made and all(made.question != qa.question for qa in rest) else []
    rng.shuffle(rest)
    made = [_caption(rng, split, items, ground), *rest[: rng.randint(6, 8)]]
    return [*made, *(_turns(rng, split, items) if rng.random() < 0.5 else ())]


def _turns(rng: Random, split: Split, items: list[Item]) -> list[QA]:
    """A second question about the shape that the first one named."""
    item = rng.choice(items)
    name = _name_of(item, items)
    if name is None:
        return []
    color = ("color", answer("shape_color", thing=item.kind, color=item.color), item.color)
    place = ("place", answer("where", thing=name, at=at(item.place)), at(item.place))
    shape = ("shape", answer("which_shape", color=item.color, a_thing=article(item.kind)), item.kind)
    placed = (place[0], _placed(items, place[1], item), place[2])
    there = QA(
        ask(rng, split, "shape_at", at=at(item.place)),
        answer("shape_at", a_thing=article(item.name), at=at(item.place)), "shape_at", item.name,
    )  # fmt: skip
    choices = [(there, color), (there, shape)]
    if _single(items, lambda i: i.color).count(item):
        said = _which_told(items, item)
        choices.append((QA(ask(rng, split, "which_shape", color=item.color), said, "which_shape", item.kind), placed))
    if name == item.kind:
        said = _colored(items, color[1], item)
        choices += [
            (QA(ask(rng, split, "where", thing=name), placed[1], "where", place[2]), color),
            (QA(ask(rng, split, "shape_color", thing=name), said, "shape_color", item.color), placed),
        ]
    before, (asked, said, key) = rng.choice(choices)
    return [follow(rng, split, asked, before, said, key)]


def _caption(rng: Random, split: Split, items: list[Item], ground: Ground) -> QA:
    parts = [f"{article(item.name)} {at(item.place)}" for item in items]
    kind = "caption_shapes" if len(items) > 1 else "caption_shape"
    text = answer(kind, list=listed(parts), ground=ground.phrase, count=len(items))
    return QA(ask(rng, split, "caption"), text, "caption_shapes", "|".join([*dict.fromkeys(parts), ground.key]))


def count_answer(count: int, thing: str) -> str:
    """There are so many."""
    if count == 1:
        return answer("count_one", thing=thing)
    return (
        answer("count_many", count=count, things=plural(thing)) if count else answer("count_none", things=plural(thing))
    )


def _seen(items: list[Item], verdict: str, asked: Callable[[Item], bool]) -> str:
    """All shapes in reading order, those asked for counted, then what follows."""
    names = marked([article(i.name) for i in items], counted([asked(i) for i in items]))
    return concluded("seen", verdict, list=listed(names))


def _told(things: list[str], verdict: str) -> str:
    """What is true of every shape, then what was asked in the very words that stand there already; of a lone shape
    only that. One among several is found by going through them, and said by saying its words again."""
    if len(things) == 1:
        return verdict
    return capital(concluded("listed", verdict, list=listed(things)))


def _placed(items: list[Item], verdict: str, *asked: Item) -> str:
    """All shapes with their places, those asked for numbered as the question names them, then what follows."""
    names = marked([f"the {i.name}" for i in items], numbered(items, asked))
    return _told([f"{name} is {at(i.place)}" for name, i in zip(names, items, strict=True)], verdict)


def _colored(items: list[Item], verdict: str, asked: Item) -> str:
    names = marked([f"the {i.kind}" for i in items], numbered(items, (asked,)))
    return _told([f"{name} is {i.color}" for name, i in zip(names, items, strict=True)], verdict)


def _count_key(count: int) -> str:
    return str(count) if count else "no"


def _count_all(rng: Random, split: Split, items: list[Item]) -> QA:
    return QA(ask(rng, split, "count_all"), count_answer(len(items), "shape"), "count_all", str(len(items)))


def _count_kind(rng: Random, split: Split, items: list[Item]) -> QA:
    counts = Counter(i.kind for i in items)
    kind = pick_shape(rng) if rng.random() < 0.12 else rng.choice([*counts])
    if len(counts) < len(items) and rng.random() < 0.6:
        kind = counts.most_common(1)[0][0]
    text = _seen(items, count_answer(counts[kind], kind), lambda i: i.kind == kind)
    return QA(ask(rng, split, "count_kind", things=plural(kind)), text, "count_kind", _count_key(counts[kind]))


def _count_color(rng: Random, split: Split, items: list[Item]) -> QA:
    counts = Counter(i.color for i in items)
    color = rng.choice(COLORS) if rng.random() < 0.12 else rng.choice([*counts])
    text = _seen(items, count_answer(counts[color], f"{color} shape"), lambda i: i.color == color)
    return QA(ask(rng, split, "count_color", color=color), text, "count_color", _count_key(counts[color]))


def _color_of(rng: Random, split: Split, items: list[Item]) -> QA | None:
    single = _single(items, lambda i: i.kind)
    if not single:
        return None
    item = rng.choice(single)
    text = _colored(items, answer("shape_color", thing=item.kind, color=item.color), item)
    return QA(ask(rng, split, "shape_color", thing=item.kind), text, "shape_color", item.color)


def _which_told(items: list[Item], item: Item) -> str:
    verdict = answer("which_shape", color=item.color, a_thing=article(item.name if len(items) > 1 else item.kind))
    return _seen(items, verdict, lambda i: i is item) if len(items) > 1 else verdict


def _which(rng: Random, split: Split, items: list[Item]) -> QA | None:
    single = _single(items, lambda i: i.color)
    if not single:
        return None
    item = rng.choice(single)
    text = _which_told(items, item)
    return QA(ask(rng, split, "which_shape", color=item.color), text, "which_shape", item.kind)


def _where(rng: Random, split: Split, items: list[Item]) -> QA | None:
    item, thing = _mention(rng, items)
    if item is None:
        return None
    text = _placed(items, answer("where", thing=thing, at=at(item.place)), item)
    return QA(ask(rng, split, "where", thing=thing), text, "where", at(item.place))


def _shape_at(rng: Random, split: Split, items: list[Item]) -> QA | None:
    item = rng.choice(items)
    question = ask(rng, split, "shape_at", at=at(item.place))
    return QA(question, answer("shape_at", a_thing=article(item.name), at=at(item.place)), "shape_at", item.name)


def _exists(rng: Random, split: Split, items: list[Item]) -> QA:
    present = {(i.color, i.kind) for i in items}
    if rng.random() < 0.5:
        color, kind = rng.choice(sorted(present))
        thing = rng.choice((f"{color} {kind}", f"{color} {kind}", kind))
        text = _seen(items, answer("exists_yes", a_thing=article(thing)), lambda i: thing in (i.kind, i.name))
        return QA(ask(rng, split, "exists", a_thing=article(thing)), text, "exists", "yes")
    colors, kinds = {i.color for i in items}, {i.kind for i in items}
    while True:
        # colour or kind often from the picture itself, so that both must be looked at together
        color = rng.choice(sorted(colors)) if rng.random() < 0.45 else rng.choice(COLORS)
        kind = rng.choice(sorted(kinds)) if rng.random() < 0.45 else pick_shape(rng)
        if (color, kind) in present or not allowed(split, color, kind):
            continue
        thing = kind if kind not in kinds and rng.random() < 0.33 else f"{color} {kind}"
        text = _seen(items, answer("exists_no", thing=thing), lambda _: False)
        return QA(ask(rng, split, "exists", a_thing=article(thing)), text, "exists", "no")


def _relation(rng: Random, split: Split, items: list[Item]) -> QA | None:
    pairs = [(a, b) for a in items for b in items if a is not b and _name_of(a, items) and _name_of(b, items)]
    rng.shuffle(pairs)
    for a, b in pairs:
        axis = rng.randint(0, 1)
        apart = (b.x - a.x, b.y - a.y)[axis]
        if abs(apart) < 0.17:
            continue
        truth = rng.random() < 0.5
        relation = _RELATIONS[axis][0 if (apart > 0) == truth else 1]
        one, other = _name_of(a, items), _name_of(b, items)
        verdict = answer(f"relation_{'yes' if truth else 'no'}", one=one, other=other, relation=relation)
        pair = [answer("where", thing=name, at=at(i.place)) for name, i in ((one, a), (other, b))]
        found = concluded("listed", verdict, list=listed([small(text)[:-1] for text in pair]))
        text = asked_pair(f"The {one}", f"the {other}") + small(_placed(items, found, a, b))
        question = ask(rng, split, "relation", one=str(one), other=str(other), relation=relation)
        return QA(question, text, "relation", "yes" if truth else "no")
    return None


def _bigger(rng: Random, split: Split, items: list[Item]) -> QA | None:
    pairs = [(a, b) for a in items for b in items if a.radius > 1.4 * b.radius]
    pairs = [(a, b) for a, b in pairs if _name_of(a, items) and _name_of(b, items)]
    if not pairs:
        return None
    names = [str(_name_of(i, items)) for i in rng.choice(pairs)]
    one, other = names if rng.random() < 0.5 else reversed(names)
    return QA(ask(rng, split, "bigger", one=one, other=other), answer("bigger", thing=names[0]), "bigger", names[0])


def _single(items: list[Item], of: Callable[[Item], str]) -> list[Item]:
    counts = Counter(of(i) for i in items)
    return [i for i in items if counts[of(i)] == 1]


def _name_of(item: Item, items: list[Item]) -> str | None:
    """The shortest name that means this item only."""
    if sum(i.kind == item.kind for i in items) == 1:
        return item.kind
    return item.name if sum(i.name == item.name for i in items) == 1 else None


def _mention(rng: Random, items: list[Item]) -> tuple[Item | None, str]:
    named = [(i, str(_name_of(i, items))) for i in items if _name_of(i, items)]
    if not named:
        return None, ""
    item, name = rng.choice(named)
    return item, item.name if rng.random() < 0.6 else name
