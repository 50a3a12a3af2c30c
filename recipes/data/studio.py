"""What all scenes share: fonts, words, textures, and the weather that pictures go through."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO
from random import Random

import numpy as np
from PIL import Image, ImageFilter

from recipes.data.canvas import Canvas, Textures
from recipes.data.fonts import FontBook
from recipes.data.grounds import Grounds
from recipes.data.lettering import Lettering
from recipes.data.words import WordBook


class Studio:
    """Opened once per process; holds caches only, so that it never changes what is drawn."""

    def __init__(self) -> None:
        self.letters = Lettering(FontBook())
        self.words = WordBook()
        self.textures = Textures()
        self.grounds = Grounds(self.textures)

    def weather(self, canvas: Canvas, rng: Random, harsh: float = 1.0) -> None:
        """Mild blur, grain and JPEG marks on some pictures; labels stay true."""
        picture = canvas.picture
        if rng.random() < 0.12 * harsh:
            half = (picture.width * 5 // 8, picture.height * 5 // 8)
            picture = picture.resize(half, Image.Resampling.BILINEAR).resize(picture.size, Image.Resampling.BILINEAR)
        elif rng.random() < 0.06 * harsh and picture.width <= 512:
            picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 0.9)))
        if rng.random() < 0.15 * harsh:
            grain = self.textures.cut(self.textures.grain, rng, picture.size)
            picture = Image.blend(picture, grain, rng.uniform(0.03, 0.12))
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
