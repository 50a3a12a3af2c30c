"""SpeechStream: text deltas in, chunks of audio out.

deltas → clauses (`clauses`) → words (`normalize`) → a voice (`voice`) → chunks with their characters
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vita.errors import RequestError, ResourceError, VitaError
from vita.events import SpeechChunk
from vita.speech.clauses import Clause, ClauseSplitter
from vita.speech.language import CJK_START, canonical_tag, find_tag, language_of
from vita.speech.normalize import announce_code, spoken_text
from vita.speech.voice import (
    CHECKPOINT_VOICE,
    PIECE,
    SAMPLE_RATE,
    Utterances,
    Voice,
    VoiceOf,
    check_language,
    check_speed,
    speaks,
    voices_by_language,
)
from vita.types import SpeechOptions

if TYPE_CHECKING:
    from numpy.typing import NDArray

FADE = 60  # samples, 2.5 ms: a clause begins and ends without a click
CHUNK_SIZES = (PIECE // 2, PIECE, 2 * PIECE, 3 * PIECE)  # samples of the first chunks of an answer, and of the rest
SECONDS_PER_WIDTH = 0.07  # of a Latin letter, before anything was spoken
DEFAULT_LANGUAGE = "en"
Computing = Callable[[], contextlib.AbstractContextManager[None]]


@dataclass
class SpeechMetrics:
    """What a stream did, in seconds.

    Attributes:
        first_audio: from the first text to the first chunk.
        compute: making audio.
        audio: duration of what was made.
    """

    first_audio: float = 0.0
    compute: float = 0.0
    audio: float = 0.0

    @property
    def real_time_factor(self) -> float:
        """Seconds of computing for a second of audio."""
        return self.compute / self.audio if self.audio else 0.0


class SpeechStream:
    """Speech of one answer.

    One thread feeds text, one iterates; the audio is made in the thread that iterates, and only as fast as it does, so
    a slow reader holds nothing but text. What is heard does not depend on how the text was cut into deltas.

    Args:
        voices: from a language to its voice.
        language: BCP 47; None: by the script of each clause.
        speed: 0.25 to 4.
        seed: for voices that sample.
        index: of the answer, in its chunks.
        strict: raise if nothing could be spoken; otherwise `unspoken` tells why.
        computing: entered while a voice computes in the thread that iterates, such as `CoreShare.computing`.

    Raises:
        RequestError: the speed is out of range.
    """

    def __init__(
        self, voices: VoiceOf, *, language: str | None = None, speed: float = 1.0, seed: int | None = None,
        index: int = 0, strict: bool = False, computing: Computing = contextlib.nullcontext,
    ) -> None:  # fmt: skip
        check_speed(speed)
        self._computing = computing
        self._voices, self._speed, self._seed = voices, speed, seed
        self._language = None if language is None else canonical_tag(language)
        self._index, self._strict = index, strict
        self._changed = threading.Condition()
        self._splitter = ClauseSplitter()
        self._open: dict[tuple[str, str], Utterances] = {}
        self._in_voice = False  # the reader's thread runs the voice now
        self._forget()

    def _forget(self) -> None:
        self._closed = False
        self._clauses: deque[Clause] = deque()
        self._finished = self._cancelled = False
        self._fed_at = 0.0
        self._chunks = 0
        self._widths, self._spoken = 0, 0.0  # of the clauses so far, and their seconds: the pace of the voice
        self.metrics = SpeechMetrics()
        self.unspoken: list[str] = []  # languages of clauses that the voice does not speak

    def feed(self, text: str) -> None:
        """Add the next piece of the text; never blocks."""
        with self._changed:
            self._fed_at = self._fed_at or time.monotonic()
            clauses = self._splitter.feed(text)
            self._clauses += clauses
            if clauses:  # a thread that is woken for every token costs the engine a third of a short step
                self._changed.notify_all()

    def finish(self) -> None:
        """The text is complete."""
        with self._changed:
            self._clauses += self._splitter.finish()
            self._finished = True
            self._changed.notify_all()

    def wait_finished(self) -> None:
        """Block until `finish` was called."""
        with self._changed:
            self._changed.wait_for(lambda: self._finished)

    def cancel(self) -> None:
        """Stop: the iterator ends within one chunk. May be called from any thread."""
        with self._changed:
            self._cancelled = True
            self._changed.notify_all()

    def reset(self) -> None:
        """Forget everything and start another answer at character 0; not while another thread iterates."""
        with self._changed:
            self._splitter.reset()
            self._forget()
            for utterances in self._open.values():
                utterances.reset()

    def close(self) -> None:
        """Cancel, and free what the voices took. May be called from any thread; the iterator ends within one chunk."""
        with self._changed:
            self._cancelled = self._closed = True
            self._changed.notify_all()
        self._free()

    def _free(self) -> None:
        """Close the voices, unless the reader runs one: it does so when it leaves it."""
        with self._changed:
            if self._in_voice or not self._closed:
                return
            opened, self._open = self._open, {}
        for utterances in opened.values():
            utterances.close()

    @contextlib.contextmanager
    def _run_voice(self, voice: str) -> Iterator[None]:
        """Run a voice in the reader's thread.

        Raises:
            ResourceError: it failed.
        """
        with self._changed:
            self._in_voice = True
        try:
            # The checkpoint's own voice computes in the engine thread.
            with contextlib.nullcontext() if voice == CHECKPOINT_VOICE else self._computing():
                yield
        except (VitaError, MemoryError):
            raise
        except Exception as error:
            raise ResourceError(
                f"the voice {voice} has failed ({type(error).__name__}: {error})", fix="choose another `voice`"
            ) from error
        finally:
            with self._changed:
                self._in_voice = False
            self._free()

    def prepare(self) -> None:
        """Load the voice of the expected language, so that the first clause does not wait for it."""
        self._utterances(self._language or self._default())

    def read(self) -> NDArray[np.float32]:
        """All the rest as one array, [n] float32 at 24 kHz. Blocks until the text is complete."""
        chunks = [chunk.samples for chunk in self]
        return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)

    def __iter__(self) -> Iterator[SpeechChunk]:
        """Chunks as soon as they are made; ends when the text is complete and spoken, or after a cancel.

        Raises:
            RequestError: nothing could be spoken, if `strict`: there are no words, or the voice does not speak their
            language. ResourceError: a voice cannot be loaded.
        """
        while (clause := self._wait()) is not None:
            yield from self._speak(clause)
        if self._cancelled or self.metrics.audio or not self._strict:
            return
        if self.unspoken:
            voice = self._voices(self.unspoken[0]).name
            raise RequestError(
                f"{voice} does not speak the language {self.unspoken[0]!r}", where="voice",
                fix="use another one; espeak speaks a hundred languages",
            )  # fmt: skip
        raise RequestError("there is nothing to say", where="text", fix="give a text with at least one word")

    def _wait(self) -> Clause | None:
        """The next clause; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._clauses or self._finished or self._cancelled)
            return None if self._cancelled or not self._clauses else self._clauses.popleft()

    def _default(self) -> str:
        """The language of Latin letters."""
        voice = self._voices(DEFAULT_LANGUAGE)
        return DEFAULT_LANGUAGE if speaks(voice, DEFAULT_LANGUAGE) else voice.languages[0]

    def _utterances(self, language: str) -> Utterances | None:
        """The open voice of a language; None if it does not speak it."""
        voice = self._voices(language)
        tag = find_tag(language, voice.languages)
        if tag is None:
            return None
        key = (voice.name, tag)
        if key not in self._open:
            with self._run_voice(voice.name):
                self._open[key] = voice.open(language=tag, speed=self._speed, seed=self._seed)
        return self._open.get(key)  # none if the stream was closed meanwhile

    def _pieces(self, voice: str, utterances: Utterances, words: str) -> Generator[NDArray[np.float32], None, None]:
        """What a voice makes of a clause; ends early once the stream is cancelled."""
        pieces: Iterator[NDArray[np.float32]] | None = None
        try:
            while not self._cancelled:
                with self._run_voice(voice):
                    if pieces is None:
                        pieces = iter(utterances.speak(words, first=self._chunks == 0))
                    piece = next(pieces, None)
                    found = None if piece is None else _finite(piece)
                if found is None or self._cancelled:
                    return
                yield found
        finally:
            close = getattr(pieces, "close", None)  # an iterator that is no generator has none
            if close is not None:
                close()

    def _speak(self, clause: Clause) -> Iterator[SpeechChunk]:
        """One clause: its words, then the pause after it."""
        default = self._language or self._default()
        language = default if clause.code else language_of(clause.text, default)
        words = announce_code(clause.text, language) if clause.code else spoken_text(clause.text, language)
        if not words:
            return
        start = time.monotonic()
        utterances = self._utterances(language)
        if utterances is None:
            if not self._closed:
                self.unspoken.append(language)
            return
        width = sum(3 if ord(character) >= CJK_START else 1 for character in words)
        expected = width * (self._spoken / self._widths if self._widths else SECONDS_PER_WIDTH / self._speed)
        pause = np.zeros(round(clause.pause / self._speed * SAMPLE_RATE), np.float32)
        position, length = clause.start, 0
        with contextlib.closing(self._pieces(self._voices(language).name, utterances, words)) as pieces:
            for samples, last in self._cut(pieces, pause):
                length += len(samples)
                share = length / SAMPLE_RATE / expected if expected else 1.0
                end = clause.end if last else max(position, _word_before(clause, share))
                now = time.monotonic()
                self._count(len(samples), now - start, now)
                yield SpeechChunk(samples=samples, text_start=position, text_end=end, index=self._index)
                if self._cancelled:
                    return
                position, start = end, time.monotonic()
        self._widths, self._spoken = self._widths + width, self._spoken + (length - len(pause)) / SAMPLE_RATE

    def _count(self, samples: int, seconds: float, now: float) -> None:
        if not self._chunks:
            self.metrics.first_audio = now - self._fed_at
        self._chunks += 1
        self.metrics.compute += seconds
        self.metrics.audio += samples / SAMPLE_RATE

    def _cut(
        self, pieces: Iterator[NDArray[np.float32]], pause: NDArray[np.float32]
    ) -> Iterator[tuple[NDArray[np.float32], bool]]:
        """Pieces of a clause as chunks, faded in and out, and whether it is the last; the number of samples is kept."""
        held = np.zeros(0, np.float32)
        faded_in = False
        for piece in pieces:
            held = np.concatenate([held, piece])
            if not faded_in and len(held) >= FADE:
                held[:FADE] *= np.linspace(0, 1, FADE, dtype=np.float32)
                faded_in = True
            while len(held) >= (size := CHUNK_SIZES[min(self._chunks, len(CHUNK_SIZES) - 1)]) + FADE:
                yield held[:size].copy(), False
                held = held[size:]
        if self._cancelled:
            return
        fade = min(FADE, len(held))
        if fade:
            held[-fade:] *= np.linspace(1, 0, fade, dtype=np.float32)
        rest = np.concatenate([held, pause])
        while len(rest) > (size := CHUNK_SIZES[min(self._chunks, len(CHUNK_SIZES) - 1)]):
            yield rest[:size].copy(), False
            rest = rest[size:]
        if len(rest):
            yield rest, True


def _finite(piece: NDArray[np.float32]) -> NDArray[np.float32]:
    """In -1..1, whatever the voice made."""
    return np.clip(np.nan_to_num(piece.astype(np.float32, copy=False)), -1, 1)


def _word_before(clause: Clause, share: float) -> int:
    """The start of the word at this share of a clause, as a position in the answer."""
    offset = int(min(share, 1.0) * (clause.end - clause.start))
    if clause.code or offset >= len(clause.text):
        offset = min(offset, len(clause.text))
    if offset and not any(ord(character) >= CJK_START for character in clause.text[max(0, offset - 1) : offset + 1]):
        offset = clause.text.rfind(" ", 0, offset + 1) + 1
    return clause.start + offset


def speak_text(
    text: str, options: SpeechOptions, checkpoint_voice: Voice | None = None, *,
    computing: Computing = contextlib.nullcontext,
) -> SpeechStream:  # fmt: skip
    """A stream that speaks one text.

    Args:
        text: plain text, or Markdown.
        options: the voice, its speed and the language.
        checkpoint_voice: the loaded model's own, if it has one.
        computing: see `SpeechStream`.

    Raises:
        RequestError: the text is empty, the speed is out of range, there is no such voice, or it does not speak the
        language. ResourceError: no voice is installed. Iterating raises what `SpeechStream` says.
    """
    if not isinstance(text, str) or not text.strip():
        raise RequestError("there is nothing to say", where="text", fix="give a text with at least one word")
    stream = stream_for(options, checkpoint_voice, strict=True, computing=computing)
    stream.feed(text)
    stream.finish()
    return stream


def stream_for(
    options: SpeechOptions, checkpoint_voice: Voice | None = None, *, index: int = 0, strict: bool = False,
    computing: Computing = contextlib.nullcontext,
) -> SpeechStream:  # fmt: skip
    """A stream with these options; errors as `speak_text`."""
    voices = voices_by_language(options.voice, checkpoint_voice)
    if options.language is not None:
        check_language(voices, options.voice, options.language)
    return SpeechStream(
        voices, language=options.language, speed=options.speed,
        seed=options.seed, index=index, strict=strict, computing=computing,
    )  # fmt: skip
