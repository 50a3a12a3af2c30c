"""From a stream of ids to a stream of text.

Owns whole UTF-8 characters, stop strings across token borders, state marks and the trimming of white space:
the pieces it gives out, joined, are what a user should read. Does not know how ids are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

from vita.events import State
from vita.prompt.tokenizer import STATE_TOKENS, Tokenizer

# A character of a byte-level vocabulary spans at most four tokens; bytes that stay invalid are given out after that.
MAX_PENDING = 4


class Detokenizer:
    """Text of one answer, piece by piece.

    Args:
        tokenizer: the checkpoint's; ids of its special tokens never become text.
        stop: strings that end the answer; neither they nor what follows is given out.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(stop)
        self.state: State | None = None
        self.stopped = False
        self._pending: list[int] = []  # ids whose bytes do not yet end on a character border
        self._held = ""  # text that may be the start of a stop string, or trailing space
        self._begun = False

    def push(self, token: int) -> str:
        """The text that became certain with this token; may be empty."""
        if self.stopped or token in self.tokenizer.special:
            return ""
        self._pending.append(token)
        text = self.tokenizer.decode(self._pending)
        if text.endswith("�") and len(self._pending) < MAX_PENDING:
            return ""
        self._pending.clear()
        return self._release(self._unmark(text))

    def flush(self) -> str:
        """What is left when no more tokens come, white space at the end dropped."""
        text = self.tokenizer.decode(self._pending) if self._pending else ""
        self._pending.clear()
        out = self._release(self._unmark(text))
        if not self.stopped:
            out += self._held
        self._held = ""
        return out.rstrip()

    def _unmark(self, text: str) -> str:
        """Take state marks out; the first one, before any word, tells the state."""
        for mark, state in STATE_TOKENS.items():
            if mark in text:
                if self.state is None and not self._begun:
                    self.state = state
                text = text.replace(mark, "")
        return text

    def _release(self, text: str) -> str:
        text = self._held + text
        if not self._begun:
            text = text.lstrip()
            self._begun = bool(text)
        cuts = [at for s in self.stop if (at := text.find(s)) >= 0]
        if cuts:
            self.stopped = True
            self._held = ""
            return text[: min(cuts)].rstrip()
        keep = self._uncertain(text)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _uncertain(self, text: str) -> int:
        """How many characters at the end must wait: the start of a stop string, or white space."""
        keep = 0
        for stop in self.stop:
            for length in range(min(len(stop) - 1, len(text)), 0, -1):
                if text.endswith(stop[:length]):
                    keep = max(keep, length)
                    break
        body = text[: len(text) - keep]
        return keep + len(body) - len(body.rstrip())
