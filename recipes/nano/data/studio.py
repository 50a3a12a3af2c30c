"""What all scenes share: fonts, words, textures, and the weather that pictures go through."""

from __future__ import annotations

import os
from functools import lru_cache
from io import BytesIO
from random import Random

import numpy as np
from PIL import Image, ImageFilter

from recipes.nano.data.canvas import Canvas, Textures
from recipes.nano.data.fonts import FontBook
from recipes.nano.data.grounds import Grounds
from recipes.nano.data.lettering import Lettering
from recipes.nano.data.words import WordBook

FONTS = "VITA_RECIPE_FONTS"


class Studio:
    """Opened once per process; holds caches only, so that it never changes what is drawn."""

    def __init__(self, book: FontBook | None = None) -> None:
        self.letters = Lettering(book or FontBook())
        self.words = WordBook()
        self.textures = Textures()
        self.grounds = Grounds(self.textures)

    def weather(self, canvas: Canvas, rng: Random, harsh: float = 1.0, unit: float = 1.0) -> None:
        """Tilt, mild blur, grain and JPEG marks on some pictures; labels stay true.

        Args:
            unit: pixels of the picture that become one of a tile, so that blur spoils large pictures alike.
        """
        if rng.random() < 0.05 * harsh:
            self._tilt(canvas, rng)
        picture = canvas.picture
        if rng.random() < 0.16 * harsh:
            share = rng.uniform(0.55, 0.85)
            smaller = (round(picture.width * share), round(picture.height * share))
            back = rng.choice((Image.Resampling.BILINEAR, Image.Resampling.BILINEAR, Image.Resampling.NEAREST))
            picture = picture.resize(smaller, Image.Resampling.BILINEAR).resize(picture.size, back)
        if rng.random() < 0.07 * harsh:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.9) * unit))
        if rng.random() < 0.15 * harsh:
            picture = self.textures.grained(picture, rng, coarsest=2)
        if rng.random() < 0.18 * harsh:
            file = BytesIO()
            picture.save(file, "JPEG", quality=rng.randint(30, 95))
            picture = Image.open(file).convert("RGB")
        canvas.picture = picture

    def _tilt(self, canvas: Canvas, rng: Random) -> None:
        """Turns the picture by up to five degrees, less if it is long, so that places keep their names."""
        width, height = canvas.picture.size
        canvas.turn(rng.uniform(-5, 5) * min(width, height) / max(width, height))

    def pixels(self, canvas: Canvas) -> np.ndarray:
        """The finished picture, uint8 [height, width, 3]."""
        return np.array(canvas.picture)


@lru_cache(maxsize=1)
def studio() -> Studio:
    """The one studio of this process, with the fonts of the folder that `VITA_RECIPE_FONTS` names, or of the system."""
    named = os.environ.get(FONTS)
    return Studio(FontBook((named,)) if named else None)
