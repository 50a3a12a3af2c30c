"""The reference's streaming: overlapping chunks of tokens, joined where the audio is quiet (spec section 9.4).

By default speech is streamed exactly (`pieces.ExactPieces`). This is for comparison with the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vita.errors import RequestError
from vita.speech.codec import Codec, CodecSteps, CodecStream
from vita.speech.config import SAMPLES_PER_TOKEN


@dataclass(frozen=True)
class ReferenceStreaming:
    """The reference's parameters. The defaults are those of its demo.

    Attributes:
        chunk: tokens whose audio is new in a piece.
        pad: tokens of context at both ends, whose audio is cut off.
        window: samples whose mean level is compared.
        threshold: level under which a piece is cut.

    Raises:
        RequestError: a value is out of range.
    """

    chunk: int = 40
    pad: int = 10
    window: int = 2401
    threshold: float = 0.01

    def __post_init__(self) -> None:
        if min(self.chunk, self.pad, self.window) < 1:
            raise RequestError("chunk, pad and window must be 1 or more", where="reference streaming")


class Joiner:
    """Cuts a stream of audio into segments at its quietest sample. State: samples that were not emitted."""

    def __init__(self, window: int, threshold: float) -> None:
        self.window, self.threshold = window, threshold
        self.buffer = torch.zeros(0)

    def push(self, audio: Tensor) -> Tensor | None:
        """A segment, if the new audio, `[n]`, is quiet somewhere; else None.

        Audio shorter than the window is kept.
        """
        size = len(audio)
        if size < self.window:
            self.buffer = torch.cat([self.buffer, audio])
            return None
        first = size // 2 - self.window // 2
        sums = torch.nn.functional.conv1d(audio.abs()[None, None], audio.new_ones(1, 1, self.window))[0, 0]
        sums = sums[first:]  # of the windows that begin in the second half
        offset = int(sums.argmin())  # the first of equal ones
        if float(sums[offset]) / self.window >= self.threshold:
            self.buffer = torch.cat([self.buffer, audio])
            return None
        start = max(0, offset + first)
        end = min(size, start + offset + self.window)  # the offset counts twice, as in the reference
        cut = start + int(audio[start:end].abs().argmin())
        segment, self.buffer = torch.cat([self.buffer, audio[:cut]]), audio[cut:]
        return segment

    def flush(self, audio: Tensor) -> Tensor:
        """What was kept, and the last audio."""
        segment, self.buffer = torch.cat([self.buffer, audio]), torch.zeros(0)
        return segment


class ReferencePieces:
    """Pieces of one run of the codec as in the reference; see `pieces.Pieces`.

    Args:
        codec: the weights.
        options: the reference's parameters.
    """

    def __init__(self, codec: Codec, options: ReferenceStreaming) -> None:
        self._codec, self._options = codec, options
        self._joiner = Joiner(options.window, options.threshold)
        self._held: list[int] = []
        self._left = 0
        self.wanted = options.chunk + options.pad

    def push(self, tokens: Sequence[int], *, last: bool) -> CodecSteps:
        """See `pieces.Pieces.push`. A piece is one segment."""
        options, samples = self._options, SAMPLES_PER_TOKEN
        self._held += tokens
        if not last:
            if len(self._held) < self._left + options.chunk + options.pad:
                return torch.zeros(0)
            audio = yield from CodecStream(self._codec).push(self._held, last=True)
            self._held = self._held[-2 * options.pad :]
            segment = self._joiner.push(audio[samples * self._left : -samples * options.pad].cpu())
            self._left = options.pad
            self.wanted += options.chunk
            return torch.zeros(0) if segment is None else segment
        if not self._held:
            return self._joiner.flush(torch.zeros(0))
        audio = yield from CodecStream(self._codec).push(self._held, last=True)
        return self._joiner.flush(audio[samples * self._left :].cpu())
