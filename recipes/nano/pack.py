"""Samples as token sequences: all questions about one picture in one row.

Owns the conversation's form in training, which is the engine's prompt followed by the answer with its look; rows and
batches are `vita.train.packing`'s. Does not know what pictures look like: only how many tiles one has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from recipes.nano.data import QA
from recipes.nano.data.natural import SHARE, varied
from recipes.nano.look import END_THINK, THINK, looked, split, visible
from vita.prompt.template import IMAGE_PLACEHOLDER, SYSTEM
from vita.prompt.tokenizer import Tokenizer
from vita.train.packing import Row, Segment, lay_out

TYPED_MARK = "☜"
# What may follow a name in a list, or a value.
DECIDES = re.compile(rf"( \(\d\)|'?,| and| is|'?:|'?{END_THINK})")
TWO_TURNS = 0.15  # of the rows hold one segment of two turns
MOST_QUESTIONS, MOST_DRILLS = 6, 10
# Most of a short answer is a matter of form, and one word of it the truth: its tokens weigh more than a caption's.
WEIGHTY = 36.0  # tokens; an answer's tokens weigh so many times their share of it, between 1 and
HEAVIEST = 3.0
DECIDING = 2.5  # times the heaviest: the first token behind a look, yes or no
ROWS_PER_TILE = 64


@dataclass(frozen=True)
class Turn:
    """What is asked and what must be said.

    Attributes:
        asked: ids up to the open assistant header.
        said: ids of the mark, the answer and the end.
        concludes: where in `said` the conclusion begins, after the look; 0 if there is none.
        given: which tokens before the conclusion are given and not taught: in a drill, what was seen.
        decides: where in `said` the visible answer begins behind a look; 0 if there is none.
    """

    asked: list[int]
    said: list[int]
    concludes: int = 0
    given: tuple[bool, ...] = ()
    decides: int = 0

    def weights(self) -> list[float]:
        """Of every token of `said`: a conclusion weighs like an answer of its own."""
        if not self.said:  # context
            return []
        before, rest = [weight_view(len(self.said))] * self.concludes, len(self.said) - self.concludes
        if self.given:
            before = [0.0 if given else HEAVIEST for given in self.given]
        weights = before + [weight_view(rest)] * rest
        if self.decides:
            weights[self.decides] = DECIDING * HEAVIEST
        return weights


class Packer:
    """Builds rows with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._start, self._end = tokenizer.im_start, tokenizer.im_end
        ids = {text: tokenizer.backend.token_to_id(text) for text in (THINK, END_THINK)}
        self._think = {text: k for text, k in ids.items() if k is not None}  # older vocabularies have none

    def prefix(self, tiles: int, *, video: bool = False, late: bool = False) -> list[int]:
        """Everything before the first question, up to and with the rows of the picture's tiles or clip's frames. A
        picture that is shown `late`, after the first turn, has no rows there."""
        text = SYSTEM["video" if video else "image" if tiles else "lang"]
        encode = self.tokenizer.encode
        ids = [self._start, *encode(f"system\n{text}"), self._end, *encode("\n"), self._start]
        return [*ids, *self.shown(tiles)] if tiles and not late else ids

    def shown(self, tiles: int) -> list[int]:
        """How a user turn with a picture begins: its head, and the rows of the tiles or frames."""
        return [*self.tokenizer.encode("user\n"), *([IMAGE_PLACEHOLDER] * (ROWS_PER_TILE * tiles))]

    def question(self, text: str, tiles: int, *, follow_up: bool = False) -> list[int]:
        """A question up to the open assistant header, as it continues the prefix or an answer."""
        encode = self.tokenizer.encode
        if follow_up:
            head = [*self.next_turn(), *encode(f"user\n{text}")]
        else:
            head = encode(f"\n{text}" if tiles else f"user\n{text}")
        return [*head, *self.close_turn()]

    def close_turn(self) -> list[int]:
        """From the end of a user turn to the open assistant header."""
        encode = self.tokenizer.encode
        return [self._end, *encode("\n"), self._start, *encode("assistant\n")]

    def said(self, text: str) -> list[int]:
        """Ids of an answer, its think tokens as such."""
        parts = re.split(f"({THINK}|{END_THINK})", text)
        return [i for part in parts for i in ([self._think[part]] if part in self._think else self._encode(part))]

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text) if text else []

    def next_turn(self) -> list[int]:
        """From the end of an answer to the begin of the next user turn."""
        return [*self.tokenizer.encode("\n"), self._start]

    def answer(self, text: str, mark: str = TYPED_MARK) -> list[int]:
        """An answer that was given, as history holds it: the mark, what is visible, the end."""
        return [*self.said(mark + visible(text)), self._end]

    def turn(self, asked: list[int], text: str, *, drill: bool = False) -> Turn:
        """A turn whose answer brings its mark; a look, in either form of `recipes.nano.look`, goes between its tokens.

        The conclusion is what is visible, and what a look itself concludes after a colon. In a drill the names and
        values that were seen are given; to count one as asked for, or not, is taught.
        """
        text = looked(text)
        said = [*self.said(text), self._end]
        look, _ = split(text)
        if not look:
            return Turn(asked, said)
        end = text.index(END_THINK)
        line = text.rindex("\n", 0, end) if "\n" in look else 0  # before it stands a question stated again
        colon = text.find(": ", line, end)
        seen = text[: colon + 1] if colon > 0 else text[: end + len(END_THINK)]
        decides = len(self.said(text[: end + len(END_THINK)]))
        if not drill:
            return Turn(asked, said, len(self.said(seen)), decides=decides)
        parts = [(self.said(part), DECIDES.fullmatch(part) is None) for part in DECIDES.split(seen) if part]
        given = [free for ids, free in parts for _ in ids]
        return Turn(asked, said, len(given), tuple(given), decides)

    def row(
        self, questions: Sequence[QA], tiles: int, rng: Random, *, drill: bool = False, natural: float = SHARE
    ) -> Row:
        """One row of a few questions in random order; some rows begin with a dialogue of two turns.

        A share of the questions is typed as people type (`recipes.nano.data.natural`), with a question made of others
        now and then; not in a drill.
        """
        asked = varied(rng, "train", questions, natural) if natural and not drill else list(questions)
        rng.shuffle(asked)
        asked = asked[: MOST_DRILLS if drill else MOST_QUESTIONS]
        dialogues = [[qa] if qa.after is None else [qa.after, qa] for qa in asked]
        if len(asked) > 1 and asked[1].after is None and rng.random() < TWO_TURNS:
            dialogues = [[*dialogues[0], asked[1]], *dialogues[2:]]
        return self.lay_out([self.dialogue(d, tiles, drill=drill) for d in dialogues], tiles)

    def dialogue(self, turns: Sequence[QA], tiles: int, *, drill: bool = False) -> list[Turn]:
        """What is asked by typing, and said.

        A look is not in the history: where another turn follows, an answer with one is context and is not taught.
        """
        made = []
        for k, qa in enumerate(turns):
            asked, last = self.question(qa.question, tiles, follow_up=k > 0), k == len(turns) - 1
            if last or not split(qa.answer)[0]:
                made.append(self.turn(asked, TYPED_MARK + qa.answer, drill=drill))
            else:
                made.append(Turn([*asked, *self.answer(qa.answer)], []))
        return made

    def lay_out(
        self, dialogues: Sequence[Sequence[Turn]], tiles: int, *, video: bool = False, late: bool = False
    ) -> Row:
        """One row: the prefix, then each dialogue as a segment of its own."""
        segments = [
            Segment([i for turn in dialogue for i in (*turn.asked, *turn.said)],
                    [w for turn in dialogue for w in (*[0.0] * len(turn.asked), *turn.weights())])
            for dialogue in dialogues
        ]  # fmt: skip
        return lay_out(self.prefix(tiles, video=video, late=late), segments)


def weight_view(tokens: int) -> float:
    """What each token of an answer of this length weighs."""
    return min(HEAVIEST, max(1.0, WEIGHTY / tokens))
