"""The voice `espeak`: eSpeak NG by ctypes, a hundred languages, no model.

The library (GPL-3.0-or-later) comes with the package espeakng-loader and is loaded when the voice is first opened. It
has one state for the whole process, so a lock holds each clause.
"""

from __future__ import annotations

import ctypes
import importlib.util
import re
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vita.errors import ResourceError
from vita.speech.callbacks import call_outside_main
from vita.speech.extras import install
from vita.speech.language import canonical_tag, in_latin_letters
from vita.speech.stretch import stretch
from vita.speech.voice import Voice, pause_after, to_pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

SYNCHRONOUS, DO_NOT_EXIT = 2, 0x8000  # espeak_AUDIO_OUTPUT and an option of espeak_Initialize
CHARS_UTF8, POS_CHARACTER = 1, 1
RATE, PITCH, RANGE = 1, 3, 4  # espeak_PARAMETER
NORMAL_PITCH = 50  # of 0 to 99, for the pitch and for its range
NORMAL_RATE, SLOWEST_RATE = 175, 80  # words per minute; slower than that needs a change of tempo
LEVEL = 0.9  # below full scale, since resampling overshoots
NAMES = {"zh": "cmn", "en": "en-us", "en-GB": "en"}  # BCP 47 to eSpeak's names, where they differ
VARIETY = re.compile(r"[a-z]{2,3}-(?:[A-Z]{2}|[0-9]{3})")  # a language and a region

_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


def make() -> Voice:
    """The entry point.

    Raises:
        ResourceError: espeakng-loader is not installed.
    """
    _require()
    return EspeakVoice()


class EspeakVoice:
    """eSpeak NG."""

    name = "espeak"

    @property
    def languages(self) -> tuple[str, ...]:
        return _languages()

    def open(self, *, language: str, speed: float, seed: int | None) -> EspeakUtterances:
        """Start a stream; the seed has no effect, since nothing is sampled."""
        return EspeakUtterances(library(), language, speed)


class EspeakUtterances:
    """One stream of speech. It has no state but its settings."""

    def __init__(self, library: Library, language: str, speed: float) -> None:
        self._library, self._language, self._speed = library, language, speed
        self._name = NAMES.get(language, language.lower())

    def speak(self, text: str, *, first: bool) -> Iterator[NDArray[np.float32]]:
        """One clause, made at once (some milliseconds) and given out in pieces."""
        rate = max(SLOWEST_RATE, round(NORMAL_RATE * self._speed))
        samples = self._library.synthesize(in_latin_letters(text, self._language), self._name, rate)
        samples = stretch(samples, self._speed * NORMAL_RATE / rate)
        silence = np.zeros(round(pause_after(text) / self._speed * self._library.rate), np.float32)
        yield from to_pieces([samples * np.float32(LEVEL), silence], self._library.rate)

    def reset(self) -> None:
        """Nothing to forget."""

    def close(self) -> None:
        """Nothing to free."""


class Library:
    """The shared library, initialised once a process.

    Args:
        file: the shared library.
        data: the folder espeak-ng-data.

    Raises:
        ResourceError: it cannot be loaded or does not find its data.
    """

    def __init__(self, file: Path, data: Path) -> None:
        try:
            library = ctypes.CDLL(str(file))
        except OSError as error:
            raise ResourceError(
                f"the library cannot be loaded ({error})", where=file.name, fix="reinstall espeakng-loader"
            ) from error
        library.espeak_Synth.argtypes = (
            ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint,
            ctypes.c_void_p, ctypes.c_void_p,
        )  # fmt: skip
        self.rate = int(library.espeak_Initialize(SYNCHRONOUS, 0, str(data).encode(), DO_NOT_EXIT))
        if self.rate <= 0:
            raise ResourceError("eSpeak NG does not start", where=data.name, fix="reinstall espeakng-loader")
        self._library, self._lock = library, threading.Lock()
        self._blocks: list[NDArray[np.int16]] = []
        self._callback = _SynthCallback(self._take)  # kept: the library holds no reference to it
        library.espeak_SetSynthCallback(self._callback)

    def _take(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._blocks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0  # go on

    def synthesize(
        self, text: str, voice: str, rate: int, pitch: int = NORMAL_PITCH, pitch_range: int = NORMAL_PITCH
    ) -> NDArray[np.float32]:
        """Speak a text: mono, [n] float32 in -1..1.

        Args:
            text: plain text.
            voice: eSpeak's name of the language, with a variant if wanted: "en-us", "en-us+f3".
            rate: words per minute.
            pitch: 0 to 99.
            pitch_range: 0 (monotone) to 99.

        Raises:
            ResourceError: there is no such voice.
        """
        return call_outside_main(lambda: self._synthesize(text, voice, rate, pitch, pitch_range))

    def _synthesize(self, text: str, voice: str, rate: int, pitch: int, pitch_range: int) -> NDArray[np.float32]:
        data = text.replace("\0", " ").encode("utf-8", "replace")
        with self._lock:
            self._blocks.clear()
            if self._library.espeak_SetVoiceByName(voice.encode()):
                raise ResourceError(f"eSpeak NG has no voice {voice!r}", where="voice espeak")
            for parameter, value in ((RATE, rate), (PITCH, pitch), (RANGE, pitch_range)):
                self._library.espeak_SetParameter(parameter, value, 0)
            failed = self._library.espeak_Synth(data, len(data) + 1, 0, POS_CHARACTER, 0, CHARS_UTF8, None, None)
            if failed:
                raise ResourceError(f"eSpeak NG failed with code {failed}", where="voice espeak")
            blocks = [*self._blocks]
            self._blocks.clear()
        samples = np.concatenate(blocks) if blocks else np.zeros(0, np.int16)
        return samples.astype(np.float32) / np.float32(32768)


_loading = threading.Lock()


def library() -> Library:
    """The library, loaded once a process: it has one global state, and `cache` alone does not lock.

    A second copy of eSpeak NG, as from a Linux distribution, must not be loaded beside it: the dynamic linker takes two
    libraries of one name for the same.

    Raises:
        ResourceError: espeakng-loader is not installed, or the library cannot be loaded.
    """
    with _loading:
        return _load_library()


@cache
def _load_library() -> Library:
    _require()
    import espeakng_loader

    return Library(Path(espeakng_loader.get_library_path()), Path(espeakng_loader.get_data_path()))


def _require() -> None:
    if importlib.util.find_spec("espeakng_loader") is None:
        raise ResourceError(
            "the package espeakng-loader is not installed",
            where="voice espeak",
            fix=install("espeak"),
        )


@cache
def _languages() -> tuple[str, ...]:
    """Codes of the installed languages; found without loading the library."""
    found = importlib.util.find_spec("espeakng_loader")
    folder = Path(found.origin).parent if found is not None and found.origin else Path()
    codes = {file.name for file in (folder / "espeak-ng-data" / "lang").rglob("*") if file.is_file()}
    languages = sorted(code for code in codes if code.isalpha() and code.islower() and code not in ("en", "cmn"))
    varieties = sorted({*filter(VARIETY.fullmatch, map(canonical_tag, codes)), "en-GB"})
    return ("en", "zh", *languages, *varieties)
