"""Playback: an answer's audio on its way to the device, and how much of its text was heard."""

from __future__ import annotations

import threading
from bisect import bisect_right

import numpy as np
from numpy.typing import NDArray

from vita.speech.resample import StreamResampler

Samples = NDArray[np.float32]
SPEECH_RATE = 24_000  # Hz, of an answer's audio
MAX_SECONDS = 2.0  # of audio that waits for the device; `add` blocks while there is more


class SpokenText:
    """Which characters of an answer its audio speaks, so that a barge-in can tell what was heard."""

    def __init__(self) -> None:
        self._ends = [0]  # of the chunks, in samples
        self._characters = [0]  # of the text up to there

    def add(self, samples: int, text_end: int) -> None:
        """The next chunk: its number of samples, and the end of the characters that it speaks."""
        self._ends.append(self._ends[-1] + samples)
        self._characters.append(max(text_end, self._characters[-1]))

    def heard(self, samples: int) -> int:
        """Characters whose audio lies within the first `samples` samples; a chunk counts once it was played to its end.

        This is what `Session.truncate` takes.
        """
        return self._characters[max(0, bisect_right(self._ends, samples) - 1)]


class Playback:
    """The audio of one answer after another. `add` is for the answer's thread, `take` for the device's.

    Args:
        sample_rate: of the device, in Hz.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self._changed = threading.Condition()
        self._resampler = StreamResampler(SPEECH_RATE, sample_rate)
        self._device_position = 0  # samples that the device has taken, silence included
        self._answer = 0  # counts answers
        self._begin()

    def _begin(self) -> None:
        self._pending = np.zeros(0, np.float32)  # at the device's rate
        self._taken: list[tuple[int, int]] = []  # device position and length of each stretch of the answer that played
        self._text = SpokenText()
        self._open = False  # more audio may follow
        self._resampler.reset()

    @property
    def playing(self) -> bool:
        """Whether an answer is played, or its next audio is awaited."""
        with self._changed:
            return self._open or len(self._pending) > 0

    def begin(self) -> int:
        """A new answer; returns its number for `add`. What is left of the one before is dropped."""
        with self._changed:
            self._begin()
            self._open = True
            self._answer += 1
            self._changed.notify_all()
            return self._answer

    def add(self, answer: int, samples: Samples, text_end: int) -> bool:
        """Play a chunk after those before; blocks while the device is far behind.

        Args:
            answer: the number that `begin` gave.
            samples: float32 `[n]` at 24 kHz.
            text_end: end of the characters that it speaks.

        Returns:
            False if the answer was stopped, and the chunk dropped.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._is_open(answer) or len(self._pending) < MAX_SECONDS * self._rate)
            if not self._is_open(answer):
                return False
            self._text.add(len(samples), text_end)
            self._pending = np.concatenate([self._pending, self._resampler.feed(samples)])
            return True

    def finish(self, answer: int) -> None:
        """The answer has no more chunks."""
        with self._changed:
            if self._is_open(answer):
                self._pending = np.concatenate([self._pending, self._resampler.finish()])
                self._open = False

    def _is_open(self, answer: int) -> bool:
        return self._open and answer == self._answer

    def take(self, count: int) -> Samples:
        """The next `count` samples for the device, float32 `[count]`; silence where there are none."""
        with self._changed:
            out = np.zeros(count, np.float32)
            ready = self._pending[:count]
            out[: len(ready)] = ready
            if len(ready):
                self._taken.append((self._device_position, len(ready)))
                self._pending = self._pending[count:]
                self._changed.notify_all()
            self._device_position += count
            return out

    def stop(self, at: int | None = None) -> int:
        """Stop at once, in the middle of a word.

        Args:
            at: position of the device, in samples, up to which the user listened; None: now.

        Returns:
            Characters of the answer that were heard until then.
        """
        with self._changed:
            limit = self._device_position if at is None else at
            played = sum(min(length, max(0, limit - start)) for start, length in self._taken)
            heard = self._text.heard(played * SPEECH_RATE // self._rate)
            self._begin()
            self._changed.notify_all()
            return heard
