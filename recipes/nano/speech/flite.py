"""CMU Flite's diphone voices by ctypes: text to samples in one to four milliseconds.

Owns the two voices that training may use, and the three built from recorded speakers that only measure. Needs
Debian's package libflite1.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from random import Random

import numpy as np

from recipes.nano.speech.espeak import MissingSpeechEngine

TRAINED = ("kal", "kal16")  # diphones of one speaker at 8 and at 16 kHz
MEASURED = ("slt", "rms", "awb")  # never in training, and no choice is made by them


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p), ("rate", ctypes.c_int), ("length", ctypes.c_int), ("channels", ctypes.c_int),
        ("samples", ctypes.POINTER(ctypes.c_short)),
    )  # fmt: skip


class _Speaker(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("features", ctypes.c_void_p))


@dataclass(frozen=True)
class Manner:
    """How a diphone voice speaks: length of the sounds, and mean and deviation of its pitch in Hz."""

    stretch: float = 1.0
    pitch: float = 95.0
    lively: float = 11.0

    @classmethod
    def drawn(cls, rng: Random) -> Manner:
        """Slow or fast, low or high."""
        return cls(rng.uniform(0.8, 1.35), rng.uniform(75, 190), rng.uniform(5, 25))


class Flite:
    """One voice.

    Args:
        name: of `TRAINED` or `MEASURED`.

    Raises:
        MissingSpeechEngine: the library is not installed.
    """

    def __init__(self, name: str) -> None:
        try:
            self._library = ctypes.CDLL("libflite.so.1")
            voice = ctypes.CDLL(f"libflite_cmu_us_{name}.so.1")
        except OSError as error:
            raise MissingSpeechEngine(f"Flite is not installed; run 'apt-get install libflite1' ({error}).") from None
        self._library.flite_text_to_wave.restype = ctypes.POINTER(_Wave)
        self._library.flite_text_to_wave.argtypes = (ctypes.c_char_p, ctypes.c_void_p)
        self._library.delete_wave.argtypes = (ctypes.POINTER(_Wave),)
        self._library.flite_feat_set_float.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_float)
        self._library.flite_init()
        register = getattr(voice, f"register_cmu_us_{name}")
        register.restype, register.argtypes = ctypes.POINTER(_Speaker), (ctypes.c_char_p,)
        self._speaker = register(None)

    def speak(self, text: str, manner: Manner | None = None) -> tuple[np.ndarray, int]:
        """Float32 samples `[n]` in -1..1 and their rate; without a manner as the voice was built."""
        for name, value in () if manner is None else (
            (b"duration_stretch", manner.stretch), (b"int_f0_target_mean", manner.pitch),
            (b"int_f0_target_stddev", manner.lively),
        ):  # fmt: skip
            self._library.flite_feat_set_float(self._speaker.contents.features, name, value)
        wave = self._library.flite_text_to_wave(text.encode("ascii", "ignore"), self._speaker)
        said = np.ctypeslib.as_array(wave.contents.samples, (wave.contents.length,)) / np.float32(32768)
        rate = int(wave.contents.rate)
        self._library.delete_wave(wave)
        return said, rate


@lru_cache(maxsize=len(TRAINED) + len(MEASURED))
def flite(name: str) -> Flite:
    """The voice of this process.

    Raises:
        MissingSpeechEngine: the library is not installed.
    """
    return Flite(name)
