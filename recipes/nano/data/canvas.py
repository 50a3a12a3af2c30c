"""The sheet a picture is drawn on: pixels, and for single tiles the label of every inked pixel."""

from __future__ import annotations

from functools import cached_property, lru_cache
from random import Random
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops

from recipes.nano.data.colors import Rgb
from recipes.nano.data.labels import CHARS, COLORS, GRID, PATCH, PLACES, SHAPES, SIDE

INK = 110  # coverage from which a pixel counts as ink


class Box(NamedTuple):
    """Left, top, right, bottom in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> float:
        return self.right - self.left

    @property
    def height(self) -> float:
        return self.bottom - self.top

    @property
    def middle(self) -> tuple[float, float]:
        return (self.left + self.right) / 2, (self.top + self.bottom) / 2


class Canvas:
    """Draws masks in colours and keeps the dense labels in step."""

    def __init__(self, picture: Image.Image, dense: bool) -> None:
        self.picture = picture
        self.width, self.height = picture.size
        self.dense = dense and picture.size == (SIDE, SIDE)
        shape = (4, self.height, self.width) if self.dense else (4, 1, 1)
        self._maps = np.zeros(shape, np.uint8)  # characters, shapes, colours, places of letters

    def stamp(
        self, mask: Image.Image, left: int, top: int, rgb: Rgb, color: str,
        chars: np.ndarray | None = None, order: np.ndarray | None = None, shape: str | None = None,
    ) -> None:  # fmt: skip
        """Puts a mask down in one colour.

        `chars` labels its pixels with characters, `order` with their places in the text, `shape` with one shape.
        """
        self.picture.paste(rgb, (left, top), mask)
        if not self.dense:
            return
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + mask.width, self.width), min(top + mask.height, self.height)
        if x0 >= x1 or y0 >= y1:
            return
        part = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        ink = np.asarray(mask)[part] > INK
        maps = self._maps[:, y0:y1, x0:x1]
        keep = ~ink
        maps *= keep
        maps[2] += ink.view(np.uint8) * np.uint8(COLORS.index(color) + 1)
        if chars is not None:
            maps[0] += chars[part] * ink
        if order is not None:
            maps[3] += order[part] * (order[part] <= PLACES) * ink
        if shape is not None:
            maps[1] += ink.view(np.uint8) * np.uint8(SHAPES.index(shape) + 1)

    def turn(self, degrees: float) -> None:
        """Turns all that is drawn; it is made smaller, so that no corner is lost, and what is beyond takes the
        colour of the corner."""
        corner = self.picture.getpixel((1, 1))
        grown = self.picture.rotate(degrees, Image.Resampling.BILINEAR, expand=True, fillcolor=corner)
        self.picture = grown.resize((self.width, self.height), Image.Resampling.BILINEAR)
        if self.dense:
            for k, plane in enumerate(self._maps):
                turned = Image.fromarray(plane).rotate(degrees, Image.Resampling.NEAREST, expand=True)
                self._maps[k] = np.asarray(turned.resize((self.width, self.height), Image.Resampling.NEAREST))

    def labels(self) -> tuple[np.ndarray, ...] | tuple[None, None, None, None]:
        """Characters, shapes, colours and places with the most ink under each patch, each uint8 [16, 16]."""
        if not self.dense:
            return None, None, None, None
        flat = self._maps.reshape(4, -1)
        inked = np.flatnonzero(flat[2])
        patches = _patch_of_pixel()[inked]
        sizes = (len(CHARS) + 1, len(SHAPES) + 1, len(COLORS) + 1, PLACES + 1)
        chars, shapes, colors, order = (_majority(patches, flat[k][inked], sizes[k]) for k in range(4))
        return chars * (colors > 0), shapes * (colors > 0), colors, order * (colors > 0)


@lru_cache(maxsize=1)
def _patch_of_pixel() -> np.ndarray:
    rows = np.arange(SIDE) // PATCH
    return (rows[:, None] * GRID + rows[None, :]).astype(np.int32).ravel()


def _majority(patches: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """The commonest label other than 0 in each patch; less than six pixels of it count as none."""
    votes = np.bincount(patches * classes + labels, minlength=GRID * GRID * classes).reshape(-1, classes)
    votes[:, 0] = 5
    winners: np.ndarray = votes.argmax(1).astype(np.uint8)
    return winners.reshape(GRID, GRID)


class Textures:
    """A fixed bank of noise from which backgrounds and grain are cut."""

    EDGE = 512

    def __init__(self, seed: int = 20250101) -> None:
        self._seed = seed

    @cached_property
    def grains(self) -> list[Image.Image]:
        """White noise round 128 in colour, from faint to coarse."""
        noise = np.random.Generator(np.random.PCG64(self._seed)).normal(0, 1, (self.EDGE, self.EDGE, 3))
        return [Image.fromarray((128 + s * noise).clip(0, 255).astype(np.uint8)) for s in (3, 6, 10, 15, 21)]

    def grained(self, picture: Image.Image, rng: Random, coarsest: int = 4) -> Image.Image:
        """The picture under noise that leaves its colours where they are."""
        piece = self.cut(self.grains[rng.randint(0, coarsest)], rng, picture.size)
        return ImageChops.add(picture, piece, 1, -128)

    @cached_property
    def clouds(self) -> list[Image.Image]:
        """Sixteen colour fields of mixed scales, as busy as photographs out of focus."""
        rng = np.random.Generator(np.random.PCG64(self._seed + 1))
        return [self._cloud(rng) for _ in range(16)]

    def _cloud(self, rng: np.random.Generator) -> Image.Image:
        total = np.zeros((self.EDGE, self.EDGE, 3), np.float32)
        for cells, weight in ((3, 1.0), (7, 0.7), (18, 0.35), (48, 0.16), (128, 0.07)):
            field = rng.random((cells, cells, 3)) * 255
            grown = Image.fromarray(field.astype(np.uint8)).resize((self.EDGE, self.EDGE), Image.Resampling.BICUBIC)
            total += weight * np.asarray(grown, np.float32)
        total -= total.mean((0, 1))
        total *= 52 / total.std()
        return Image.fromarray((total + 128).clip(0, 255).astype(np.uint8))

    def cut(self, bank: Image.Image, rng: Random, size: tuple[int, int]) -> Image.Image:
        """A random piece of the bank at this size; a larger picture gets an enlarged piece."""
        width, height = min(size[0], self.EDGE), min(size[1], self.EDGE)
        left, top = rng.randint(0, self.EDGE - width), rng.randint(0, self.EDGE - height)
        piece = bank.crop((left, top, left + width, top + height))
        if rng.random() < 0.5:
            piece = piece.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return piece if piece.size == size else piece.resize(size, Image.Resampling.BILINEAR)
