"""Backgrounds: what they look like, what they are called, and which ink can be read on them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np
from PIL import Image

from recipes.nano.data.asking import ask
from recipes.nano.data.canvas import Textures
from recipes.nano.data.colors import PLAIN_BACKGROUNDS, SHADES, Rgb, article, luminance, pick_rgb, readable
from recipes.nano.data.fonts import held_out_name
from recipes.nano.data.labels import COLORS, QA, Split
from recipes.nano.data.phrases import answer

_GRADIENT_PAIRS = tuple(
    (a, b)
    for a in ("red", "blue", "green", "purple", "orange", "yellow", "pink", "cyan", "black", "white")
    for b in ("red", "blue", "green", "purple", "orange", "yellow", "pink", "cyan", "black", "white")
    if a != b
)


@dataclass(frozen=True)
class Ground:
    """A finished background with its name and the colours that lie in it."""

    picture: Image.Image
    tones: tuple[Rgb, ...]
    name: str  # a colour name, "colorful", or "gradient"
    ends: tuple[str, str] = ("", "")  # of a gradient
    names: frozenset[str] = frozenset()  # colour words that may not be used for ink on it

    @property
    def phrase(self) -> str:
        """How it stands in a caption."""
        if self.name == "gradient":
            return f"a gradient background from {self.ends[0]} to {self.ends[1]}"
        return f"{article(self.name)} background"

    @property
    def key(self) -> str:
        """The part of the caption that an exact scorer looks for."""
        return f"from {self.ends[0]} to {self.ends[1]}" if self.name == "gradient" else f"{self.phrase}"

    def qa(self, rng: Random, split: Split) -> QA:
        """The question about this background."""
        question = ask(rng, split, "background")
        if self.name == "gradient":
            text = answer("gradient", one=self.ends[0], other=self.ends[1])
            return QA(question, text, "background", f"from {self.ends[0]} to {self.ends[1]}")
        if self.name == "colorful":
            return QA(question, answer("colorful"), "background", "colorful")
        return QA(question, answer("background", color=self.name), "background", self.name)


def held_out_pair(kind: str, one: str, other: str) -> bool:
    """Whether this combination of names is kept for the held-out split."""
    return held_out_name(kind, f"{one}/{other}", 0.1)


class Grounds:
    """Makes backgrounds of every kind."""

    def __init__(self, textures: Textures) -> None:
        self.textures = textures

    def pick(self, rng: Random, size: tuple[int, int], calm: float = 0.0) -> Ground:
        """Plain, shaded, gradient, noisy or photo-like; `calm` of all are plain whatever the draw."""
        draw = rng.random()
        if rng.random() < calm or draw < 0.5:
            return self.plain(rng, size)
        if draw < 0.62:
            return self.shaded(rng, size)
        if draw < 0.74:
            return self.gradient(rng, size)
        if draw < 0.87:
            return self.noisy(rng, size)
        return self.colorful(rng, size)

    def plain(self, rng: Random, size: tuple[int, int], name: str | None = None) -> Ground:
        """One colour; white and black are the commonest."""
        if name is None:
            name = rng.choice(("white", "white", "black")) if rng.random() < 0.3 else rng.choice(PLAIN_BACKGROUNDS)
        rgb = (255, 255, 255) if name == "white" and rng.random() < 0.5 else pick_rgb(name, rng)
        return Ground(Image.new("RGB", size, rgb), (rgb,), name, names=clashing(name))

    def shaded(self, rng: Random, size: tuple[int, int]) -> Ground:
        """Two pixel values of one name running into each other."""
        name = rng.choice(PLAIN_BACKGROUNDS)
        ends = (pick_rgb(name, rng), pick_rgb(name, rng))
        return Ground(_ramp(ends, size, rng.random() < 0.5), ends, name, names=clashing(name))

    def gradient(self, rng: Random, size: tuple[int, int]) -> Ground:
        """Two named colours, the first at the left or at the top."""
        while True:
            names = rng.choice(_GRADIENT_PAIRS)
            ends = (pick_rgb(names[0], rng), pick_rgb(names[1], rng))
            if abs(luminance(ends[0]) - luminance(ends[1])) < 125:
                break
        middle: Rgb = tuple((a + b) // 2 for a, b in zip(*ends, strict=True))  # type: ignore[assignment]
        return Ground(_ramp(ends, size, rng.random() < 0.5), (*ends, middle), "gradient", names, frozenset(names))

    def noisy(self, rng: Random, size: tuple[int, int]) -> Ground:
        """A named colour under grain."""
        plain = self.plain(rng, size)
        picture = self.textures.grained(plain.picture, rng)
        return Ground(picture, plain.tones, plain.name, names=plain.names)

    def colorful(self, rng: Random, size: tuple[int, int]) -> Ground:
        """Photo-like: many colours, either all dark or all light so that ink stays readable."""
        cloud = self.textures.cut(rng.choice(self.textures.clouds), rng, size)
        dark = rng.random() < 0.55
        table = [min(130, int(v * 0.5)) if dark else 150 + int(v * 0.41) for v in range(256)]
        tones: tuple[Rgb, ...] = ((105, 105, 105), (40, 40, 40)) if dark else ((160, 160, 160), (235, 235, 235))
        shades = frozenset(("black", "gray", "brown", "purple", "blue", "green", "red", "orange", "pink", "cyan"))
        banned = shades if dark else frozenset(("white", "gray", "yellow", "cyan", "pink", "orange", "green"))
        return Ground(cloud.point(table * 3), tones, "colorful", names=banned)


def pick_ink(rng: Random, ground: Ground, split: Split, tries: int = 60) -> tuple[str, Rgb] | None:
    """A colour name and value that can be read on the ground; None when luck ran out."""
    for _ in range(tries):
        name = rng.choice(COLORS)  # black and white are the commonest as it is: they can be read on most grounds
        if name in ground.names or (split == "train" and held_out_pair("ink", name, ground.name)):
            continue
        rgb = pick_rgb(name, rng)
        if all(readable(rgb, tone) for tone in ground.tones):
            return name, rgb
    return None


_NEAR: dict[str, tuple[str, ...]] = {
    "light blue": ("cyan", "white"), "light yellow": ("white", "yellow"), "light gray": ("white", "gray"),
    "light green": ("white", "green", "cyan"), "dark gray": ("gray", "black"), "dark red": ("brown", "red"),
    "brown": ("orange",), "orange": ("brown",), "pink": ("purple",),
}  # fmt: skip


def clashing(name: str) -> frozenset[str]:
    """Ink names too near to this background's."""
    own = name.split(" ")[-1] if name in SHADES else name
    return frozenset((own, *_NEAR.get(name, ())))


def _ramp(ends: tuple[Rgb, Rgb], size: tuple[int, int], sideways: bool) -> Image.Image:
    steps = size[0] if sideways else size[1]
    ramp = np.linspace(ends[0], ends[1], steps).round().astype(np.uint8)
    strip = Image.fromarray(ramp[None] if sideways else ramp[:, None])
    return strip.resize(size, Image.Resampling.NEAREST)
