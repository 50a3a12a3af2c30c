"""Text as masks: one line drawn with a font, fitted to a size, with the character under each pixel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np
from PIL import Image

from recipes.data.fonts import Face, FontBook
from recipes.data.labels import CHARS, Split

SIZES = (18, 26, 40, 64, 100, 160, 256)  # fonts are opened at these and the drawing is shrunk to fit
_LABEL_OF = {c: i + 1 for i, c in enumerate(CHARS)}


@dataclass(frozen=True)
class Line:
    """One line of text: coverage, and 1 + position in CHARS for each pixel column's letter."""

    mask: Image.Image
    chars: np.ndarray  # uint8 [height, width]
    em: float  # height of the font's square after fitting, in pixels


class Lettering:
    """Draws lines with the fonts of a book."""

    def __init__(self, book: FontBook) -> None:
        self.book = book
        self._advances = lru_cache(maxsize=60000)(self._measure)
        self._tops = lru_cache(maxsize=8000)(self._cap)

    def face(self, rng: Random, split: Split, capitals: bool, weighed: bool = False) -> Face:
        """A face, all families alike; `weighed` wants one that is clearly bold or clearly not."""
        for _ in range(20):
            face = rng.choice(rng.choice(self.book.groups(split, capitals)))
            if not weighed or face.bold is not None:
                return face
        return rng.choice(self.book.plain())[0]

    def natural(self, face: Face, size: int, text: str) -> tuple[int, int]:
        """Ink width and height at this font size."""
        left, top, right, bottom = self.book.open(face.path, size).getbbox(text)
        return max(1, round(right - left)), max(1, round(bottom - top))

    def line(self, face: Face, text: str, em: float, stretch: float = 1.0) -> Line:
        """The text at `em` pixels to the font's square, its width times `stretch`."""
        size = next((s for s in SIZES if s >= em), SIZES[-1])
        mask, edges = self._draw(face, size, text)
        width = max(2, round(mask.width * em / size * stretch))
        height = max(2, round(mask.height * em / size))
        if (width, height) != mask.size:
            edges = edges * (width / mask.width)
            mask = mask.resize((width, height), Image.Resampling.BILINEAR)
        return Line(mask, np.broadcast_to(_columns(text, edges, width), (height, width)), em)

    def exact(self, face: Face, size: int, text: str) -> Line:
        """The text at a font size as it is; for pages, where a few sizes are used again and again."""
        mask, edges = self._draw(face, size, text)
        return Line(mask, np.broadcast_to(_columns(text, edges, mask.width), (mask.height, mask.width)), size)

    def ascent(self, face: Face, size: int) -> int:
        """Pixels from the top of the tallest capital to the baseline."""
        return self._tops(face.path, size)[1]

    def drop(self, face: Face, size: int, text: str) -> int:
        """How far below the tallest capital's top the ink of this text begins."""
        return round(self.book.open(face.path, size).getbbox(text)[1]) - self._tops(face.path, size)[0]

    def descent(self, face: Face, text: str, em: float) -> float:
        """Pixels of the text's ink that lie below its baseline."""
        font = self.book.open(face.path, 40)
        return float(font.getbbox(text)[3] - font.getbbox("H")[3]) * em / 40

    def _cap(self, path: str, size: int) -> tuple[int, int]:
        _, top, _, bottom = self.book.open(path, size).getbbox("H")
        return round(top), max(4, round(bottom - top))

    def _draw(self, face: Face, size: int, text: str) -> tuple[Image.Image, np.ndarray]:
        font = self.book.open(face.path, size)
        core, offset = font.getmask2(text, mode="L")
        mask = Image.frombytes("L", core.size, bytes(core))
        advances = [self._advances(face.path, size, c) for c in text]
        return mask, np.cumsum(advances) - offset[0]

    def _measure(self, path: str, size: int, char: str) -> float:
        return self.book.open(path, size).getlength(char)


def _columns(text: str, edges: np.ndarray, width: int) -> np.ndarray:
    """The label of the letter that owns each pixel column."""
    labels = np.array([_LABEL_OF.get(c, 0) for c in text], np.uint8)
    owner = np.searchsorted(edges[:-1], np.arange(width) + 0.5)
    return labels[owner]


def turned(line: Line, degrees: float) -> Line:
    """The line rotated about its middle, on a sheet grown to hold it."""
    mask = line.mask.rotate(degrees, Image.Resampling.BILINEAR, expand=True)
    chars = Image.fromarray(np.ascontiguousarray(line.chars)).rotate(degrees, Image.Resampling.NEAREST, expand=True)
    return Line(mask, np.asarray(chars), line.em)
