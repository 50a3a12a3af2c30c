"""Incremental detokenisation: token ids in, printable text out.

Text is released as soon as it is certain: complete UTF-8 characters that can no longer be part of a stop string or of
trailing white space. The released pieces, joined, are the same for any split of the bytes into tokens.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence

from vita.events import State
from vita.prompt.surrogates import replace_surrogates
from vita.prompt.tokenizer import STATE_TOKENS, Tokenizer

UTF8_MAX_BYTES = 4  # per character
STATE_PATTERN = re.compile("[" + "".join(STATE_TOKENS) + "]")


class Detokenizer:
    """Text of one answer, piece by piece.

    White space at both ends of the answer is dropped. Response state tokens (☜ ☞ ☟) are removed everywhere; the one
    that precedes every word sets `state`.

    Args:
        tokenizer: the checkpoint's; its special tokens never become text.
        stop: a string, or strings, that end the answer. Neither the stop string nor what follows is released. Of
            several, the one that ends first counts. They are searched before white space is dropped.

    Attributes:
        state: the response state, None if the answer has none or `state_known` is still False.
        state_known: whether `state` is final: a state token or a word was read, or the answer has ended.
        stopped: whether a stop string was found.
    """

    def __init__(self, tokenizer: Tokenizer, stop: str | Sequence[str] = ()) -> None:
        self.tokenizer = tokenizer
        self.stop = tuple(replace_surrogates(s) for s in ((stop,) if isinstance(stop, str) else stop))
        self.state: State | None = None
        self.state_known = False
        self.stopped = False
        self._decode = _ByteDecoder(tokenizer) if tokenizer.byte_level else _WindowDecoder(tokenizer)
        self._held = ""  # not released: possibly the start of a stop string, or trailing white space
        self._started = False  # a word was released

    def push(self, token: int) -> str:
        """The text that became certain with this token; may be empty."""
        if self.stopped or token in self.tokenizer.special:
            return ""
        return self._release(self._take_state(self._decode.push(token)))

    def flush(self) -> str:
        """The rest of the text, when no more tokens follow. Incomplete characters become U+FFFD."""
        out = "" if self.stopped else self._release(self._take_state(self._decode.flush()))
        rest = "" if self.stopped else self._held
        self._held = ""
        self.state_known = True
        return (out + (rest if self._started else rest.lstrip())).rstrip()

    def _take_state(self, text: str) -> str:
        """Remove state tokens; the first one sets the state if no word precedes it."""
        found = STATE_PATTERN.search(text)
        before = text if found is None else text[: found.start()]
        if not self.state_known and before.strip():
            self.state_known = True
        if found is None:
            return text
        if not self.state_known:
            self.state, self.state_known = STATE_TOKENS[found.group()], True
        return STATE_PATTERN.sub("", text)

    def _release(self, text: str) -> str:
        text = self._held + text
        # The earliest end, so that the result does not depend on how much text one token brings.
        ends = [(at + len(s), at) for s in self.stop if (at := text.find(s)) >= 0]
        if ends:
            self.stopped = self.state_known = True
            self._held = ""
            out = text[: min(ends)[1]].rstrip()
        else:
            keep = self._uncertain(text)
            self._held = text[len(text) - keep :]
            out = text[: len(text) - keep]
        if not self._started:
            out = out.lstrip()
            self._started = bool(out)
        return out

    def _uncertain(self, text: str) -> int:
        """How many characters at the end must wait: a possible start of a stop string and the white space before."""
        keep = 0
        for stop in self.stop:
            for length in range(min(len(stop) - 1, len(text)), 0, -1):
                if text.endswith(stop[:length]):
                    keep = max(keep, length)
                    break
        body = text[: len(text) - keep]
        return keep + len(body) - len(body.rstrip())


class _ByteDecoder:
    """An incremental UTF-8 decoder over the bytes of the tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        return self._utf8.decode(self._tokenizer.token_bytes(token))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowDecoder:
    """For vocabularies that are not byte-level: the text that each token adds to the tokens before it.

    Their decoders treat the first token of a text differently (a leading space, for instance), so the tokens released
    last are decoded again as context.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        self._pending.append(token)
        text = self._added()
        # A token of such a vocabulary is at least one byte.
        if text.endswith("\ufffd") and len(self._pending) < UTF8_MAX_BYTES:
            return ""
        self._context, self._pending = self._pending, []
        return text

    def flush(self) -> str:
        text = self._added() if self._pending else ""
        self._context, self._pending = self._pending, []
        return text

    def _added(self) -> str:
        before = self._tokenizer.decode(self._context) if self._context else ""
        return self._tokenizer.decode(self._context + self._pending)[len(before) :]
