"""Questions without a picture, whose answers say what was seen before they conclude.

What was seen is given; what to count in it and the conclusion are taught: how to look up and to compare in a list. A
small decoder names nearly every shape of a picture and then miscounts them; pictures are too dear to teach it that.
"""

from __future__ import annotations

from random import Random

from recipes.nano.data.labels import QA, Split
from recipes.nano.data.scene_charts import bar_questions, imagined_bars
from recipes.nano.data.scene_figures import calculation
from recipes.nano.data.scene_shapes import concluding_questions, imagined
from recipes.nano.data.studio import Studio
from recipes.nano.data.word_questions import imagined_words

MOST = 10  # comparisons in one row
_KINDS = ("shapes", "bars", "sums", "words")
_SHARES = (60, 20, 12, 8)


def drill(here: Studio, rng: Random, split: Split) -> list[QA]:
    """The questions of one row, all about the same imagined thing but the sums and words."""
    kind = rng.choices(_KINDS, _SHARES)[0]
    if kind == "shapes":
        made = concluding_questions(rng, split, imagined(rng, split))
    elif kind == "bars":
        asked = bar_questions(rng, split, imagined_bars(here, rng, split), True)
        made = [qa for qa in asked if ": " in qa.answer]
    elif kind == "sums":
        made = [calculation(rng, split)[1] for _ in range(8)]
    else:
        made = [imagined_words(rng, split, here.words) for _ in range(8)]
    return made


def comparisons(here: Studio, rng: Random, split: Split) -> list[QA]:
    """The questions of one row: what stands where, which bar is larger or largest, each about something else. Yes or no
    follows from two places or values, and is learnt last."""
    made: list[QA] = []
    while len(made) < MOST:
        if rng.random() < 0.5:
            asked = concluding_questions(rng, split, imagined(rng, split))
            made += [qa for qa in asked if qa.kind == "relation"][:2]
        else:
            asked = bar_questions(rng, split, imagined_bars(here, rng, split), True)
            made += [qa for qa in asked if qa.kind in ("compare", "largest", "smallest")]
    return made[:MOST]
