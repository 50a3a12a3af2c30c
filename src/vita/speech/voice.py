"""Voice: what turns a clause into audio; voices are found by entry points.

A package adds a voice by an entry point of the group `vita.voices`: its name is the voice's, its object a callable
without arguments that returns a `Voice`, or raises `ResourceError` where something is missing. It loads nothing heavy;
`Voice.open` does.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Protocol

from vita.errors import RequestError, ResourceError, VitaError
from vita.speech.language import find_tag

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

log = logging.getLogger("vita")
SAMPLE_RATE = 24_000  # of everything that a voice makes
PIECE = 1_920  # samples: 80 ms, the most that is heard after a cancel
MIN_SPEED, MAX_SPEED = 0.25, 4.0

GROUP = "vita.voices"
CHECKPOINT_VOICE = "vita"  # name of the checkpoint's own
CHECKPOINT_LANGUAGES = ("en", "zh")
BEST_FIRST = ("piper",)
LAST = ("espeak",)
# OpenAI's names: accepted, and each stands for the best voice there is.
ALIASES = frozenset(
    ("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse")
)
INSTALL = 'run pip install "vita-engine[piper]" (English) or "vita-engine[espeak]" (a hundred languages)'


class Utterances(Protocol):
    """State of one stream of speech; used by one thread at a time."""

    def speak(self, text: str, *, first: bool) -> Iterator[NDArray[np.float32]]:
        """Speak one clause. Closing the iterator cancels: it stops within one piece.

        Args:
            text: normalised: words and punctuation, never empty.
            first: nothing was spoken before; the voice prefers a short first piece over an efficient one.

        Yields:
            Pieces of mono audio, [n] float32 in -1..1 at `SAMPLE_RATE`.
        """
        ...

    def reset(self) -> None:
        """Forget what was spoken; the next clause is the first of another answer."""
        ...

    def close(self) -> None:
        """Free what `open` took."""
        ...


class Voice(Protocol):
    """A voice. Safe to open from several threads.

    Attributes:
        name: unique, as in `--voice`.
        languages: that it speaks, BCP 47, such as ("en", "zh").
    """

    @property
    def name(self) -> str: ...

    @property
    def languages(self) -> tuple[str, ...]: ...

    def open(self, *, language: str, speed: float, seed: int | None) -> Utterances:
        """Start a stream of speech.

        Args:
            language: one of `languages`.
            speed: 0.25 to 4; 1 is the voice's normal rate.
            seed: makes a voice that samples reproducible; None: it may differ from call to call.

        Raises:
            ResourceError: a library or file that the voice needs cannot be loaded.
        """
        ...


VoiceFactory = Callable[[], Voice]


def installed_entries() -> tuple[EntryPoint, ...]:
    """The entry points of all voices that are installed, in no order."""
    return _entries_on(tuple(sys.path))


@cache
def _entries_on(path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Found once for each search path: a file of every installed package is read, which takes some 14 ms."""
    return tuple(entry_points(group=GROUP))


def find_voices() -> dict[str, EntryPoint]:
    """The entry points of all voices, best first. Nothing is imported."""
    found = {entry.name: entry for entry in installed_entries()}
    others = sorted(name for name in found if name not in BEST_FIRST + LAST)
    return {name: found[name] for name in (*BEST_FIRST, *others, *LAST) if name in found}


def available_voices(checkpoint_voice: Voice | None = None) -> list[Voice]:
    """Voices whose libraries are installed, best first. One that is broken is left out, with a warning.

    Args:
        checkpoint_voice: the loaded model's own, which is the best.
    """
    voices = [] if checkpoint_voice is None else [checkpoint_voice]
    for entry in find_voices().values():
        try:
            voices.append(make_voice(entry))
        except BrokenVoice as error:
            _warn_once(str(error))
        except ResourceError:
            continue  # not installed
    return voices


class BrokenVoice(ResourceError):
    """A voice whose package is installed and does not work."""


@cache
def _warn_once(sentence: str) -> None:
    """Once a process, since a server asks for the voices again and again."""
    log.warning(sentence)


def make_voice(entry: EntryPoint) -> Voice:
    """Make the voice of an entry point.

    Raises:
        ResourceError: its library is not installed. BrokenVoice: its package raises an error, or makes no voice.
    """
    try:
        factory: VoiceFactory = entry.load()
        voice = factory()
        languages = voice.languages
        if not (isinstance(voice.name, str) and languages and all(isinstance(tag, str) for tag in languages)):
            raise TypeError("its name must be a text, and its languages texts")
    except VitaError:
        raise
    except Exception as error:  # whatever another package raises
        raise BrokenVoice(
            f"cannot be loaded ({type(error).__name__}: {error})", where=f"voice {entry.name}",
            fix="install its package again",
        ) from error  # fmt: skip
    return voice


def choose_voice(name: str | None, checkpoint_voice: Voice | None = None, *, language: str | None = None) -> Voice:
    """The voice of this name, or the best one.

    Args:
        name: "vita" for the checkpoint's own, an entry point's name, or one of OpenAI's names or None for the best.
        checkpoint_voice: the loaded model's own, if it has one.
        language: prefer a voice that speaks it, BCP 47; only where the best is asked for.

    Raises:
        RequestError: there is no such voice. ResourceError: none is installed, or the one that is asked for is not.
    """
    if name is None or name in ALIASES:
        voices = available_voices(checkpoint_voice)
        if not voices:
            raise ResourceError("no voice is installed", where="voice", fix=INSTALL)
        return next((voice for voice in voices if language is None or speaks(voice, language)), voices[0])
    if name == CHECKPOINT_VOICE:
        if checkpoint_voice is None:
            raise ResourceError(
                "this checkpoint has no voice of its own", where="voice", fix=f"name another voice; for one, {INSTALL}"
            )
        return checkpoint_voice
    entries = find_voices()
    if name not in entries:
        known = ", ".join([*([CHECKPOINT_VOICE] if checkpoint_voice else []), *entries])
        raise RequestError(f"there is no voice {name!r}", where="voice", fix=f"use one of: {known or 'none installed'}")
    return make_voice(entries[name])


VoiceOf = Callable[[str], Voice]  # from a language to the voice that speaks it


def voices_by_language(name: str | None, checkpoint_voice: Voice | None = None) -> VoiceOf:
    """A function from a language to its voice: the one of this name, or the best that speaks the language.

    Raises:
        RequestError, ResourceError: as `choose_voice`; at once, not when it is called.
    """
    first = choose_voice(name, checkpoint_voice)
    if name is not None and name not in ALIASES:
        return lambda language: first

    @cache
    def best(language: str) -> Voice:
        return first if speaks(first, language) else choose_voice(None, checkpoint_voice, language=language)

    return best


def may_be_checkpoints(name: str | None) -> bool:
    """Whether this name may stand for the checkpoint's own voice, so that it has to be loaded."""
    return name is None or name in ALIASES or name == CHECKPOINT_VOICE


def speaks(voice: Voice, language: str) -> bool:
    """Whether a voice speaks a language; "en" and "en-US" are one."""
    return find_tag(language, voice.languages) is not None


def check_language(voices: VoiceOf, name: str | None, language: str) -> None:
    """Refuse a language that the voice does not speak.

    Args:
        voices: from a language to its voice.
        name: of the voice that was asked for.
        language: BCP 47.

    Raises:
        RequestError: it, or no installed voice, speaks it.
    """
    voice = voices(language)
    if not speaks(voice, language):
        raise not_spoken(None if name in ALIASES else name, language)


def not_spoken(name: str | None, language: str) -> RequestError:
    """The error for a language that a voice, or none of all, speaks."""
    who = "no installed voice speaks" if name is None else f"{name} does not speak"
    return RequestError(
        f"{who} the language {language!r}", where="language",
        fix="use a code such as en or pt-BR, or another `voice`; espeak speaks a hundred languages",
    )  # fmt: skip


def checkpoint_speaks(language: str) -> bool:
    """Whether a checkpoint's own voice speaks a language; known before it is loaded."""
    return find_tag(language, CHECKPOINT_LANGUAGES) is not None


def check_speed(speed: float) -> None:
    """Refuse a speed that no voice has.

    Raises:
        RequestError: not 0.25 to 4.
    """
    if not (isinstance(speed, (int, float)) and MIN_SPEED <= speed <= MAX_SPEED):  # NaN, too
        raise RequestError(f"must be {MIN_SPEED} to {MAX_SPEED:.0f}, not {speed!r}", where="speed")


def to_pieces(made: Iterable[NDArray[np.float32]], rate: int) -> Iterator[NDArray[np.float32]]:
    """The audio of a clause in pieces of at most `PIECE` samples, as soon as it is made.

    Args:
        made: mono, [n] float32 each.
        rate: samples per second; resampled to `SAMPLE_RATE`.
    """
    from vita.speech.resample import StreamResampler

    resampler = StreamResampler(rate, SAMPLE_RATE)

    def resampled() -> Iterator[NDArray[np.float32]]:
        yield from map(resampler.feed, made)
        yield resampler.finish()

    for samples in resampled():
        for start in range(0, len(samples), PIECE):
            yield samples[start : start + PIECE]


def pause_after(text: str) -> float:
    """Seconds of silence after a clause, by its last punctuation, at speed 1."""
    last = text.rstrip(" \"')]}»”’」』）").rstrip()[-1:]
    return 0.3 if last in ".!?。！？…" else 0.15 if last in ",;:，；：、—–" else 0.05
