"""Text as masks: one line drawn with a font, fitted to a size, with the character under each pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image

from recipes.nano.data.fonts import Face, FontBook
from recipes.nano.data.labels import CHARS, Split

SIZES = (18, 26, 40, 64, 100, 160, 256)  # fonts are opened at these and the drawing is shrunk to fit
GLYPHS_UP_TO = 100  # up to this size lines are set from kept glyphs, without kerning
MEASURED = 40
_LABEL_OF = {c: i + 1 for i, c in enumerate(CHARS)}


@dataclass(frozen=True)
class Line:
    """One line of text: coverage, and for each pixel column's letter 1 + position in CHARS and its place, from 1."""

    mask: Image.Image
    chars: np.ndarray  # uint8 [height, width]
    order: np.ndarray  # uint8 [height, width]
    em: float  # height of the font's square after fitting, in pixels
    drop: float = 0.0  # how far its top lies below a capital's; known for small lines only


class Glyph(NamedTuple):
    """One drawn character: its coverage, where that lies from the pen and the line's top, and the step of the pen."""

    ink: np.ndarray
    left: int
    top: int
    advance: float


class Lettering:
    """Draws lines with the fonts of a book; small glyphs are kept, which is what makes pages cheap."""

    def __init__(self, book: FontBook, kept: int = 150_000) -> None:
        self.book = book
        self._glyph = lru_cache(maxsize=kept)(self._draw_glyph)

    def face(self, rng: Random, split: Split, capitals: bool, weighed: bool = False) -> Face:
        """A face, all families alike; `weighed` wants one that is clearly bold or clearly not, half of them bold."""
        bold = weighed and rng.random() < 0.5
        for _ in range(30):
            face = rng.choice(rng.choice(self.book.groups(split, capitals)))
            if not weighed or face.bold is bold:
                return face
        return rng.choice(self.book.plain())[0]

    def natural(self, face: Face, size: int, text: str, tracking: float = 0.0) -> tuple[float, float]:
        """Ink width and height at this font size, as measured at another."""
        left, top, right, bottom = _extent(self._placed(face, MEASURED, text, tracking=tracking))
        return max(1, right - left) * size / MEASURED, max(1, bottom - top) * size / MEASURED

    def line(
        self, face: Face, text: str, em: float, stretch: float = 1.0, room: float = math.inf, tracking: float = 0.0
    ) -> Line:
        """The text at `em` pixels to the font's square, its width times `stretch`; what exceeds `room` is cut off.

        `tracking` is the extra space after each character, as a share of `em`.
        """
        size = opened_at(em)
        mask, edges, top = self._draw(face, size, text, room * size / (em * stretch), tracking)
        width = max(2, round(mask.width * em / size * stretch))
        height = max(2, round(mask.height * em / size))
        if (width, height) != mask.size:
            edges = edges * (width / mask.width)
            mask = mask.resize((width, height), Image.Resampling.BILINEAR)
        chars, order = (np.broadcast_to(c, (height, width)) for c in _columns(text, edges, width))
        return Line(mask, chars, order, em, top * em / size)

    def ascent(self, face: Face, em: float) -> float:
        """Height of a capital at this size."""
        return float(self._glyph(face.path, MEASURED, "H").ink.shape[0] * em / MEASURED)

    def descent(self, face: Face, text: str, em: float) -> float:
        """Pixels of the text's ink that lie below its baseline."""
        bottom = _extent(self._placed(face, MEASURED, text))[3]
        capital = self._glyph(face.path, MEASURED, "H")
        return float((bottom - capital.top - capital.ink.shape[0]) * em / MEASURED)

    def _draw(
        self, face: Face, size: int, text: str, room: float, tracking: float
    ) -> tuple[Image.Image, np.ndarray, int]:
        """Coverage of the text's ink, each character's right edge in it, and how far below a capital's top it is."""
        if size > GLYPHS_UP_TO and not tracking:
            font = self.book.open(face.path, size)
            core, offset = font.getmask2(text, mode="L")
            advances = [font.getlength(c) for c in text]
            return Image.Image()._new(core), np.cumsum(advances) - offset[0], 0
        placed = self._placed(face, size, text, room, tracking)
        left, top, right, bottom = _extent(placed)
        sheet = np.zeros((max(1, bottom - top), max(1, right - left)), np.uint8)
        for x, glyph in placed:
            height, width = glyph.ink.shape
            part = sheet[glyph.top - top : glyph.top - top + height, x - left : x - left + width]
            np.maximum(part, glyph.ink, out=part)
        edges = np.cumsum([glyph.advance + tracking * size for _, glyph in placed]) - left
        return Image.fromarray(sheet), edges, top - self._glyph(face.path, size, "H").top

    def _placed(
        self, face: Face, size: int, text: str, room: float = math.inf, tracking: float = 0.0
    ) -> list[tuple[int, Glyph]]:
        """Each glyph with the place of its left edge, as far as there is room."""
        pen, placed = 0.0, []
        draw = self._glyph if size <= GLYPHS_UP_TO else self._draw_glyph
        for char in text:
            glyph = draw(face.path, size, char)
            placed.append((round(pen) + glyph.left, glyph))
            pen += glyph.advance + tracking * size
            if pen > room:
                break
        return placed

    def _draw_glyph(self, path: str, size: int, char: str) -> Glyph:
        font = self.book.open(path, size)
        core, (left, top) = font.getmask2(char, mode="L")
        ink = np.array(Image.Image()._new(core)) if min(core.size) else np.zeros((0, 0), np.uint8)
        return Glyph(ink, round(left), round(top), font.getlength(char))


def opened_at(em: float) -> int:
    """The font size a line of this size is drawn at before it is shrunk."""
    return next((s for s in SIZES if s >= em), SIZES[-1])


def _extent(placed: list[tuple[int, Glyph]]) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of all the ink."""
    inked = [(x, g.top, x + g.ink.shape[1], g.top + g.ink.shape[0]) for x, g in placed if g.ink.size]
    if not inked:
        return 0, 0, 1, 1
    lefts, tops, rights, bottoms = zip(*inked, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _columns(text: str, edges: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The label of the letter that owns each pixel column, and that letter's place in the text, from 1."""
    labels = np.array([_LABEL_OF.get(c, 0) for c in text[: len(edges)]], np.uint8)
    owner = np.searchsorted(edges[:-1], np.arange(width) + 0.5)
    return labels[owner], (owner + 1).clip(max=255).astype(np.uint8)


def turned(line: Line, degrees: float) -> Line:
    """The line rotated about its middle, on a sheet grown to hold it."""
    mask = line.mask.rotate(degrees, Image.Resampling.BILINEAR, expand=True)
    chars, order = (
        np.asarray(Image.fromarray(np.ascontiguousarray(a)).rotate(degrees, Image.Resampling.NEAREST, expand=True))
        for a in (line.chars, line.order)
    )
    return Line(mask, chars, order, line.em, line.drop)
