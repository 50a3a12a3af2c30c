"""Finds Latin text fonts on this machine and opens them.

Owns the font files: which there are, which are held out, which are bold or have capitals only.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFont
from PIL.ImageFont import FreeTypeFont

from recipes.nano.data.labels import CHARS, Split

FOLDERS = ("/usr/share/fonts", "/usr/share/texmf/fonts", "/usr/local/share/fonts", "~/.fonts", "~/.local/share/fonts")
FACES_PER_FAMILY = 4
LIGHTEST_BOLD = (0.16, 0.182)  # weight up to which a face is not bold, and from which it is
BUILT_IN = "built-in"  # the path of Pillow's own font
PLAIN_FAMILIES = ("DejaVu Sans", "Liberation Sans", "Lato", "Open Sans", "Roboto", "Arimo", "Carlito", BUILT_IN)
_UNWANTED = (
    "math", "symbol", "dingbat", "ornament", "emoji", "icon", "cursor", "chancery", "initials", "barcode", "outline",
    "shadow", "keyboard", "music", "d050000l", "standardsymbols", "tamil", "smallcaps", "small caps", "sc ", "phonetic",
)  # fmt: skip
_THIN = ("thin", "hairline", "extralight", "extra light", "ultralight", "thinitalic")


# Families that share one drawing under different names.
_TWINS = {
    "Helvetica": ("Nimbus Sans", "TeX Gyre Heros", "FreeSans", "Switzera"),
    "Arial": ("Arimo", "Liberation Sans"),
    "Times": ("Nimbus Roman", "TeX Gyre Termes", "FreeSerif", "Tinos", "Liberation Serif"),
    "Courier": ("Nimbus Mono", "TeX Gyre Cursor", "FreeMono", "Cousine", "Liberation Mono"),
    "Vera": ("DejaVu", "Hack", "Verana", "Bitstream"),
    "Century": ("C059", "TeX Gyre Schola"),
    "Palatino": ("P052", "TeX Gyre Pagella"),
    "Bookman": ("URW Bookman", "TeX Gyre Bonum"),
    "Avant Garde": ("URW Gothic", "TeX Gyre Adventor"),
    "OpenDyslexic": ("OpenDyslexic",),
    "Gentium": ("Gentium",),
    "Chancery": ("Z003", "TeX Gyre Chorus"),
}
_TWO_WORDS = {"Linux", "PT", "TeX", "Open", "Liberation", "Nimbus", "URW", "Averia", "Goudy", "GFS", "EB"}


@dataclass(frozen=True)
class Face:
    """One font file and what we know of it."""

    family: str
    style: str
    path: str
    bold: bool | None  # None: neither clearly bold nor clearly not
    caps_only: bool


@lru_cache(maxsize=100_000)
def held_out_name(kind: str, name: str, one_in: float) -> bool:
    """A stable coin: about `one_in` of all names fall on the held-out side, the same ones on every machine."""
    digest = hashlib.sha256(f"{kind}/{name.casefold()}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < one_in


def design_of(family: str) -> str:
    """The drawing behind a family name, so that a twin of a held-out font is held out with it."""
    for design, names in _TWINS.items():
        if any(family.startswith(name) for name in names):
            return design
    words = family.split(" ")
    return " ".join(words[: 2 if words[0] in _TWO_WORDS else 1])


def held_out_family(family: str) -> bool:
    """Whether this font family is kept for the held-out split."""
    design = design_of(family)
    return design not in {design_of(plain) for plain in PLAIN_FAMILIES} and held_out_name("font2", design, 0.15)


def install_hint() -> str:
    """The command that installs the fonts the recipe was made with."""
    packages = (Path(__file__).parent / "fonts.txt").read_text(encoding="utf-8").split()
    return "sudo apt-get install -y --no-install-recommends " + " ".join(packages)


class FontBook:
    """All usable faces, split by family; opened fonts are kept."""

    def __init__(self, folders: Sequence[str] = FOLDERS, open_fonts: int = 700) -> None:
        self.open = lru_cache(maxsize=open_fonts)(self._open)
        faces = _scan(folders)
        self.families = sorted({face.family for face in faces})
        held = {f for f in self.families if held_out_family(f)}
        held = held or set(self.families[:1])  # a bare machine has one family, which then serves both splits
        train = [f for f in faces if f.family not in held] or faces
        self._faces: dict[tuple[Split, bool], list[list[Face]]] = {}
        for split, group in (("train", train), ("heldout", [f for f in faces if f.family in held])):
            for caps in (True, False):
                by_family: dict[str, list[Face]] = defaultdict(list)
                for face in group:
                    if caps or not face.caps_only:
                        by_family[face.family].append(face)
                self._faces[split, caps] = [by_family[name] for name in sorted(by_family)]  # type: ignore[index]

    def groups(self, split: Split, capitals: bool) -> list[list[Face]]:
        """Faces by family; fonts without small letters only if `capitals`."""
        return self._faces[split, capitals] or self._faces["train", True]

    def all_faces(self) -> list[list[Face]]:
        """The faces of both splits, by family."""
        return [*self._faces["train", True], *self._faces["heldout", True]]

    def plain(self) -> list[list[Face]]:
        """The few unadorned families of the first pages."""
        found = [group for group in self.groups("train", False) if group[0].family in PLAIN_FAMILIES]
        return found or self.groups("train", False)

    def advise(self, wanted: int = 40) -> str | None:
        """What to tell the user when this machine has too few families."""
        if len(self.families) >= wanted:
            return None
        return f"only {len(self.families)} font families found (the recipe wants {wanted}); run: {install_hint()}"

    def _open(self, path: str, size: int) -> FreeTypeFont:
        return _open_font(path, size)


def _open_font(path: str, size: int) -> FreeTypeFont:
    if path == BUILT_IN:
        font = ImageFont.load_default(size)
        assert isinstance(font, FreeTypeFont), "this Pillow was built without FreeType"
        return font
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _scan(folders: Sequence[str]) -> list[Face]:
    """Every usable face, sorted by family, style and file name (never by folder)."""
    rows: list[tuple[str, str, str, str]] = []
    for folder in folders:
        for root, _, names in os.walk(Path(folder).expanduser()):
            for name in names:
                if name.lower().endswith((".ttf", ".otf")):
                    rows.extend(_name_row(str(Path(root) / name)))
    groups: dict[str, list[tuple[str, str, str, str]]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: r[:3]):
        groups[row[0]].append(row)
    faces = [Face(BUILT_IN, "Regular", BUILT_IN, False, False)]
    for family in sorted(groups):
        faces.extend(_best_faces(groups[family]))
    return faces


def _name_row(path: str) -> list[tuple[str, str, str, str]]:
    """(family, style, file name, path), or nothing for a font of another trade."""
    try:
        family, style = _open_font(path, 12).getname()
    except OSError:
        return []
    words = f"{family} {style} {Path(path).stem} ".lower()
    if not family or not style or any(w in words for w in _UNWANTED) or any(w in words for w in _THIN):
        return []
    return [(family, style, Path(path).name, path)]


def _best_faces(rows: list[tuple[str, str, str, str]]) -> list[Face]:
    """Up to four faces of a family that pass the tests, the everyday styles first."""
    order = {"regular": 0, "book": 0, "roman": 0, "medium": 1, "bold": 1, "italic": 2, "bold italic": 3}
    chosen: list[Face] = []
    seen: set[str] = set()
    for family, style, _, path in sorted(rows, key=lambda r: (order.get(r[1].lower(), 4), r[1], r[2])):
        if style in seen or len(chosen) == FACES_PER_FAMILY:
            continue
        face = _examine(family, style, path)
        if face is not None:
            seen.add(style)
            chosen.append(face)
    if any(face.caps_only for face in chosen):  # one face tells it for the family
        chosen = [replace(face, caps_only=True) for face in chosen]
    return chosen


def _examine(family: str, style: str, path: str) -> Face | None:
    """Checks the glyphs: all of CHARS drawn, none twice as the missing-glyph box, weight told apart."""
    try:
        font = _open_font(path, 40)
        missing = _bitmap(font, "\U000e1234")
        glyphs = {c: _bitmap(font, c) for c in CHARS}
        if any(g.size == 0 for g in glyphs.values()):
            return None
        if any(np.array_equal(glyphs[c], missing) for c in ("A", "g", "7", "×", "?")):
            return None
        if not 0.25 < glyphs["A"].shape[0] / 40 < 1.3:
            return None
        stem = _stem(glyphs["H"])
    except (OSError, ValueError):
        return None
    if stem < 0.05:  # a hairline
        return None
    bold = None if LIGHTEST_BOLD[0] <= stem <= LIGHTEST_BOLD[1] else stem > LIGHTEST_BOLD[1]
    same = sum(_alike(glyphs[c], glyphs[c.upper()]) for c in "abdeghnqrt")
    return Face(family, style, path, bold, same >= 4)


def _bitmap(font: FreeTypeFont, text: str) -> np.ndarray:
    return np.asarray(Image.Image()._new(font.getmask(text)))


def _stem(letter: np.ndarray) -> float:
    """Width of H's left stem against the letter's size, so that narrow letters count as heavier."""
    height, width = letter.shape
    runs = []
    for row in (letter[height // 4], letter[3 * height // 4]):
        ink = row.astype(np.float64) / 255
        first = int(np.argmax(ink > 0.5))
        rest = ink[first:] > 0.5
        stop = int(np.argmin(rest)) if not rest.all() else len(rest)
        runs.append(ink[max(0, first - 1) : first + stop + 1].sum())
    return float(np.mean(runs) / np.sqrt(height * width))


def _alike(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two glyphs are the same drawing at two sizes."""
    small = [_shrink(g) for g in (a, b)]
    return float(np.abs(small[0] - small[1]).mean()) < 0.12


def _shrink(glyph: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(glyph).resize((16, 16), Image.Resampling.BOX), np.float64) / 255
