"""Listener: audio of any rate and cut in, events of turns and their audio out."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vita.speech.resample import StreamResampler
from vita.speech.turns import (
    PAUSE_MS,
    Frame,
    Input,
    SpeechStopped,
    TurnEvent,
    TurnOptions,
    TurnPaused,
    TurnState,
    advance,
    samples_of,
    turn_start,
)  # fmt: skip
from vita.speech.vad import FRAME, SAMPLE_RATE, Samples, SileroVad, VadStream

SILENCE_KEPT = samples_of(PAUSE_MS)  # after the speech


@dataclass(frozen=True, eq=False)
class Heard:
    """An event, and for `TurnPaused` and `SpeechStopped` the audio of the turn, float32 `[n]` at 16 kHz.

    The audio ends 256 ms after the speech, or where the turn does: the silence that ends a turn says nothing, costs
    tokens, and makes a question look like noise to a model that has rarely heard it.
    """

    event: TurnEvent
    audio: Samples | None = None


class AudioHistory:
    """The newest part of a stream, found by position. Adding and dropping copy nothing."""

    def __init__(self) -> None:
        self._pieces: deque[Samples] = deque()
        self._start = 0  # position of the first piece

    def add(self, samples: Samples) -> None:
        """Append float32 `[n]`."""
        if len(samples):
            self._pieces.append(samples)

    def drop_before(self, position: int) -> None:
        """Drop the pieces that end at or before a position."""
        while self._pieces and self._start + len(self._pieces[0]) <= position:
            self._start += len(self._pieces.popleft())

    def cut(self, start: int, end: int) -> Samples:
        """A copy of the samples from `start` to `end`, float32 `[end - start]`; none of them was dropped."""
        out, at = [np.zeros(0, np.float32)], self._start
        for piece in self._pieces:
            out.append(piece[max(0, start - at) : max(0, end - at)])
            at += len(piece)
        return np.concatenate(out)


class Listener:
    """Finds the turns in one stream of mono audio. One thread at a time; memory is bounded by `max_turn_ms`.

    The events do not depend on how the stream is cut into pieces.

    Args:
        vad: the network, which listeners share.
        options: may be replaced between two calls.
        sample_rate: of the stream, in Hz.

    Raises:
        RequestError: a rate that no device has.
    """

    def __init__(self, vad: SileroVad, options: TurnOptions | None = None, sample_rate: int = SAMPLE_RATE) -> None:
        self.options = options or TurnOptions()
        self._resampler, self._stream = StreamResampler(sample_rate, SAMPLE_RATE), VadStream(vad)
        self.reset()

    def reset(self) -> None:
        """As before the first sample; turns count from 1 again."""
        self.state = TurnState()
        self._resampler.reset()
        self._stream.reset()
        self._audio = AudioHistory()  # at 16 kHz

    def feed(self, samples: NDArray[np.float32]) -> list[Heard]:
        """Take the next samples, float32 `[n]` in [-1, 1] at the stream's rate.

        Returns:
            What was heard in the frames that they complete.
        """
        resampled = self._resampler.feed(samples)
        self._audio.add(resampled)
        heard: list[Heard] = []
        for first in range(0, len(resampled), FRAME):  # frame by frame, so that pieces of any length are alike
            for probability in self._stream.feed(resampled[first : first + FRAME]):
                heard += self.tell(Frame(probability))
        self._audio.drop_before(turn_start(self.state, self.options))
        return heard

    def tell(self, given: Input) -> list[Heard]:
        """Any other input: what the caller's model says, that an answer is played, `Commit`, `Clear`.

        Returns:
            The events that follow from it.
        """
        self.state, events = advance(self.state, self.options, given)
        return [Heard(event, self._audio_of(event)) for event in events]

    def _audio_of(self, event: TurnEvent) -> Samples | None:
        if not isinstance(event, TurnPaused | SpeechStopped):
            return None
        return self._audio.cut(event.start, min(event.end, event.speech_end + SILENCE_KEPT))


class ListenerThread:
    """A thread that computes voice activity of any number of listeners, apart from the engine's and the event loop's.

    Calls for one listener are computed in the order they were made.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="vita-vad")

    def feed(self, listener: Listener, samples: NDArray[np.float32]) -> Future[list[Heard]]:
        """`Listener.feed` in the thread. In an event loop: `await asyncio.wrap_future(...)`."""
        return self._pool.submit(listener.feed, samples)

    def tell(self, listener: Listener, given: Input) -> Future[list[Heard]]:
        """`Listener.tell` in the thread."""
        return self._pool.submit(listener.tell, given)

    def close(self) -> None:
        """End the thread once what was asked for is computed."""
        self._pool.shutdown()
