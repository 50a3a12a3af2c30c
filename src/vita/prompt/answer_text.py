"""The text of one answer, token by token: what is visible, and apart from it the model's reasoning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from vita.events import State
from vita.prompt.detokenizer import Detokenizer
from vita.prompt.tokenizer import Tokenizer


class Pieces(NamedTuple):
    """What became certain with one token."""

    text: str = ""  # visible
    reasoning: str = ""
    hidden: bool = False  # the token belongs to the reasoning; so do the tokens around it


class AnswerText:
    """Takes the reasoning off an answer, as the response state is taken off.

    The reasoning is what stands between the tokenizer's reasoning tokens, the first time. It has no response state, no
    stop string is searched in it, and white space at both of its ends is dropped. A checkpoint without such tokens has
    no reasoning.

    Args:
        tokenizer, stop: see `Detokenizer`.

    Attributes:
        reasoning_tokens: tokens of the reasoning, with those around it.
    """

    def __init__(self, tokenizer: Tokenizer, stop: str | Sequence[str] = ()) -> None:
        self._tokens = tokenizer.reasoning
        self._visible, self._reasoning = Detokenizer(tokenizer, stop), Detokenizer(tokenizer)
        self._open = self._closed = False
        self.reasoning_tokens = 0

    @property
    def state(self) -> State | None:
        """The response state, as far as it is known."""
        return self._visible.state

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._visible.stopped

    def push(self, token: int) -> Pieces:
        """The text that became certain with this token."""
        if self._tokens is None:
            return Pieces(self._visible.push(token))
        if not self._open and (self._closed or token != self._tokens.begin):
            return Pieces("" if token in self._tokens else self._visible.push(token))
        self.reasoning_tokens += 1
        if token == self._tokens.end:
            self._open, self._closed = False, True
            return Pieces(reasoning=self._reasoning.flush(), hidden=True)
        self._open = True
        return Pieces(reasoning="" if token in self._tokens else self._reasoning.push(token), hidden=True)

    def flush(self) -> Pieces:
        """The rest, when no more tokens follow; a reasoning that did not end is given out too."""
        return Pieces(self._visible.flush(), self._reasoning.flush() if self._open else "")
