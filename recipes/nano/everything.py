"""Batches of everything at once, in one shape: pictures, clips, typed and spoken questions, sentences, noise.

Owns the phases of the short run on a GPU and what a batch of a number and a phase holds. A batch has so many tiles,
token sequences and sounds; rows are packed into the sequences. Does not know about losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
import torch

from recipes.nano.data import Stage, render_sample
from recipes.nano.feed import SHAPE, dense_labels
from recipes.nano.pack import ROWS_PER_TILE, Packer
from recipes.nano.schedule import CURRICULUM, TINY, Phase
from recipes.nano.speech.augment import blotted, warped
from recipes.nano.speech.espeak import MissingSpeechEngine
from recipes.nano.speech.rows import Mix, Said, SpeechPacker, bank_of, draw, spell, worded
from recipes.nano.speech.sample import Utterance
from recipes.nano.tiles import SIDE, training_tiles
from vita.media.filterbank import token_count
from vita.prompt.template import AUDIO_PLACEHOLDER, IMAGE_PLACEHOLDER
from vita.prompt.tokenizer import Tokenizer
from vita.train.packing import Row, pack

STRIDE = 4096  # sample numbers that one batch may draw from
BANDS = 80
GIVE_UP = 4  # samples that do not go in any more, until a batch is taken as full
SOUND_TILES = 0.4  # of the tiles at most belong to samples with a sound and to clips
SILENT = 0.02  # least deviation of a bank


@dataclass(frozen=True)
class Shape:
    """How much one batch holds.

    Attributes:
        tiles: of 224 pixels.
        sequences: of tokens.
        length: of each sequence.
        sounds: of at most `frames` frames; 0 on a machine without voices.
        frames: of the filterbank; a longer sound is cut.
    """

    tiles: int = 128
    sequences: int = 24
    length: int = 1024
    sounds: int = 32
    frames: int = 704

    def times(self, factor: float) -> Shape:
        """So many times the batch."""
        return replace(self, tiles=max(8, round(self.tiles * factor)), sequences=max(3, round(self.sequences * factor)),
                       sounds=max(2, round(self.sounds * factor)) if self.sounds else 0)  # fmt: skip

    @property
    def bytes(self) -> int:
        """An upper bound of a batch's size in shared memory."""
        tokens = self.sequences * self.length
        seen = self.tiles * (SIDE * SIDE * 3 + int(np.prod(SHAPE)))
        return seen + tokens * 48 + self.sounds * self.frames * (2 * BANDS + 16) + 65536


@dataclass(frozen=True)
class Everything:
    """A phase: what is drawn for pictures, and what sounds are for.

    Attributes:
        seen: of the picture curriculum.
        heard: written down only, or everything.
    """

    seen: Phase
    heard: Mix


def phases(*, tiny: bool = False) -> tuple[Everything, ...]:
    """The picture curriculum with sounds beside it: written down from the start, answered once answers are taught.

    Eyes learn in every phase: a batch has pictures enough, beside its drills too.
    """
    if tiny:
        return tuple(Everything(phase, "everything") for phase in TINY)
    answered = next(k for k, phase in enumerate(CURRICULUM) if phase.answers)
    seen = [replace(phase, eyes=True) for phase in CURRICULUM]
    return tuple(Everything(p, "everything" if k > answered else "hearing") for k, p in enumerate(seen))


class Builder:
    """Draws batches by number.

    Args:
        tokenizer: of the run.
        shape: of every batch.
        curriculum: of the run.
        seed: of everything drawn.
        split: held-out batches are drawn by the same numbers.
    """

    def __init__(self, tokenizer: Tokenizer, shape: Shape, curriculum: tuple[Everything, ...], seed: int) -> None:
        self.packer = Packer(tokenizer)
        self.speech = SpeechPacker(self.packer)
        self.shape, self.curriculum, self.seed = shape, curriculum, seed
        self.split: str = "train"

    def __call__(self, number: int, phase: int) -> dict[str, np.ndarray]:
        """One batch by the names that `recipes.nano.losses` takes."""
        filled = _Filled(self.shape)
        wanted = self.curriculum[phase]
        self._add_sounds(filled, number, wanted)
        self._add_pictures(filled, number, wanted.seen)
        return filled.arrays(self.speech)

    def _add_sounds(self, filled: _Filled, number: int, phase: Everything) -> None:
        limit, refused = round(SOUND_TILES * self.shape.tiles), 0
        for index in range(number * STRIDE, (number + 1) * STRIDE):
            if filled.sounds_left == 0 or refused == GIVE_UP:
                return
            said = self._said(index, phase.heard)
            if said is None or len(said.sounds) > filled.sounds_left:
                refused += 1
                continue
            banks = [self._bank(sound, f"{index}/{k}") for k, sound in enumerate(said.sounds)]
            answered = phase.heard != "hearing"
            tiles = said.tiles() if answered else np.zeros((0, SIDE, SIDE, 3), np.uint8)
            row = None
            if answered:
                row = self.speech.row(said, [token_count(len(bank)) for bank in banks], len(tiles))
            sounds = list(zip(said.sounds, banks, strict=True))
            refused += not filled.add(tiles, row, said=sounds, most_tiles=limit)

    def _said(self, index: int, mix: Mix) -> Said | None:
        """None where nobody on this machine says it."""
        try:
            return draw(index, self.split, self.seed, mix)  # type: ignore[arg-type]
        except MissingSpeechEngine:
            return None

    def _bank(self, sound: Utterance, number: str) -> np.ndarray:
        bank = bank_of(sound.samples)[: self.shape.frames]
        if self.split == "train":
            blots = Random(f"{self.seed}/{number}/blots")
            bank = blotted(warped(bank, blots), blots)
        return bank.numpy()

    def _add_pictures(self, filled: _Filled, number: int, phase: Phase) -> None:
        refused = 0
        for index in range(number * STRIDE, (number + 1) * STRIDE):
            if filled.tiles_left == 0 or refused == GIVE_UP:
                return
            rng = Random(f"{self.seed}/{self.split}/batch/{index}")
            stage: Stage = rng.choices(phase.stages(), phase.weights())[0]
            sample = render_sample(index, self.split, stage, self.seed)  # type: ignore[arg-type]
            none = np.zeros((0, SIDE, SIDE, 3), np.uint8)
            tiles = none if sample.picture is None else training_tiles(sample.picture)
            labels = dense_labels(sample) if len(tiles) == 1 and sample.chars is not None else None
            row = None
            if phase.answers and sample.qa:
                row = self.packer.row(sample.qa, len(tiles), rng, drill=sample.drill)
            refused += not filled.add(tiles, row, labels=labels)


class _Filled:
    """A batch while it is filled."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.tiles: list[np.ndarray] = []
        self.rows: list[tuple[Row, list[int], list[int]]] = []  # its tiles and its sounds in order
        self.labels: list[tuple[int, np.ndarray]] = []
        self.said: list[tuple[Utterance, np.ndarray]] = []
        self.chosen: list[list[int]] = [[] for _ in range(shape.sequences)]
        self.free = [shape.length] * shape.sequences

    @property
    def tiles_left(self) -> int:
        return self.shape.tiles - len(self.tiles)

    @property
    def sounds_left(self) -> int:
        return self.shape.sounds - len(self.said)

    def add(
        self, tiles: np.ndarray, row: Row | None, *, labels: np.ndarray | None = None,
        said: Sequence[tuple[Utterance, np.ndarray]] = (), most_tiles: int | None = None,
    ) -> bool:  # fmt: skip
        """Whether the sample has gone in. Frames that stand still are kept once."""
        new = [k for k, tile in enumerate(tiles) if not (k and np.array_equal(tile, tiles[k - 1]))]
        limit = self.shape.tiles if most_tiles is None else most_tiles
        at = None if row is None else next((k for k, free in enumerate(self.free) if free >= len(row.ids)), -1)
        if len(self.tiles) + len(new) > limit or at == -1:
            return False
        shown = []
        for k, tile in enumerate(tiles):
            if k in new:
                self.tiles.append(tile)
            shown.append(len(self.tiles) - 1)
        if labels is not None:
            self.labels.append((shown[0], labels))
        heard = list(range(len(self.said), len(self.said) + len(said)))
        self.said += said
        if row is not None and at is not None:
            self.chosen[at].append(len(self.rows))
            self.free[at] -= len(row.ids)
            self.rows.append((row, shown, heard))
        return True

    def arrays(self, speech: SpeechPacker) -> dict[str, np.ndarray]:
        """Everything as arrays of one shape; what is not filled is padding."""
        shape = self.shape
        tiles = np.zeros((shape.tiles, SIDE, SIDE, 3), np.uint8)
        for k, tile in enumerate(self.tiles):
            tiles[k] = tile
        out = {
            "tiles": tiles,
            "labelled": np.array([k for k, _ in self.labels], np.int64),
            "labels": np.stack([p for _, p in self.labels]) if self.labels else np.zeros((0, *SHAPE), np.uint8),
            "samples": np.array([len(self.rows) or len(self.tiles), len(self.said)], np.int64),
        }
        return out | self._tokens() | self._sounds(speech)

    def _tokens(self) -> dict[str, np.ndarray]:
        shape = self.shape
        if not self.rows:
            return {}
        batch = pack([row for row, *_ in self.rows], self.chosen, shape.length)
        assert batch.row is not None
        ids = batch.ids.numpy()
        source = np.full(ids.shape, -1, np.int64)  # which media row stands at a placeholder
        per_sound = token_count(shape.frames)
        for line, numbers in enumerate(self.chosen):
            at = 0
            for number in numbers:
                row, shown, sounds = self.rows[number]
                images = [tile * ROWS_PER_TILE + k for tile in shown for k in range(ROWS_PER_TILE)]
                source[line, at + np.flatnonzero(row.ids == IMAGE_PLACEHOLDER)] = images
                starts = [shape.tiles * ROWS_PER_TILE + sound * per_sound for sound in sounds]
                counts = [token_count(len(self.said[sound][1])) for sound in sounds]
                heard = [first + k for first, count in zip(starts, counts, strict=True) for k in range(count)]
                source[line, at + np.flatnonzero(row.ids == AUDIO_PLACEHOLDER)] = heard
                at += len(row.ids)
        named = {"segment": batch.segment, "position": batch.position, "target": batch.target, "row": batch.row}
        small = {name: tensor.numpy().astype(np.int32) for name, tensor in named.items()}
        return {"ids": np.maximum(ids, 0).astype(np.int32), "source": source, "weight": batch.weight.numpy(), **small}

    def _sounds(self, speech: SpeechPacker) -> dict[str, np.ndarray]:
        shape = self.shape
        if not shape.sounds:
            return {}
        banks = np.zeros((shape.sounds, shape.frames, BANDS), np.float16)
        frames = np.full(shape.sounds, 7, np.int64)  # the least that the encoder takes
        letters: list[int] = []
        words: list[int] = []
        spelled, counted = np.zeros(shape.sounds, np.int64), np.zeros(shape.sounds, np.int64)
        for k, (sound, bank) in enumerate(self.said):
            banks[k, : len(bank)], frames[k] = bank, len(bank)
            text = sound.text if sound.kind in ("question", "repeat") else ""
            letters += spell(text)
            words += worded(text)
            spelled[k], counted[k] = len(spell(text)), len(worded(text))
        tokens = [speech.word_tokens[label - 1] for label in words]
        return {
            "banks": banks, "frames": frames, "letters": np.array(letters, np.int64), "spelled": spelled,
            "words": np.array(words, np.int64), "worded": counted, "tokens": np.array(tokens, np.int64),
        }  # fmt: skip


@dataclass(frozen=True)
class MakeBuilder:
    """What a drawing process begins with."""

    tokenizer: Path
    shape: Shape
    curriculum: tuple[Everything, ...]
    seed: int

    def __call__(self) -> Builder:
        torch.set_num_threads(1)
        return Builder(Tokenizer.load(self.tokenizer), self.shape, self.curriculum, self.seed)


def held_out(builder: Builder, phase: int) -> dict[str, np.ndarray]:
    """A batch of held-out samples."""
    builder.split = "heldout"
    return builder(0, phase)
