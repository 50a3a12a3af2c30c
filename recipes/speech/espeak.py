"""eSpeak NG through its C library: text to samples in a few milliseconds, with no process in between.

Owns the library's handle and its callback. Does not know which voices are held out, nor what is said.
Install it with `sudo apt-get install espeak-ng`.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

SYNCHRONOUS = 2  # samples come through the callback before the call returns
UTF8 = 1
RATE, PITCH, RANGE = 1, 3, 4
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


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
    pitch: int = 50
    range: int = 50


class Espeak:
    """The synthesiser; one in a process, since the library keeps global state."""

    def __init__(self) -> None:
        found = ctypes.util.find_library("espeak-ng")
        if found is None:
            raise MissingSpeechEngine("eSpeak NG is not installed; run 'sudo apt-get install espeak-ng'.")
        self._library = ctypes.CDLL(found)
        self.rate = int(self._library.espeak_Initialize(SYNCHRONOUS, 0, None, 0))
        if self.rate <= 0:
            raise MissingSpeechEngine("eSpeak NG does not start; install its data with 'espeak-ng-data'.")
        self._pieces: list[np.ndarray] = []
        self._kept = _Callback(self._take)  # the library holds a bare pointer, so the object must live
        self._library.espeak_SetSynthCallback(self._kept)

    def _take(self, samples: ctypes.Array[ctypes.c_short], count: int, events: int) -> int:
        if samples and count > 0:
            self._pieces.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0

    def speak(self, text: str, voice: Voice) -> np.ndarray:
        """Int16 samples at `self.rate`.

        Raises:
            ValueError: the library has no such voice.
        """
        if self._library.espeak_SetVoiceByName(voice.name.encode()) != 0:
            raise ValueError(f"eSpeak NG has no voice {voice.name!r}")
        for parameter, value in ((RATE, voice.rate), (PITCH, voice.pitch), (RANGE, voice.range)):
            self._library.espeak_SetParameter(parameter, value, 0)
        self._pieces.clear()
        data = text.encode() + b"\0"
        self._library.espeak_Synth(data, len(data), 0, 0, 0, UTF8, None, None)
        self._library.espeak_Synchronize()
        return np.concatenate(self._pieces) if self._pieces else np.zeros(0, np.int16)


@lru_cache(maxsize=1)
def espeak() -> Espeak:
    """The one synthesiser of this process."""
    return Espeak()
