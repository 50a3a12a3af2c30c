"""Batches of sounds and clips with what should be heard, seen and answered.

Owns the mix of spoken questions, sentences to repeat, things that get no answer and clips, and how they stand in a
row beside typed questions about the same picture. Does not know about losses or weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from torch import Tensor

from recipes.data import QA, Split, render_sample
from recipes.data.clips import render_clip
from recipes.data.scene_other import talk_only
from recipes.model import LETTERS
from recipes.pack import Packer, Row, RowBatch, collate_alike
from recipes.speech.sample import Utterance, render_utterance, say
from recipes.speech.texts import ask_to_repeat, question, sentence_to_repeat, spoken
from recipes.tiles import tiles_of
from vita.config import FilterbankConfig
from vita.fusion import AUDIO_SLOT
from vita.media.filterbank import filterbank, pad_to_minimum, token_count

LONGEST = 16000 * 7  # samples; a longer sound is cut by the drawing of another one
NO_ANSWER = "☟"
SPOKEN_MARK = "☞"
TYPED_BESIDE = 2  # typed questions that keep the decoder's older skills in every row with a picture
CLIPS, PICTURES, TALK = 0.12, 0.45, 0.2  # shares of the answering phase; the rest is sound to repeat or to ignore
WIDE = 0.2  # of the pictures are cut into tiles
SPOKEN_OF_CLIP = 0.4  # of the clips come with a spoken question


@dataclass(frozen=True)
class Said:
    """A sound, the typed words that come with it, the answer after the mark, and what is seen.

    Attributes:
        sound: None for a clip with typed questions only.
        typed: with the sound.
        answer: to the sound.
        picture: uint8 `[height, width, 3]`, or the frames of a clip `[n, S, S, 3]`.
        beside: typed questions about the same picture or clip.
    """

    sound: Utterance | None
    typed: str
    answer: str
    picture: np.ndarray | None
    beside: tuple[QA, ...] = ()

    @property
    def video(self) -> bool:
        """Whether a clip is seen."""
        return self.picture is not None and self.picture.ndim == 4

    def tiles(self) -> np.ndarray:
        """uint8 `[tiles or frames, S, S, 3]`."""
        if self.picture is None:
            return np.zeros((0, 224, 224, 3), np.uint8)
        return self.picture if self.video else tiles_of(self.picture)


@dataclass(frozen=True)
class SpeechBatch:
    """Sounds and the rows they stand in.

    Attributes:
        banks: float32 `[sounds, T, 80]`, padded with zeros.
        frames: int64 `[sounds]`.
        letters: int64 `[all letters]`, what CTC should write, sound after sound.
        spelled: int64 `[sounds]`, how many letters of each; 0 where nothing should be written.
        tiles: uint8 `[tiles, S, S, 3]`, frames that stand still only once.
        shown: int64, the tiles that the rows take, in order.
        rows: one for each sample, short ones apart from long ones; none while only hearing is taught.
        next_index: the first sample number after this batch.
    """

    banks: Tensor
    frames: Tensor
    letters: Tensor
    spelled: Tensor
    tiles: Tensor
    shown: Tensor
    rows: tuple[RowBatch, ...]
    next_index: int


def spell(text: str) -> list[int]:
    """CTC's labels of a sentence."""
    return [LETTERS.index(c) + 1 for c in text.lower() if c in LETTERS]


def restated(question: str, answer: str) -> str:
    """What is said to a spoken question: first the question as it was heard, on a line of its own.

    The answer can then look for the question's words in what was written, as it does for a typed one; and who asked
    sees what was understood.
    """
    asked = question[0].upper() + question[1:]
    return f"{SPOKEN_MARK}{asked if asked[-1] in '.?!' else asked + '?'}\n{answer}"


def draw(index: int, split: Split, seed: int, answers: bool) -> Said:
    """Number `index` of the mix: heard only, or to be answered."""
    rng = Random(f"{seed}/{split}/said/{index}/{answers}")
    if not answers:
        text = sentence_to_repeat(rng) if rng.random() < 0.45 else question(rng, split)
        return Said(say(text, split, rng), "", "", None)
    lot = rng.random()
    if lot < CLIPS:
        return _clip(index, split, seed, rng)
    if lot < CLIPS + PICTURES:
        # Pictures in several tiles too: without them whatever has several is soon taken for a clip.
        sample = render_sample(index, split, "tiles" if rng.random() < WIDE else "mix", seed + 1)
        asked = [qa for qa in sample.qa if spoken(qa)]
        if asked:
            qa = rng.choice(asked)
            sound = say(qa.question, split, rng)
            rest = [q for q in sample.qa if q is not qa]
            beside = tuple(rng.sample(rest, min(TYPED_BESIDE, len(rest))))
            return Said(sound, "", restated(qa.question, qa.answer), sample.picture, beside)
    if lot >= 1 - TALK:  # of the model itself, of what is beyond it, or of a picture that is not there
        asked = [qa for qa in talk_only(rng, split) if spoken(qa)]
        if asked:
            qa = rng.choice(asked)
            return Said(say(qa.question, split, rng), "", restated(qa.question, qa.answer), None)
    sound = render_utterance(index, split, seed)
    if sound.kind == "repeat":
        return Said(sound, ask_to_repeat(rng, split), SPOKEN_MARK + sound.text, None)
    picture = render_sample(index, split, "mix", seed + 2).picture if rng.random() < 0.5 else None
    return Said(sound, "", NO_ANSWER, picture)


def _clip(index: int, split: Split, seed: int, rng: Random) -> Said:
    """A clip with all its questions, one of them spoken now and then."""
    clip = render_clip(index, split, seed)
    asked = [qa for qa in clip.qa if spoken(qa)]
    if rng.random() >= SPOKEN_OF_CLIP or not asked:
        return Said(None, "", "", clip.frames, tuple(clip.qa))
    qa = rng.choice(asked)
    rest = tuple(q for q in clip.qa if q is not qa)
    return Said(say(qa.question, split, rng), "", restated(qa.question, qa.answer), clip.frames, rest)


class SpeechPacker:
    """Rows with sounds, in the engine's own prompt."""

    def __init__(self, packer: Packer) -> None:
        self.packer = packer

    def row(self, said: Said, tokens: int, tiles: int) -> Row:
        """The sound's segment first, if there is one, then typed questions about the same picture.

        Args:
            said: what is said.
            tokens: decoder rows the sound takes.
            tiles: of the picture.
        """
        packer = self.packer
        heard = [packer.turn(self.heard(said.typed, tokens, tiles), said.answer)] if said.sound else []
        typed = [packer.dialogue([qa] if qa.after is None else [qa.after, qa], tiles) for qa in said.beside]
        return packer.lay_out([heard, *typed] if heard else typed, tiles, video=said.video)

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
    heard = [(said, None if said.sound is None else bank_of(said.sound.samples)) for said in everything]
    rows: list[Row] = []
    if answers:
        made = [(said, bank, _row(packer, said, bank)) for said, bank in heard]
        made.sort(key=lambda one: len(one[2].ids))
        heard, rows = [(said, bank) for said, bank, _ in made], [row for *_, row in made]
    banks = [bank for _, bank in heard if bank is not None]
    sounds = [said.sound for said, _ in heard if said.sound is not None]
    spelled = [spell(sound.text) if sound.kind in ("question", "repeat") else [] for sound in sounds]
    tiles: list[np.ndarray] = []
    shown: list[int] = []
    for said, _ in heard if answers else ():
        cut = said.tiles()
        for k, tile in enumerate(cut):
            if not (k and np.array_equal(tile, cut[k - 1])):
                tiles.append(tile)
            shown.append(len(tiles) - 1)
    return SpeechBatch(
        banks=torch.nn.utils.rnn.pad_sequence(banks, batch_first=True) if banks else torch.zeros(0, 8, 80),
        frames=torch.tensor([len(bank) for bank in banks]),
        letters=torch.tensor([letter for letters in spelled for letter in letters], dtype=torch.long),
        spelled=torch.tensor([len(letters) for letters in spelled], dtype=torch.long),
        tiles=torch.from_numpy(np.stack(tiles)) if tiles else torch.zeros(0, 224, 224, 3, dtype=torch.uint8),
        shown=torch.tensor(shown, dtype=torch.long),
        rows=collate_alike(rows),
        next_index=first + size,
    )


def _row(packer: SpeechPacker, said: Said, bank: Tensor | None) -> Row:
    return packer.row(said, 0 if bank is None else token_count(len(bank)), len(said.tiles()))


def bank_of(samples: np.ndarray) -> Tensor:
    """The engine's own filterbank, `[T, 80]`; what is longer than seven seconds is cut off in training."""
    return filterbank(pad_to_minimum(torch.from_numpy(samples[:LONGEST])), FilterbankConfig())


def statistics(sounds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation of every band over some sounds, float32 `[80]` each."""
    frames = torch.cat(list(sounds)).double()
    return frames.mean(0).float(), (1 / frames.std(0).clamp(min=1e-3)).float()
