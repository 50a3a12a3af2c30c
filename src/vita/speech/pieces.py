"""Pieces of audio while tokens are decoded: when the codec runs, and how much it gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from vita.speech.codec import Codec, CodecSteps, CodecStream
from vita.speech.config import SAMPLES_PER_TOKEN

FIRST_SAMPLES = 2 * SAMPLES_PER_TOKEN  # of the first piece, at least; at most 75 ms, since tokens count whole
FIRST_TOKENS, GROWTH, MAX_TOKENS = 3, 1.5, 20  # of the pieces after it: each may be made while the one before is heard
LATER_TOKENS = 10  # of the first piece where audio is heard already


class Pieces(Protocol):
    """One run of the codec, cut into pieces.

    Attributes:
        wanted: tokens of the run after which the next piece can be made.
    """

    wanted: int

    def push(self, tokens: Sequence[int], *, last: bool) -> CodecSteps:
        """Feed the tokens up to `wanted`, or the last ones. Iterate to compute; it pauses between layers.

        Returns:
            float32 `[n]`: new samples; possibly none.
        """


class ExactPieces:
    """Pieces that joined are the audio of the whole run.

    Args:
        codec: the weights.
        first: nothing is heard yet, so the first piece is as short as possible.
    """

    def __init__(self, codec: Codec, *, first: bool) -> None:
        self._stream = CodecStream(codec)
        self._size = float(FIRST_TOKENS if first else LATER_TOKENS)
        self.wanted = codec.tokens_for(FIRST_SAMPLES if first else LATER_TOKENS * SAMPLES_PER_TOKEN)

    def push(self, tokens: Sequence[int], *, last: bool) -> CodecSteps:
        """See `Pieces.push`."""
        audio = yield from self._stream.push(tokens, last=last)
        self.wanted += int(self._size)
        self._size = min(self._size * GROWTH, MAX_TOKENS)
        return audio
