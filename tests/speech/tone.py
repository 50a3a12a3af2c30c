"""A voice without a library: each character is 20 ms of a tone, so that what is heard shows what was spoken."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vita.speech.voice import PIECE, SAMPLE_RATE

PER_CHARACTER = SAMPLE_RATE // 50


class ToneVoice:
    """Samples are exact and depend on the text alone.

    Args:
        languages: that it speaks.
        fails_at: text at which it raises.
    """

    name = "tone"

    def __init__(self, languages: tuple[str, ...] = ("en", "zh"), fails_at: str | None = None) -> None:
        self.languages = languages
        self.fails_at = fails_at
        self.spoken: list[str] = []
        self.pieces = 0
        self.opened: list[tuple[str, float, int | None]] = []
        self.resets = self.closes = self.cancelled = 0

    def open(self, *, language: str, speed: float, seed: int | None) -> ToneUtterances:
        self.opened.append((language, speed, seed))
        return ToneUtterances(self, speed)


class ToneUtterances:
    def __init__(self, voice: ToneVoice, speed: float) -> None:
        self.voice, self.speed = voice, speed

    def speak(self, text: str, *, first: bool) -> Iterator[NDArray[np.float32]]:
        self.voice.spoken.append(text)
        if self.voice.fails_at is not None and self.voice.fails_at in text:
            raise RuntimeError("the voice broke")
        samples = tone(text, self.speed)
        try:
            for start in range(0, len(samples), PIECE):
                self.voice.pieces += 1
                yield samples[start : start + PIECE]
        except GeneratorExit:
            self.voice.cancelled += 1
            raise

    def reset(self) -> None:
        self.voice.resets += 1

    def close(self) -> None:
        self.voice.closes += 1


def tone(text: str, speed: float = 1.0) -> NDArray[np.float32]:
    """What `ToneVoice` makes of a text."""
    length = round(PER_CHARACTER / speed)
    time = np.arange(length) / SAMPLE_RATE
    parts = [0.5 * np.sin(2 * np.pi * (200 + ord(character) % 200) * time) for character in text]
    return np.concatenate(parts).astype(np.float32)
