"""One sample by its number: the door to this package.

The same (index, split, stage, seed) gives the same sample on every machine that has the same fonts.
"""

from __future__ import annotations

from random import Random

from recipes.data.canvas import Canvas
from recipes.data.drill import drill
from recipes.data.labels import QA, Sample, Split, Stage
from recipes.data.pages import render_page
from recipes.data.scene_charts import draw_chart
from recipes.data.scene_figures import draw_figures
from recipes.data.scene_other import absent, draw_nothing, talk, talk_only
from recipes.data.scene_shapes import draw_shapes
from recipes.data.scene_words import draw_words
from recipes.data.studio import Studio, studio
from recipes.data.word_questions import word_questions

__all__ = ["QA", "Sample", "render_sample"]

SCENES = ("words", "shapes", "charts", "figures", "nothing", "talk")
SHARES = (36, 31, 18, 8, 2, 5)  # of a hundred pictures of the mix


def render_sample(index: int, split: Split, stage: Stage, seed: int) -> Sample:
    """Draws sample number `index` of a stage and split."""
    rng = Random(f"{seed}/{split}/{stage}/{index}")
    here = studio()
    if stage.startswith("pages"):
        return render_page(here, rng, split, stage)
    if stage == "drill":
        return Sample(None, drill(here, rng, split), drill=True)
    if stage == "tiles":
        return _wide(here, rng, split)
    return _mixed(here, rng, split, stage if stage in SCENES else rng.choices(SCENES, SHARES)[0])


def _mixed(here: Studio, rng: Random, split: Split, scene: str) -> Sample:
    if scene == "talk":
        return Sample(None, talk_only(rng, split))
    shapes_seen = False
    if scene == "words":
        canvas, facts = draw_words(here, rng, split)
        qa = word_questions(rng, split, facts, here.words)
        shapes_seen = facts.icon is not None
    else:
        draw = {"shapes": draw_shapes, "charts": draw_chart, "figures": draw_figures, "nothing": draw_nothing}[scene]
        canvas, qa = draw(here, rng, split)
    return _finish(here, rng, canvas, [*qa, *_beside(rng, split, scene, shapes_seen)])


def _wide(here: Studio, rng: Random, split: Split) -> Sample:
    """A picture of words that will be cut into tiles."""
    ratio = rng.uniform(1.5, 5.0) if rng.random() < 0.8 else rng.uniform(0.3, 0.8)
    longer = round(300 * (2800 / 300) ** (rng.random() ** 2))
    size = (longer, max(120, round(longer / ratio))) if ratio > 1 else (max(160, round(longer * ratio)), longer)
    canvas, facts = draw_words(here, rng, split, size)
    qa = word_questions(rng, split, facts, here.words)
    return _finish(here, rng, canvas, [*qa, *_beside(rng, split, "words", facts.icon is not None)])


def _beside(rng: Random, split: Split, scene: str, shapes_seen: bool) -> list[QA]:
    """Now and then a question about the model, beyond it, or about something that the picture does not show."""
    if rng.random() < 0.3:
        return [talk(rng, split)]
    if scene != "nothing" and rng.random() < 0.3:
        extra = absent(rng, split, scene, shapes_seen)
        return [extra] if extra else []
    return []


def _finish(here: Studio, rng: Random, canvas: Canvas, qa: list[QA]) -> Sample:
    here.weather(canvas, rng)
    return Sample(here.pixels(canvas), qa, *canvas.labels())
