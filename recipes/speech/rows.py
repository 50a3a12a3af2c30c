"""Batches of sounds with what should be heard and answered.

Owns the mix of spoken questions, sentences to repeat and things that get no answer, and how they stand in a row
beside typed questions about the same picture. Does not know about losses or weights.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from recipes.data import QA, Split, render_sample
from recipes.pack import Packer, Row, RowBatch, collate
from recipes.speech.sample import Utterance, render_utterance, say
from recipes.speech.texts import ask_to_repeat, question, sentence_to_repeat, spoken
from recipes.tiles import tiles_of
from vita.config import FilterbankConfig
from vita.fusion import AUDIO_SLOT
from vita.media.filterbank import filterbank, pad_to_minimum, token_count

LETTERS = string.ascii_lowercase + " '"  # what CTC writes; 0 is blank
LONGEST = 16000 * 7  # samples; a longer sound is cut by the drawing of another one
NO_ANSWER = "☟"
SPOKEN_MARK = "☞"
TYPED_BESIDE = 2  # typed questions that keep the decoder's older skills in every row with a picture
WITH_PICTURE = 0.6  # of the answering phase


@dataclass(frozen=True)
class Said:
    """A sound, the typed words that come with it, the answer after the mark, and the picture it is about."""

    sound: Utterance
    typed: str
    answer: str
    picture: np.ndarray | None
    beside: tuple[QA, ...] = ()


@dataclass(frozen=True)
class SpeechBatch:
    """Sounds and the rows they stand in.

    Attributes:
        banks: float32 `[sounds, T, 80]`, padded with zeros.
        frames: int64 `[sounds]`.
        letters: int64 `[all letters]`, what CTC should write, sound after sound.
        spelled: int64 `[sounds]`, how many letters of each; 0 where nothing should be written.
        tiles: uint8 `[tiles, S, S, 3]` of the rows in order.
        rows: one for each sound, or None while only hearing is taught.
        next_index: the first sample number after this batch.
    """

    banks: Tensor
    frames: Tensor
    letters: Tensor
    spelled: Tensor
    tiles: Tensor
    rows: RowBatch | None
    next_index: int


def spell(text: str) -> list[int]:
    """CTC's labels of a sentence."""
    return [LETTERS.index(c) + 1 for c in text.lower() if c in LETTERS]


def draw(index: int, split: Split, seed: int, answers: bool) -> Said:
    """Number `index` of the mix: heard only, or to be answered."""
    rng = Random(f"{seed}/{split}/said/{index}/{answers}")
    if not answers:
        text = sentence_to_repeat(rng, split) if rng.random() < 0.45 else question(rng, split)
        return Said(say(text, split, rng), "", "", None)
    if rng.random() < WITH_PICTURE:
        sample = render_sample(index, split, "mix", seed + 1)
        asked = [qa for qa in sample.qa if spoken(qa)]
        if asked:
            qa = rng.choice(asked)
            sound = say(qa.question, split, rng)
            rest = [q for q in sample.qa if q is not qa]
            beside = tuple(rng.sample(rest, min(TYPED_BESIDE, len(rest))))
            return Said(sound, "", SPOKEN_MARK + qa.answer, sample.picture, beside)
    sound = render_utterance(index, split, seed)
    if sound.kind == "repeat":
        return Said(sound, ask_to_repeat(rng, split), SPOKEN_MARK + sound.text, None)
    picture = render_sample(index, split, "mix", seed + 2).picture if rng.random() < 0.5 else None
    return Said(sound, "", NO_ANSWER, picture)


class SpeechPacker:
    """Rows with sounds, in the engine's own prompt."""

    def __init__(self, packer: Packer) -> None:
        self.packer = packer

    def row(self, said: Said, tokens: int, tiles: int) -> Row:
        """The sound's segment first, then typed questions about the same picture.

        Args:
            said: what is said.
            tokens: decoder rows the sound takes.
            tiles: of the picture.
        """
        packer = self.packer
        asked = [(self.heard(said.typed, tokens, tiles), packer.answer_marked(said.answer))]
        asked += [(packer.question(qa.question, tiles), packer.answer(qa.answer)) for qa in said.beside]
        return packer.lay_out([[turn] for turn in asked], tiles)

    def heard(self, typed: str, tokens: int, tiles: int) -> list[int]:
        """A user turn that ends with a sound, up to the open assistant header."""
        packer = self.packer
        encode = packer.tokenizer.encode
        text = f"\n{typed}\n" if tiles and typed else "\n" if tiles else f"user\n{typed}\n" if typed else "user\n"
        return [*encode(text), *([AUDIO_SLOT] * tokens), *packer.close_turn()]


def build_speech_batch(
    packer: SpeechPacker, first: int, size: int, seed: int, answers: bool, split: Split = "train"
) -> SpeechBatch:
    """The batch that begins with sample `first`."""
    everything = [draw(index, split, seed, answers) for index in range(first, first + size)]
    banks = [bank_of(said.sound.samples) for said in everything]
    frames = torch.tensor([len(bank) for bank in banks])
    spelled = [spell(said.sound.text) if said.sound.kind in ("question", "repeat") else [] for said in everything]
    tiles: list[np.ndarray] = []
    rows: list[Row] = []
    for said, bank in zip(everything, banks, strict=True):
        cut = None if said.picture is None else tiles_of(said.picture)
        if answers:
            tiles += [] if cut is None else [cut]
            rows.append(packer.row(said, token_count(len(bank)), 0 if cut is None else len(cut)))
    return SpeechBatch(
        banks=torch.nn.utils.rnn.pad_sequence(banks, batch_first=True),
        frames=frames,
        letters=torch.tensor([letter for letters in spelled for letter in letters], dtype=torch.long),
        spelled=torch.tensor([len(letters) for letters in spelled]),
        tiles=torch.from_numpy(np.concatenate(tiles)) if tiles else torch.zeros(0, 224, 224, 3, dtype=torch.uint8),
        rows=collate(rows) if rows else None,
        next_index=first + size,
    )


def bank_of(samples: np.ndarray) -> Tensor:
    """The engine's own filterbank, `[T, 80]`; what is longer than seven seconds is cut off in training."""
    return filterbank(pad_to_minimum(torch.from_numpy(samples[:LONGEST])), FilterbankConfig())


def statistics(sounds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation of every band over some sounds, float32 `[80]` each."""
    frames = torch.cat(list(sounds)).double()
    return frames.mean(0).float(), (1 / frames.std(0).clamp(min=1e-3)).float()
