"""Utterances rendered once to files: samples in one, what is said in another.

Owns the files' layout, how they are appended to and looked up. Does not know who spoke. `NAME.pcm` holds int16 samples
at 16 kHz, one utterance after another; each line of `NAME.tsv` is an utterance's number of samples, speaker, kind and
text, in order. `NAME.ima` is the same at four bits a sample, for a machine that has no voices of its own.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np

from recipes.nano.speech.adpcm import BYTES, blocks_of, decode

COMPACT = ".ima"
FOLDER = "VITA_BAKED_VOICES"  # the environment variable that names the folder, if voices were baked


@dataclass(frozen=True)
class Baked:
    """One utterance in a file.

    Attributes:
        file: of samples.
        start: its first sample, or block of samples.
        length: in samples.
        speaker: who says it.
        kind: "question", "repeat", "others" or "backchannel".
        text: what is said.
    """

    file: Path
    start: int
    length: int
    speaker: str
    kind: str
    text: str

    def samples(self) -> np.ndarray:
        """Float32 `[n]` at 16 kHz in -1..1."""
        if self.file.suffix == COMPACT:
            with self.file.open("rb") as stream:
                stream.seek(self.start * BYTES)
                return decode(stream.read(blocks_of(self.length) * BYTES), self.length)
        raw = np.fromfile(self.file, "<i2", self.length, offset=2 * self.start)
        return raw.astype(np.float32) / np.float32(32768)


class Shelf:
    """All utterances of a folder, by their words and by their kind.

    Args:
        folder: with pairs of files.

    Raises:
        FileNotFoundError: there are none; a run would go on without the voices that it was given.
    """

    def __init__(self, folder: Path) -> None:
        # Each group of voices is as likely as another: how fast it could be rendered is no reason to hear it more.
        self._by_words: dict[str, dict[str, list[Baked]]] = defaultdict(lambda: defaultdict(list))
        self._by_kind: dict[str, dict[str, list[Baked]]] = defaultdict(lambda: defaultdict(list))
        for index in sorted(folder.glob("*.tsv")):
            for one in read_index(index):
                self._by_words[words_key(one.text)][index.stem].append(one)
                self._by_kind[one.kind][index.stem].append(one)
        if not self._by_kind:
            raise FileNotFoundError(
                f"{folder} holds no baked voices; run 'python -m recipes.nano.speech.bake --out {folder}'."
            )

    def has(self, text: str) -> bool:
        """Whether somebody says it."""
        return words_key(text) in self._by_words

    def saying(self, text: str, rng: Random) -> Baked | None:
        """Somebody who says these words, whatever the capitals and the full stop."""
        return _pick(self._by_words.get(words_key(text), {}), rng)

    def of_kind(self, kind: str, rng: Random) -> Baked | None:
        """Any utterance of a kind."""
        return _pick(self._by_kind.get(kind, {}), rng)


def _pick(groups: dict[str, list[Baked]], rng: Random) -> Baked | None:
    return rng.choice(groups[rng.choice(sorted(groups))]) if groups else None


def words_key(text: str) -> str:
    """What of a text can be heard."""
    return " ".join(re.findall(r"[a-z']+", text.lower()))


def read_index(index: Path) -> list[Baked]:
    """What a file holds; a last line that was cut off while it was written does not count."""
    found, start = [], 0
    file = index.with_suffix(COMPACT)
    compact = file.exists()
    for line in index.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            length, speaker, kind, text = line.rstrip("\n").split("\t")
            found.append(Baked(file if compact else index.with_suffix(".pcm"), start, int(length), speaker, kind, text))
            start += blocks_of(int(length)) if compact else int(length)
    return found


def append(index: Path, said: Iterable[tuple[np.ndarray, str, str, str]]) -> None:
    """Adds samples (float32 at 16 kHz), speakers, kinds and texts; repairs what an end at any moment left behind."""
    before = read_index(index) if index.exists() else []
    with index.with_suffix(".pcm").open("ab") as pcm, index.open("a", encoding="utf-8") as lines:
        lines.truncate(sum(len(f"{b.length}\t{b.speaker}\t{b.kind}\t{b.text}\n".encode()) for b in before))
        pcm.truncate(2 * sum(b.length for b in before))
        for samples, speaker, kind, text in said:
            pcm.write(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
            pcm.flush()
            lines.write(f"{len(samples)}\t{speaker}\t{kind}\t{text}\n")
            lines.flush()


@lru_cache(maxsize=1)
def shelf() -> Shelf | None:
    """The baked voices of this process; none where the environment names no folder."""
    named = os.environ.get(FOLDER)
    return Shelf(Path(named)) if named else None
