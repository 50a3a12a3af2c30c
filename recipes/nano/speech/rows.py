"""Batches of sounds and clips with what should be heard, seen and answered.

Owns the mix of spoken questions, sentences to repeat, things that get no answer and clips, and how they stand in a
row beside typed questions about the same picture. Does not know about losses or weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from random import Random
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recipes.nano.data import QA, Split, render_sample
from recipes.nano.data.clips import render_clip
from recipes.nano.data.labels import capital, small
from recipes.nano.data.natural import varied
from recipes.nano.data.pieces import heard_words
from recipes.nano.data.scene_other import talk_only
from recipes.nano.feed import Batch, build_batch
from recipes.nano.look import joined, split
from recipes.nano.model import LETTERS
from recipes.nano.pack import TYPED_MARK, Packer, Turn
from recipes.nano.schedule import CURRICULUM
from recipes.nano.speech.augment import blotted, warped
from recipes.nano.speech.sample import Utterance, free_speech, render_utterance, say
from recipes.nano.speech.speakers import asked_aloud
from recipes.nano.speech.texts import ask_to_repeat, spoken
from recipes.nano.tiles import training_tiles
from vita.config import FilterbankConfig
from vita.media.filterbank import filterbank, pad_to_minimum, token_count
from vita.prompt.template import AUDIO_PLACEHOLDER
from vita.train.packing import IGNORE, Row, RowBatch, collate_groups

LONGEST = 16000 * 7  # samples; a longer sound is cut by the drawing of another one
NO_ANSWER = "☟"
HEARD = "I hear: "
SPOKEN_MARK = "☞"
QUESTIONS = 0.3  # of the sounds to repeat, which are few words in an order that can be guessed
TYPED_BESIDE = 2  # typed questions that keep the decoder's older skills in every row with a picture
CLIPS, PICTURES, TALK = 0.1, 0.46, 0.14  # shares of the answering phase; the rest is sound to repeat or to ignore
WIDE = 0.2  # of the pictures are cut into tiles
TOGETHER = 8  # sounds of like length that are padded to the longest of them
BESIDE = CURRICULUM[-1:]  # the pictures that are shown between sounds
SEEN_BESIDE = 3  # batches of them: reading is what gets lost first
SPOKEN_OF_CLIP = 0.4  # of the clips come with a spoken question
EARLIER = 0.5  # of the sounds come after other turns; the picture of some of those is shown with the sound
ALOUD, LATE = 0.4, 0.35  # shares of those turns, and of those pictures


# Written down only; or answered, where nothing is seen and nothing typed stands beside; or everything there is.
Mix = Literal["hearing", "alone", "everything"]


@dataclass(frozen=True)
class Earlier:
    """A turn before: a question, its sound if it was spoken, and the answer without a mark."""

    question: str
    answer: str
    sound: Utterance | None


@dataclass(frozen=True)
class Said:
    """A sound, the typed words that come with it, the answer after the mark, and what is seen.

    Attributes:
        sound: None for a clip with typed questions only.
        typed: with the sound.
        answer: to the sound.
        picture: uint8 `[height, width, 3]`, or the frames of a clip `[n, S, S, 3]`.
        beside: typed questions about the same picture or clip.
        before: turns of the same conversation, the first of which shows the picture.
        late: the picture is shown with the sound instead.
    """

    sound: Utterance | None
    typed: str
    answer: str
    picture: np.ndarray | None
    beside: tuple[QA, ...] = ()
    before: tuple[Earlier, ...] = ()
    late: bool = False

    @property
    def sounds(self) -> list[Utterance]:
        """In the order of the conversation."""
        return [sound for sound in (*(one.sound for one in self.before), self.sound) if sound is not None]

    @property
    def video(self) -> bool:
        """Whether a clip is seen."""
        return self.picture is not None and self.picture.ndim == 4

    def tiles(self) -> np.ndarray:
        """uint8 `[tiles or frames, S, S, 3]`."""
        if self.picture is None:
            return np.zeros((0, 224, 224, 3), np.uint8)
        return self.picture if self.video else training_tiles(self.picture)


@dataclass(frozen=True)
class Sounds:
    """Sounds of like length, padded to the longest.

    Attributes:
        banks: float32 `[sounds, T, 80]`, padded with zeros.
        frames: int64 `[sounds]`.
        letters: int64 `[all letters]`, what CTC should write, sound after sound.
        spelled: int64 `[sounds]`, how many letters of each; 0 where nothing should be written.
        words, worded: the same in words.
        tokens: int64 `[all words]`, the decoder's token for each word inside a sentence; IGNORE where it has none.
    """

    banks: Tensor
    frames: Tensor
    letters: Tensor
    spelled: Tensor
    words: Tensor
    worded: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class SpeechBatch:
    """Sounds and the rows they stand in, and beside them pictures with typed questions.

    Attributes:
        sounds: some of like length each.
        place: int64, the place among all `sounds` of the k-th sound of the rows.
        tiles: uint8 `[tiles, S, S, 3]`, frames that stand still only once.
        shown: int64, the tiles that the rows take, in order.
        rows: one for each sample, short ones apart from long ones; none while only hearing is taught.
        pictures: what keeps sight and reading; none unless everything is taught.
        next_index: the first sample number after this batch.
    """

    sounds: tuple[Sounds, ...]
    place: Tensor
    tiles: Tensor
    shown: Tensor
    rows: tuple[RowBatch, ...]
    pictures: tuple[Batch, ...]
    next_index: int


def spell(text: str) -> list[int]:
    """CTC's labels of a sentence."""
    return [LETTERS.index(c) + 1 for c in text.lower() if c in LETTERS]


def worded(text: str) -> list[int]:
    """CTC's labels of a sentence in whole words; the last label stands for every word not in the book."""
    book = _book()
    return [book.get(word, len(book) + 1) for word in re.findall("[a-z]+", text.lower().replace("'", ""))]


@lru_cache(maxsize=1)
def _book() -> dict[str, int]:
    return {word: k for k, word in enumerate(heard_words(), start=1)}


def restated(question: str, answer: str) -> str:
    """What is said to a spoken question: the question as it was heard is the first line of the look.

    The answer can then look for the question's words in what was written, as it does for a typed one. What a look sees
    follows on a line of its own; an answer that needs no look has one that is only the question.
    """
    asked = capital(question)
    asked = asked if asked[-1] in ".?!" else asked + "?"
    look, said = split(answer)
    return joined(f"{asked}\n{look}" if look else asked, SPOKEN_MARK + said)


def repeated(text: str) -> str:
    """What is said of a sentence to be written down. It begins in small letters: a word is one token only inside a
    sentence, and to spell the first one was where the rest got lost."""
    return HEARD + (text if text.startswith("I ") else small(text))


def draw(index: int, split: Split, seed: int, mix: Mix) -> Said:
    """Number `index` of the mix: heard only, or to be answered."""
    rng = Random(f"{seed}/{split}/said/{index}/{mix}")
    if mix == "hearing":
        return Said(free_speech("repeat" if rng.random() < 0.45 else "question", split, rng), "", "", None)
    lot = rng.uniform(CLIPS + PICTURES, 1) if mix == "alone" else rng.random()
    if lot < CLIPS:
        return _clip(index, split, seed, rng)
    if lot < CLIPS + PICTURES:
        # Pictures in several tiles too: without them whatever has several is soon taken for a clip.
        sample = render_sample(index, split, "tiles" if rng.random() < WIDE else "mix", seed + 1)
        asked = [qa for qa in sample.qa if spoken(qa)]
        if asked:
            qa = asked_aloud(asked, split, rng)
            sound = say(qa.question, split, rng)
            rest = [q for q in sample.qa if q is not qa]
            beside = tuple(rng.sample(rest, min(TYPED_BESIDE, len(rest))))
            said = Said(sound, "", restated(qa.question, qa.answer), sample.picture, beside)
            return _after_turns(said, rest, split, rng)
    if lot >= 1 - TALK:  # of the model itself, of what is beyond it, or of a picture that is not there
        asked = [qa for qa in talk_only(rng, split) if spoken(qa)]
        if asked:
            qa = asked_aloud(asked, split, rng)
            said = Said(say(qa.question, split, rng), "", restated(qa.question, qa.answer), None)
            return _after_turns(said, [], split, rng)
    sound = render_utterance(index, split, seed)
    if sound.kind == "repeat":
        sound = free_speech("question", split, rng) if rng.random() < QUESTIONS else sound
        return Said(sound, ask_to_repeat(rng, split), SPOKEN_MARK + repeated(sound.text), None)
    seen = mix != "alone" and rng.random() < 0.5
    sample = render_sample(index, split, "mix", seed + 2) if seen else None
    said = Said(sound, "", NO_ANSWER, None if sample is None else sample.picture)
    return _after_turns(said, [] if sample is None else sample.qa, split, rng)


def _after_turns(said: Said, about: Sequence[QA], split: Split, rng: Random) -> Said:
    """The same after one to three turns, typed or spoken, now and then. They ask `about` the picture if it was shown
    before, else about the model."""
    if rng.random() >= EARLIER:
        return said
    late = said.picture is None or rng.random() < LATE
    pool = [qa for qa in (talk_only(rng, split) if late else about) if qa.after is None]
    chosen = rng.sample(pool, min(len(pool), rng.choices((1, 2, 3), (6, 3, 1))[0]))
    before = []
    for qa in chosen:
        aloud = spoken(qa) and rng.random() < ALOUD
        before.append(Earlier(qa.question, qa.answer, say(qa.question, split, rng) if aloud else None))
    late = bool(late and before and said.picture is not None)
    # What is shown late is not there for questions that begin a conversation.
    return replace(said, before=tuple(before), late=late, beside=() if late else said.beside)


def _clip(index: int, split: Split, seed: int, rng: Random) -> Said:
    """A clip with all its questions, one of them spoken now and then."""
    clip = render_clip(index, split, seed)
    asked = [qa for qa in clip.qa if spoken(qa)]
    if rng.random() >= SPOKEN_OF_CLIP or not asked:
        return Said(None, "", "", clip.frames, tuple(clip.qa))
    qa = asked_aloud(asked, split, rng)
    rest = tuple(q for q in clip.qa if q is not qa)
    return Said(say(qa.question, split, rng), "", restated(qa.question, qa.answer), clip.frames, rest)


class SpeechPacker:
    """Rows with sounds, in the engine's own prompt."""

    def __init__(self, packer: Packer) -> None:
        self.packer = packer
        spelled = [packer.tokenizer.encode(f" {word}") for word in heard_words()]
        self.word_tokens = [*(ids[0] if len(ids) == 1 else IGNORE for ids in spelled), IGNORE]

    def row(self, said: Said, tokens: Sequence[int], tiles: int) -> Row:
        """The sound's segment first, if there is one, then typed questions about the same picture.

        Args:
            said: what is said.
            tokens: decoder rows that each of its sounds takes, in order.
            tiles: of the picture.
        """
        packer, counts = self.packer, iter(tokens)
        turns = [self._earlier(one, k, counts, 0 if said.late else tiles) for k, one in enumerate(said.before)]
        if said.sound:
            shown = tiles if said.late or not turns else 0
            asked = self.heard(said.typed, next(counts), shown, follow_up=bool(turns), late=said.late)
            turns.append(packer.turn(asked, said.answer))
        beside = varied(Random("/".join(qa.question for qa in said.beside)), "train", said.beside)
        typed = [packer.dialogue([qa] if qa.after is None else [qa.after, qa], tiles) for qa in beside]
        return packer.lay_out([turns, *typed] if turns else typed, tiles, video=said.video, late=said.late)

    def _earlier(self, one: Earlier, place: int, counts: Iterator[int], tiles: int) -> Turn:
        """A turn of the history, which is not taught."""
        shown, mark = tiles if place == 0 else 0, TYPED_MARK if one.sound is None else SPOKEN_MARK
        if one.sound is None:
            asked = self.packer.question(one.question, shown, follow_up=place > 0)
        else:
            asked = self.heard("", next(counts), shown, follow_up=place > 0)
        return Turn([*asked, *self.packer.answer(one.answer, mark)], [])

    def heard(
        self, typed: str, tokens: int, tiles: int, *, follow_up: bool = False, late: bool = False
    ) -> list[int]:  # fmt: skip
        """A user turn that ends with a sound, up to the open assistant header.

        Args:
            typed: stands before the sound.
            tokens: decoder rows of the sound.
            tiles: of a picture that is shown in this turn: before it, unless `late`, in the prefix.
            follow_up: another turn stands before it.
            late: the picture's rows are part of this turn.
        """
        packer = self.packer
        encode = packer.tokenizer.encode
        picture = packer.shown(tiles) if late and tiles else []
        text = f"\n{typed}\n" if tiles and typed else "\n" if tiles else f"user\n{typed}\n" if typed else "user\n"
        head = packer.next_turn() if follow_up else []
        return [*head, *picture, *encode(text), *([AUDIO_PLACEHOLDER] * tokens), *packer.close_turn()]


def build_speech_batch(
    packer: SpeechPacker, first: int, size: int, seed: int, mix: Mix, split: Split = "train"
) -> SpeechBatch:
    """The batch that begins with sample `first`."""
    answers = mix != "hearing"
    everything = [draw(index, split, seed, mix) for index in range(first, first + size)]
    heard = [(said, [bank_of(sound.samples) for sound in said.sounds]) for said in everything]
    rows: list[Row] = []
    if answers:
        made = [(said, banks, _row(packer, said, banks)) for said, banks in heard]
        made.sort(key=lambda one: len(one[2].ids))
        heard, rows = [(said, banks) for said, banks, _ in made], [row for *_, row in made]
    sounded = [pair for said, banks in heard for pair in zip(said.sounds, banks, strict=True)]
    order = sorted(range(len(sounded)), key=lambda k: len(sounded[k][1]))
    groups = [order[k : k + TOGETHER] for k in range(0, len(order), TOGETHER)]
    tiles: list[np.ndarray] = []
    shown: list[int] = []
    for said, _ in heard if answers else ():
        cut = said.tiles()
        for k, tile in enumerate(cut):
            if not (k and np.array_equal(tile, cut[k - 1])):
                tiles.append(tile)
            shown.append(len(tiles) - 1)
    return SpeechBatch(
        sounds=tuple(
            _sounds(
                packer, [sounded[k] for k in group], Random(f"{seed}/{first}/{group[0]}") if split == "train" else None
            )
            for group in groups
        ),
        place=torch.tensor(order, dtype=torch.long).argsort(),
        tiles=torch.from_numpy(np.stack(tiles)) if tiles else torch.zeros(0, 224, 224, 3, dtype=torch.uint8),
        shown=torch.tensor(shown, dtype=torch.long),
        rows=collate_groups(rows),
        pictures=tuple(
            build_batch(packer.packer, BESIDE, 0, first, size, seed + 3 + k, split)
            for k in range(SEEN_BESIDE if mix == "everything" else 0)
        ),
        next_index=first + size,
    )


def _sounds(packer: SpeechPacker, group: Sequence[tuple[Utterance, Tensor]], blots: Random | None) -> Sounds:
    """Pads them; parts of each filterbank are blotted out, if they are to be."""
    texts = [sound.text if sound.kind in ("question", "repeat") else "" for sound, _ in group]
    spelled, words = [spell(text) for text in texts], [worded(text) for text in texts]
    banks = [bank if blots is None else blotted(warped(bank, blots), blots) for _, bank in group]
    return Sounds(
        banks=torch.nn.utils.rnn.pad_sequence(banks, batch_first=True),
        frames=torch.tensor([len(bank) for bank in banks]),
        letters=torch.tensor(list(chain(*spelled)), dtype=torch.long),
        spelled=torch.tensor([len(labels) for labels in spelled]),
        words=torch.tensor(list(chain(*words)), dtype=torch.long),
        worded=torch.tensor([len(labels) for labels in words]),
        tokens=torch.tensor([packer.word_tokens[label - 1] for label in chain(*words)], dtype=torch.long),
    )


def _row(packer: SpeechPacker, said: Said, banks: Sequence[Tensor]) -> Row:
    return packer.row(said, [token_count(len(bank)) for bank in banks], len(said.tiles()))


def bank_of(samples: np.ndarray) -> Tensor:
    """The engine's own filterbank, `[T, 80]`; what is longer than seven seconds is cut off in training."""
    return filterbank(pad_to_minimum(torch.from_numpy(samples[:LONGEST])), FilterbankConfig())


def statistics(sounds: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and inverse deviation of every band over some sounds, float32 `[80]` each."""
    frames = torch.cat(list(sounds)).double()
    return frames.mean(0).float(), (1 / frames.std(0).clamp(min=1e-3)).float()
