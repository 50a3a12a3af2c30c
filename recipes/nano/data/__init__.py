"""Training pictures with questions and answers, drawn by number."""

from recipes.nano.data.labels import (
    CHARS,
    COLORS,
    GRID,
    PATCH,
    PLACES,
    POSITIONS,
    QA,
    SHAPES,
    SIDE,
    STAGES,
    Sample,
    Split,
    Stage,
)
from recipes.nano.data.sample import render_sample

__all__ = [
    "CHARS", "COLORS", "GRID", "PATCH", "PLACES", "POSITIONS", "QA", "SHAPES", "SIDE", "STAGES", "Sample", "Split",
    "Stage", "render_sample",
]  # fmt: skip
