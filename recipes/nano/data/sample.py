"""One sample by its number: the door to this package.

The same (index, split, stage, seed) gives the same sample on every machine that has the same fonts.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import numpy as np
from PIL import Image

from recipes.nano.data.canvas import Canvas
from recipes.nano.data.drill import comparisons, drill
from recipes.nano.data.labels import QA, SIDE, Sample, Split, Stage
from recipes.nano.data.pages import render_page
from recipes.nano.data.scene_beyond import draw_beyond
from recipes.nano.data.scene_charts import draw_chart
from recipes.nano.data.scene_clocks import draw_clock
from recipes.nano.data.scene_figures import draw_figures
from recipes.nano.data.scene_other import absent, draw_nothing, talk, talk_only
from recipes.nano.data.scene_screens import draw_phone, draw_slide
from recipes.nano.data.scene_shapes import draw_shapes
from recipes.nano.data.scene_signs import draw_sign
from recipes.nano.data.scene_words import draw_words
from recipes.nano.data.sizes import Size, drawn_size, pick_size, unit_of
from recipes.nano.data.studio import Studio, studio
from recipes.nano.data.word_questions import word_questions

__all__ = ["QA", "Sample", "render_sample"]

SCENES = ("words", "shapes", "charts", "figures", "nothing", "talk")
SHARES = (34, 29, 17, 13, 2, 5)  # of a hundred pictures of the mix
# Of pictures of any size, cut into tiles or not.
SIZED = ("words", "shapes", "charts", "figures", "signs", "slides", "phones", "beyond", "nothing")
SIZED_SHARES = (30, 28, 17, 8, 5, 4, 4, 3, 1)
# Of pictures as people make them, some as large as one tile, some of any size.
MADE = ("signs", "slides", "phones", "clocks", "beyond")
MADE_SHARES = (30, 16, 18, 10, 26)
_ONE_TILE = 0.45
# Aspects at which a scene has room for what it must show.
_ASPECTS = {"charts": (0.45, 3.0), "slides": (0.62, 2.3), "phones": (0.4, 1.8), "figures": (0.3, 4.0)}


def render_sample(index: int, split: Split, stage: Stage, seed: int) -> Sample:
    """Draws sample number `index` of a stage and split."""
    rng = Random(f"{seed}/{split}/{stage}/{index}")
    here = studio()
    if stage.startswith("pages"):
        return render_page(here, rng, split, stage)
    if stage in ("drill", "comparisons"):
        asked = drill(here, rng, split) if stage == "drill" else comparisons(here, rng, split)
        return Sample(None, asked, drill=True)
    if stage == "tiles":
        return _sized(here, rng, split, rng.choices(SIZED, SIZED_SHARES)[0])
    if stage == "scenes":
        scene = rng.choices(MADE, MADE_SHARES)[0]
        return _drawn(here, rng, split, scene) if rng.random() < _ONE_TILE else _sized(here, rng, split, scene)
    scene = stage if stage in SCENES else rng.choices(SCENES, SHARES)[0]
    return Sample(None, talk_only(rng, split)) if scene == "talk" else _drawn(here, rng, split, scene)


def render_at(index: int, split: Split, scene: str, size: Size, seed: int) -> Sample:
    """Draws a scene (of `SIZED` or `MADE`) at a given width and height, to compare sizes."""
    return _drawn(studio(), Random(f"{seed}/{split}/{scene}/{index}"), split, scene, size)


def _sized(here: Studio, rng: Random, split: Split, scene: str) -> Sample:
    """A picture of any size that the scene can be drawn at."""
    low, high = _ASPECTS.get(scene, (0.0, 9.0))
    while True:
        size = pick_size(rng)
        if low <= size[0] / size[1] <= high:
            break
    sample = _drawn(here, rng, split, scene, drawn_size(rng, size))
    if rng.random() < 0.03 and sample.picture is not None and sample.picture.shape[1::-1] != size:
        sample.picture = np.asarray(Image.fromarray(sample.picture).resize(size, Image.Resampling.BICUBIC))
    return sample


def _drawn(here: Studio, rng: Random, split: Split, scene: str, size: Size = (SIDE, SIDE)) -> Sample:
    shapes_seen = False
    if scene == "words":
        canvas, facts = draw_words(here, rng, split, size)
        qa = word_questions(rng, split, facts, here.words)
        shapes_seen = facts.icon is not None
    else:
        canvas, qa = _DRAW[scene](here, rng, split, size)
    here.weather(canvas, rng, unit=unit_of(size))
    return Sample(here.pixels(canvas), [*qa, *_beside(rng, split, scene, shapes_seen)], *canvas.labels())


def _beside(rng: Random, split: Split, scene: str, shapes_seen: bool) -> list[QA]:
    """Now and then a question about the model, beyond it, or about something that the picture does not show."""
    if rng.random() < 0.3:
        return [talk(rng, split)]
    if scene not in ("nothing", "beyond") and rng.random() < 0.3:
        extra = absent(rng, split, scene, shapes_seen)
        return [extra] if extra else []
    return []


_DRAW: dict[str, Callable[[Studio, Random, Split, Size], tuple[Canvas, list[QA]]]] = {
    "shapes": draw_shapes, "charts": draw_chart, "figures": draw_figures, "nothing": draw_nothing, "signs": draw_sign,
    "slides": draw_slide, "phones": draw_phone, "clocks": draw_clock, "beyond": draw_beyond,
}  # fmt: skip
