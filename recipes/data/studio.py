"""What all scenes share: fonts, words, textures, and the weather that pictures go through."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from random import Random

import numpy as np
from PIL import Image

from recipes.data.canvas import Canvas, Textures
from recipes.data.fonts import FontBook
from recipes.data.grounds import Grounds
from recipes.data.lettering import Lettering
from recipes.data.words import WordBook


class Studio:
    """Opened once per process; holds caches only, so that it never changes what is drawn."""

    def __init__(self, book: FontBook | None = None) -> None:
        self.letters = Lettering(book or FontBook())
        self.words = WordBook()
        self.textures = Textures()
        self.grounds = Grounds(self.textures)

    def weather(self, canvas: Canvas, rng: Random, harsh: float = 1.0) -> None:
        """Mild blur, grain and JPEG marks on some pictures; labels stay true."""
        picture = canvas.picture
        if rng.random() < 0.16 * harsh:
            share = rng.uniform(0.55, 0.85)
            smaller = (round(picture.width * share), round(picture.height * share))
            picture = picture.resize(smaller, Image.Resampling.BILINEAR).resize(picture.size, Image.Resampling.BILINEAR)
        if rng.random() < 0.15 * harsh:
            picture = self.textures.grained(picture, rng, coarsest=2)
        if rng.random() < 0.12 * harsh:
            file = BytesIO()
            picture.save(file, "JPEG", quality=rng.randint(35, 85))
            picture = Image.open(file).convert("RGB")
        canvas.picture = picture

    def pixels(self, canvas: Canvas) -> np.ndarray:
        """The finished picture, uint8 [height, width, 3]."""
        return np.array(canvas.picture)


@lru_cache(maxsize=1)
def studio() -> Studio:
    """The one studio of this process."""
    return Studio()
