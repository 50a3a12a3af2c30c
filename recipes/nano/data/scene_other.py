"""What lies outside the model's world, and talk about itself: the honest answers."""

from __future__ import annotations

from random import Random

from recipes.nano.data.asking import ask, honest
from recipes.nano.data.canvas import Canvas
from recipes.nano.data.labels import QA, SIDE, Split
from recipes.nano.data.phrases import answer
from recipes.nano.data.shapes import plural
from recipes.nano.data.sizes import Size
from recipes.nano.data.studio import Studio

_KEYS = {"who": "small demonstration model", "able": "can describe simple pictures", "hello": "ask me about"}
_ABSENT = {
    "words": ("count_all", "bars", "largest", "shape_color"),
    "shapes": ("read", "text_color", "bars", "largest"),
    "charts": ("time", "shape_color", "count_kind"),
    "figures": ("bars", "shape_color", "largest"),
    "signs": ("bars", "largest", "time"),
    "slides": ("bars", "largest", "time"),
    "phones": ("bars", "largest"),
    "clocks": ("bars", "shape_color", "largest"),
}


def talk(rng: Random, split: Split) -> QA:
    """A question about the model or beyond it, asked of any picture or of none."""
    kind = rng.choices(("outside", "who", "able", "hello"), (60, 18, 14, 8))[0]
    key = _KEYS.get(kind, "only describe simple pictures")
    return QA(ask(rng, split, kind), answer(kind), kind, key)


def talk_only(rng: Random, split: Split) -> list[QA]:
    """Questions without any picture."""
    made = [talk(rng, split) for _ in range(4)]
    kind = rng.choice(("caption", "read", "background", "text_color", "bars", "count_all", "number", "largest"))
    made.append(QA(ask(rng, split, kind), answer("no_picture"), "no_picture", "do not see an image"))
    rng.shuffle(made)
    return made


def absent(rng: Random, split: Split, scene: str, shapes_seen: bool) -> QA | None:
    """A question about something this kind of picture does not show."""
    kind = rng.choice(_ABSENT[scene])
    if kind in ("bars", "largest"):
        return QA(ask(rng, split, kind), answer("no_chart"), "absent", "no chart")
    if kind in ("read", "text_color"):
        return QA(ask(rng, split, kind), answer("no_text"), "absent", "no text")
    if kind == "time":
        return QA(ask(rng, split, kind), answer("no_thing", thing="clock"), "absent", "no clock")
    if shapes_seen:  # an icon is a shape
        return None
    if kind == "count_all":
        return QA(ask(rng, split, kind), answer("no_shapes"), "absent", "no shapes")
    thing = rng.choice(("circle", "star", "triangle", "heart", "diamond", "ring", "cross", "hexagon"))
    if kind == "count_kind":
        things = plural(thing)
        return QA(ask(rng, split, kind, things=things), answer("count_none", things=things), "count_kind", "no")
    return QA(ask(rng, split, kind, thing=thing), answer("no_thing", thing=thing), "absent", f"no {thing}")


def draw_nothing(studio: Studio, rng: Random, split: Split, size: Size = (SIDE, SIDE)) -> tuple[Canvas, list[QA]]:
    """Nothing that the model knows: an empty background, noise, or what looks like a photograph out of focus."""
    textures, draw, ground = studio.textures, rng.random(), None
    if draw < 0.4:
        ground = studio.grounds.plain(rng, size) if rng.random() < 0.5 else studio.grounds.shaded(rng, size)
        picture = ground.picture
    elif draw < 0.7:
        picture = textures.cut(textures.grains[-1], rng, size).point(
            [max(0, min(255, 3 * v - 256)) for v in range(256)] * 3
        )
    else:
        picture = textures.cut(rng.choice(textures.clouds), rng, (64, 64) if rng.random() < 0.4 else size).resize(size)
    asked = [
        QA(ask(rng, split, kind), answer("nothing"), "nothing", "do not see any words")
        for kind in ("caption", "caption")
    ] if draw < 0.7 else honest(rng, split, "a photograph")  # fmt: skip
    asked.append(QA(ask(rng, split, "read"), answer("no_text"), "absent", "no text"))
    asked.append(QA(ask(rng, split, "count_all"), answer("no_shapes"), "absent", "no shapes"))
    asked.append(QA(ask(rng, split, "bars"), answer("no_chart"), "absent", "no chart"))
    if ground is not None:
        asked.append(ground.qa(rng, split))
    return Canvas(picture.copy(), dense=True), asked
