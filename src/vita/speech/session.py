"""State of speech that the runner computes: sessions, their texts, and the audio that waits for a reader."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vita.engine.sampler import SamplingState
from vita.model.kv_cache import KVCache
from vita.speech.config import SAMPLES_PER_TOKEN, TOKENS_PER_SECOND
from vita.speech.join import ReferenceStreaming
from vita.speech.pieces import Pieces
from vita.speech.tts import SpeechSampling, SpeechSequence

MAX_UNREAD = 4 * TOKENS_PER_SECOND * SAMPLES_PER_TOKEN  # samples that wait for a reader; then its session pauses
MAX_EARLY = 40  # tokens that a sequence may be decoded early, to share the steps of others
START_SECONDS = 0.25  # that a text without any audio yet has; so what is heard already goes before it

Samples = NDArray[np.float32]


class SpeechSession:
    """Explicit state of one stream of speech: randomness, KV cache, and when its audio runs dry.

    The KV cache is allocated with the first text and kept for the next ones. It is no part of the engine's KV budget.

    Args:
        options: how tokens are chosen.
        reference: stream as the reference does; None: exactly.
    """

    def __init__(self, options: SpeechSampling, reference: ReferenceStreaming | None = None) -> None:
        self.options, self.reference = options, reference
        self.cache: KVCache | None = None
        self.reset()

    def reset(self) -> None:
        """As if nothing had been spoken."""
        self.sampling: SamplingState = self.options.state()
        self.dry_at: float | None = None  # when all audio that was made has been heard, if it is heard at once


class AudioQueue:
    """Pieces from the engine thread to one reader."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._pieces: deque[Samples | BaseException | None] = deque()  # None: the end
        self._changed = threading.Condition()
        self.unread = 0  # samples

    @property
    def waiting(self) -> int:
        """Pieces that can be read at once."""
        return len(self._pieces)

    def put(self, piece: Samples | BaseException | None) -> None:
        """A piece, what ends the stream, or None at its end."""
        with self._changed:
            self._pieces.append(piece)
            if isinstance(piece, np.ndarray):
                self.unread += len(piece)
            self._changed.notify()

    def get(self) -> Samples | None:
        """The next piece, or None at the end; waits for it, and raises what ended the stream."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._pieces))
            piece = self._pieces.popleft()
            was_full = self.unread >= MAX_UNREAD
            if isinstance(piece, np.ndarray):
                self.unread -= len(piece)
        if isinstance(piece, BaseException):
            raise piece
        if was_full:
            self._wake()
        return piece


@dataclass(eq=False)
class SpokenText:
    """One text that is spoken.

    Attributes:
        embed: makes its rows, in the engine thread.
        cache: of the session, from the prefix on; the session may be closed while it is computed.
        steps: layers of the prefix, or of a piece of the codec, that began.
        pushed: tokens that the codec has.
        last: the piece that began is the last one.
    """

    session: SpeechSession
    embed: Callable[[], Tensor]
    audio: AudioQueue
    arrived: float
    first: bool
    cancelled: bool = False
    cache: KVCache | None = None
    steps: Iterator[object] | None = None
    sequence: SpeechSequence | None = None
    pieces: Pieces | None = None
    pushed: int = 0
    last: bool = False
    size: int = 0  # rows or tokens of the steps, for the choice of threads
    number: int = 0  # of the step
    found: list[Tensor] = field(default_factory=list)  # what the steps returned

    @property
    def runnable(self) -> bool:
        return not self.cancelled and self.audio.unread < MAX_UNREAD

    def due(self) -> float:
        """When its next piece is late, by the runner's clock."""
        return max(self.session.dry_at or 0.0, self.arrived + START_SECONDS)

    def may_decode(self) -> bool:
        row = self.sequence
        if row is None or self.pieces is None or row.ended or not self.runnable:
            return False
        return len(row.tokens) < self.pieces.wanted + MAX_EARLY
