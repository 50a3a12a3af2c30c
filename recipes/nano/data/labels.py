"""The plain data of one training picture, the names its labels point to, and how a sentence begins and goes on.

Owns no drawing: scenes fill these, the trainer and the contact sheet read them.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Split = Literal["train", "heldout"]
Stage = Literal[
    "pages1", "pages2", "pages3", "pages4", "mix", "words", "charts", "tiles", "scenes", "drill", "comparisons"
]
STAGES: tuple[Stage, ...] = (  # of pictures
    "pages1", "pages2", "pages3", "pages4", "mix", "words", "charts", "tiles", "scenes",
)  # fmt: skip

SIDE = 224  # pixels of one tile
PATCH = 14
GRID = SIDE // PATCH
PLACES = 24  # letters of a text are numbered up to here
# Of a bar's own patches, which hold no letter: whether it is the tallest, the lowest or none of both. Labels of charts
# are never that long.
TALLEST, LOWEST, BETWEEN = PLACES, PLACES - 1, PLACES - 2

# Dense labels are positions in these plus one; 0 is "nothing".
CHARS = string.ascii_uppercase + string.ascii_lowercase + string.digits + "+-=×?&!:"
SHAPES = (
    "circle", "square", "triangle", "rectangle", "star", "heart", "diamond", "hexagon", "cross", "ring", "crescent",
)  # fmt: skip
COLORS = (
    "black", "white", "red", "green", "blue", "yellow", "orange", "purple", "pink", "brown", "gray", "cyan",
)  # fmt: skip
POSITIONS = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")


def capital(text: str) -> str:
    """With a large first letter, as a sentence begins."""
    return text[0].upper() + text[1:]


def small(text: str) -> str:
    """With a small first letter, as a sentence goes on."""
    return text[0].lower() + text[1:]


@dataclass(frozen=True)
class QA:
    """One question about a picture.

    `key` is what an exact scorer looks for in the answer; several values that must all be there are joined by "|".
    `after` is the question that comes before it in the same conversation, if it needs one.
    """

    question: str
    answer: str
    kind: str
    key: str
    after: QA | None = None


@dataclass
class Sample:
    """A picture (or none) with its questions and, for single tiles, what lies under each patch.

    Of a drill, which has no picture, what the answers say was seen is given; what to count and to conclude is taught.
    """

    picture: np.ndarray | None  # uint8 [height, width, 3]
    qa: list[QA] = field(default_factory=list)
    chars: np.ndarray | None = None  # uint8 [16, 16]: 0 or 1 + position in CHARS
    shape: np.ndarray | None = None  # uint8 [16, 16]: 0 or 1 + position in SHAPES
    color: np.ndarray | None = None  # uint8 [16, 16]: 0 or 1 + position in COLORS, of the ink
    order: np.ndarray | None = None  # uint8 [16, 16]: 0 or the letter's place in its text, from 1
    drill: bool = False
