"""Runs speech in the engine thread: decoder steps of several sessions together, the codec in units that pause.

A session speaks one text after the other. Whose audio runs dry first is computed first; sessions whose reader is behind
pause. Readers are other threads: each gets its pieces from a queue.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vita.engine.decode import MAX_BATCH, DecodeRunner
from vita.engine.engine import Engine
from vita.errors import Cancelled, CheckpointError, ResourceError
from vita.runtime.clock import Clock
from vita.runtime.core_usage import CoreUsage
from vita.runtime.threads import ThreadChoice
from vita.speech.checkpoint import SpeechModel
from vita.speech.codec import CodecSteps
from vita.speech.config import SAMPLES_PER_TOKEN, TOKENS_PER_SECOND
from vita.speech.join import ReferencePieces
from vita.speech.pieces import ExactPieces
from vita.speech.session import AudioQueue, Samples, SpeechSession, SpokenText
from vita.speech.tts import SpeechSequence

log = logging.getLogger("vita")
JOIN_SECONDS = 0.2  # texts that begin within this time of each other are prepared first, then decoded together
IDLE_SECONDS = 0.005  # that speech computes before the inbox is looked at, if nobody decodes
CACHE_STEP = 256  # KV caches are so many positions, or a multiple
RECENT = 1000  # latencies that are remembered


@dataclass(frozen=True)
class SpeechStats:
    """Counts since the runner was made; seconds.

    Attributes:
        texts: that were spoken to their end.
        steps, tokens: of the decoder; a step decodes a token of each of several sessions.
        audio_seconds: that were made.
        compute_seconds: that it took.
        budget_seconds: that the engine gave beside decode steps; 0 where nobody decoded.
        first_audio: from a session's text to its first audio, the last 1,000.
    """

    texts: int = 0
    steps: int = 0
    tokens: int = 0
    audio_seconds: float = 0.0
    compute_seconds: float = 0.0
    budget_seconds: float = 0.0
    first_audio: tuple[float, ...] = ()

    @property
    def real_time_factor(self) -> float | None:
        """Seconds of computing for a second of audio."""
        return self.compute_seconds / self.audio_seconds if self.audio_seconds else None


class SpeechRunner:
    """Background work of an engine (`engine.background.WorkSource`); `speak` may be called from any thread.

    Args:
        model: decoder and codec.
        threads: that a CPU has; measured whether one of them is faster.
        clock: seconds, monotonic.
        decode: computes a decode step; default: the fastest for the device.
    """

    def __init__(
        self, model: SpeechModel, *, threads: int = 1, clock: Clock = time.monotonic, decode: DecodeRunner | None = None
    ) -> None:
        self.model, self.clock = model, clock
        self._decode = decode or model.decoder.choose_decode()
        self._usage = CoreUsage()
        self._threads = ThreadChoice(threads, torch.set_num_threads, clock, busy=lambda: self._usage.busy)
        self._texts: list[SpokenText] = []  # the engine thread and readers change it, under the lock
        self._lock = threading.Lock()
        self._wake: Callable[[], None] = lambda: None
        self._ended: BaseException | None = None
        self._stats = SpeechStats()
        self._first_audio: deque[float] = deque(maxlen=RECENT)

    def attach(self, engine: Engine) -> None:
        """Compute in this engine's thread from now on.

        Raises:
            ResourceError: the engine has failed or is closed.
        """
        self._wake = engine.attach(self)

    def stats(self) -> SpeechStats:
        """Counts and latencies, as of now."""
        return replace(self._stats, first_audio=tuple(self._first_audio))

    def speak(self, session: SpeechSession, embed: Callable[[], Tensor], *, first: bool = True) -> Iterator[Samples]:
        """Speak one text. Nothing is computed before the first piece is asked for; closing the iterator cancels.

        Args:
            session: no other text of it is being spoken.
            embed: called once in the engine thread: the embedding rows of the text's tokens, `[n, H]`, where H is a
                multiple of the decoder's size.
            first: nothing of this answer was spoken before.

        Yields:
            float32 `[n]`, 24,000 a second.

        Raises:
            ResourceError: the engine has failed or is closed. Otherwise what went wrong with this text.
        """
        text = self.begin(session, embed, first=first)
        try:
            while (piece := text.audio.get()) is not None:
                yield piece
        finally:
            text.cancelled = True
            self._wake()

    def begin(self, session: SpeechSession, embed: Callable[[], Tensor], *, first: bool = True) -> SpokenText:
        """Compute a text from now on; arguments and errors as for `speak`, which reads its audio."""
        text = SpokenText(session, embed, AudioQueue(self._wake), self.clock(), first)
        with self._lock:
            if self._ended is not None:
                raise _as_error(self._ended)
            self._texts.append(text)
        self._wake()
        return text

    def end_session(self, session: SpeechSession) -> None:
        """End what is spoken of a session, and free its KV cache. May be called from any thread; its reader ends."""
        with self._lock:
            texts = [text for text in self._texts if text.session is session]
        for text in texts:
            text.cancelled = True
            text.audio.put(None)
        session.cache = None
        self._wake()

    # Called by the engine thread

    def slack(self) -> float | None:
        """See `WorkSource.slack`."""
        texts = self._runnable()
        return min(text.due() for text in texts) - self.clock() if texts else None

    def end(self, error: BaseException) -> None:
        """See `WorkSource.end`."""
        with self._lock:
            self._ended = error
            texts, self._texts = self._texts, []
        for text in texts:
            text.audio.put(_as_error(error))

    def run_some(self, budget: float) -> None:
        """See `WorkSource.run_some`. A piece is a decode step, a layer of a prefix or a convolution of the codec. Where
        nobody decodes, `budget` is 0; it goes on for a few milliseconds, since many pieces are shorter than a turn of
        the engine's loop."""
        begun = start = self.clock()
        until = begun + (budget or IDLE_SECONDS)
        if self._threads.available > 1:
            self._usage.begin_step()
            if self._usage.busy:
                self._threads.start_with_one()
        while texts := self._runnable():
            self._advance(min(texts, key=SpokenText.due), texts)
            now = self.clock()
            if 2 * now - start > until:  # the next piece, if it takes as long as this one, would end too late
                break
            start = now
        self._usage.end_step()
        stats, seconds = self._stats, self.clock() - begun
        self._stats = replace(
            stats, compute_seconds=stats.compute_seconds + seconds, budget_seconds=stats.budget_seconds + budget
        )

    def _runnable(self) -> list[SpokenText]:
        with self._lock:
            self._texts = [text for text in self._texts if not text.cancelled]
            return [text for text in self._texts if text.runnable]

    def _advance(self, text: SpokenText, texts: list[SpokenText]) -> None:
        """Compute one piece for a text; its error is its own."""
        failing = [text]
        try:
            if text.steps is not None:
                self._run_step(text)
            elif text.sequence is None:
                self._start_prefix(text)
            elif text.sequence.ended or (text.pieces and len(text.sequence.tokens) >= text.pieces.wanted):
                self._start_piece(text, text.sequence)
            elif (other := self._to_join(text, texts)) is not None:
                failing = [other]
                if other.steps is None:
                    self._start_prefix(other)
                else:
                    self._run_step(other)
            else:
                others = sorted((t for t in texts if t is not text and t.may_decode()), key=SpokenText.due)
                failing = [text, *others][:MAX_BATCH]
                self._step(failing)
        except Exception as error:
            on_gpu = self.model.decoder.device.type == "cuda"
            if on_gpu and isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
                raise  # the device is in an unknown state
            log.exception("a text could not be spoken")
            for broken in failing:
                self._finish(broken, error)

    @staticmethod
    def _to_join(text: SpokenText, texts: list[SpokenText]) -> SpokenText | None:
        """A text that has no sequence yet and began at nearly the time of this one, of which nothing is heard."""
        if not text.first or text.session.dry_at is not None:
            return None
        waiting = [t for t in texts if t.sequence is None and t.due() <= text.due() + JOIN_SECONDS]
        return min(waiting, key=SpokenText.due, default=None)

    def _timed(self, what: tuple[object, ...], size: int, compute: Callable[[], None]) -> None:
        """Compute with the number of threads that suits steps of this kind."""
        kind = (*what, size.bit_length())
        self._threads.before(kind)
        start = self.clock()
        compute()
        self._threads.after(kind, (self.clock() - start) / max(1, size))

    def _start_prefix(self, text: SpokenText) -> None:
        decoder, session = self.model.decoder, text.session
        rows, size = text.embed(), decoder.config.decoder.hidden_size  # [n, H]
        if rows.shape[-1] % size:
            raise CheckpointError(f"the speech decoder's size {size} does not divide the text's {rows.shape[-1]}")
        hidden = rows.reshape(1, -1, size)  # [1, n * H / D, D]
        positions = hidden.shape[1] + 1 + session.options.max_tokens
        cache = session.cache
        if cache is None or cache.capacity < positions:
            session.cache = cache = decoder.new_cache(-(-positions // CACHE_STEP) * CACHE_STEP)
        cache.reset()
        text.cache = cache
        text.steps, text.size, text.number = decoder.fill_prefix(hidden, cache), hidden.shape[1], 0

    def _start_piece(self, text: SpokenText, row: SpeechSequence) -> None:
        """The next tokens for the codec. The last ones are fed alone if they come after a piece that is due."""
        assert text.pieces is not None
        end = min(text.pieces.wanted, len(row.tokens))
        text.last = row.ended and end < text.pieces.wanted
        steps = text.pieces.push(row.tokens[text.pushed : end], last=text.last)
        text.size, text.number, text.pushed = max(1, end - text.pushed), 0, end
        text.steps = self._collect(text, steps)

    @staticmethod
    def _collect(text: SpokenText, steps: CodecSteps) -> Iterator[None]:
        audio = yield from steps
        text.found = [audio]

    def _run_step(self, text: SpokenText) -> None:
        """One layer of the prefix, or one convolution of the codec."""
        steps, ended = text.steps, False
        assert steps is not None

        def compute() -> None:
            nonlocal ended
            ended = next(steps, steps) is steps

        self._timed(("prefix" if text.sequence is None else "codec", text.number), text.size, compute)
        text.number += 1
        if not ended:
            return
        text.steps = None
        if text.sequence is not None:
            self._deliver(text)
            return
        session = text.session
        assert text.cache is not None
        text.sequence = self.model.decoder.start(text.cache, session.options, session.sampling)
        text.pieces = (
            ExactPieces(self.model.codec, first=text.first)
            if session.reference is None
            else ReferencePieces(self.model.codec, session.reference)
        )

    def _step(self, texts: list[SpokenText]) -> None:
        rows = [text.sequence for text in texts if text.sequence is not None]
        self._timed(("step", len(rows)), 1, lambda: self.model.decoder.step(self._decode, rows))
        stats = self._stats
        self._stats = replace(stats, steps=stats.steps + 1, tokens=stats.tokens + len(rows))

    def _deliver(self, text: SpokenText) -> None:
        """Give the reader what the codec made."""
        (audio,), text.found = text.found, []
        samples = audio.cpu().numpy()
        now, session, stats = self.clock(), text.session, self._stats
        if len(samples):
            if text.first:
                self._first_audio.append(now - text.arrived)
                text.first = False
            seconds = len(samples) / (SAMPLES_PER_TOKEN * TOKENS_PER_SECOND)
            session.dry_at = max(now, session.dry_at or now) + seconds
            self._stats = replace(stats, audio_seconds=stats.audio_seconds + seconds)
            text.audio.put(samples)
        if text.last:
            self._stats = replace(self._stats, texts=stats.texts + 1)
            self._finish(text, None)

    def _finish(self, text: SpokenText, error: BaseException | None) -> None:
        with self._lock:
            if text in self._texts:
                self._texts.remove(text)
        text.audio.put(error)


def _as_error(error: BaseException) -> BaseException:
    """What a reader raises when the engine ends."""
    return ResourceError("the engine is closed", fix="load the model again") if isinstance(error, Cancelled) else error
