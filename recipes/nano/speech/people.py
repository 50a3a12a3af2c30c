"""Recordings of people, which only measure: their files, and what is said in them.

From Debian's packages `asterisk-core-sounds-en` and `-wav` (Allison Smith, CC-BY-SA-3.0) and `ktuberling-data`
(volunteers of KDE, GPL-2.0-or-later). Nothing is trained on them, and no choice is made by them.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

from recipes.nano.data.pieces import heard_words
from recipes.nano.speech.room import RATE

PACKAGES = "asterisk-core-sounds-en asterisk-core-sounds-en-wav ktuberling-data"
PROMPTS = Path("usr/share/asterisk/sounds/en_US_f_Allison")
PROMPT_TEXTS = Path("usr/share/doc/asterisk-core-sounds-en/core-sounds-en.txt.gz")
WORDS = Path("usr/share/ktuberling/sounds/en")
SHORTEST, LONGEST = 0.3, 7.0  # seconds
QUIET = 0.4  # seconds before and after, as a microphone hears them


@dataclass(frozen=True)
class Recording:
    """What somebody says.

    Attributes:
        samples: float32 at 16 kHz.
        text: what is said.
        known: whether every word is one that the model was taught to write.
    """

    samples: np.ndarray
    text: str
    known: bool


def people(root: Path) -> dict[str, list[Recording]]:
    """Recordings by who speaks.

    Args:
        root: "/", or the folder that the packages were unpacked into.

    Raises:
        FileNotFoundError: a package is not there.
    """
    found = {"Allison Smith (Asterisk)": _prompts(root), "volunteers (KTuberling)": _words(root)}
    return {name: list(_recordings(files)) for name, files in found.items()}


def _prompts(root: Path) -> dict[Path, str]:
    if not (root / PROMPT_TEXTS).exists():
        raise FileNotFoundError(f"{root / PROMPT_TEXTS} is not there; run 'apt-get install {PACKAGES}'.")
    lines = gzip.decompress((root / PROMPT_TEXTS).read_bytes()).decode("utf-8").splitlines()
    named = (re.fullmatch(r"([\w/-]+): ([^\[\]]+)", line) for line in lines)
    files = {root / PROMPTS / f"{m[1]}.wav": m[2] for m in named if m and not re.search(r"\d", m[2])}
    return {file: text for file, text in files.items() if file.exists()}


def _words(root: Path) -> dict[Path, str]:
    """The word that is said is the end of the file's name."""
    files = sorted((root / WORDS).glob("*.ogg"))
    if not files:
        raise FileNotFoundError(f"{root / WORDS} holds no sounds; run 'apt-get install {PACKAGES}'.")
    return {file: file.stem.split("_")[-1] for file in files}


def _recordings(files: dict[Path, str]) -> Iterator[Recording]:
    book = set(heard_words())
    for file, text in files.items():
        samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
        said = soxr.resample(samples.mean(1), rate, RATE).astype(np.float32)
        if SHORTEST <= len(said) / RATE <= LONGEST:
            quiet = np.zeros(round(QUIET * RATE), np.float32)
            words = re.findall("[a-z]+", text.lower().replace("'", ""))
            yield Recording(np.concatenate([quiet, said, quiet]), text, bool(words) and book.issuperset(words))
