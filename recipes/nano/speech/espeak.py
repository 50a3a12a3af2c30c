"""eSpeak NG as the recipe's speaker: text to samples in a few milliseconds.

The library is the one of the engine's voice `espeak`: two copies in one process share a name and crash.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vita.errors import ResourceError
from vita.speech.voices.espeak import NORMAL_PITCH, Library, library


class MissingSpeechEngine(RuntimeError):
    """The library is not installed; the sentence says how to get it."""


@dataclass(frozen=True)
class Voice:
    """How a text is spoken.

    Attributes:
        name: accent and variant, as in "en-us+f3".
        rate: words a minute.
        pitch: 0 to 99, 50 is the voice's own.
        range: 0 to 99, how lively the pitch is.
    """

    name: str
    rate: int = 170
    pitch: int = NORMAL_PITCH
    range: int = NORMAL_PITCH


class Espeak:
    """The synthesiser.

    Args:
        loaded: the library.
    """

    def __init__(self, loaded: Library) -> None:
        self._library = loaded
        self.rate = loaded.rate

    def speak(self, text: str, voice: Voice) -> np.ndarray:
        """[n] float32 in -1..1 at `self.rate`.

        Raises:
            ResourceError: the library has no such voice.
        """
        return self._library.synthesize(text, voice.name, voice.rate, voice.pitch, voice.range)


@lru_cache(maxsize=1)
def espeak() -> Espeak:
    """The one synthesiser of this process.

    Raises:
        MissingSpeechEngine: the package espeakng-loader is not installed.
    """
    try:
        return Espeak(library())
    except ResourceError as error:
        raise MissingSpeechEngine(f"eSpeak NG is not installed; run 'pip install espeakng-loader' ({error}).") from None
