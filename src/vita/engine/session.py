"""Session: a conversation whose media are decoded once and whose prefix stays in the cache."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

from vita.engine.engine import Engine
from vita.engine.handle import Handle
from vita.engine.request import Request
from vita.engine.sampler import check_params
from vita.engine.submission import has_media
from vita.errors import RequestError
from vita.media.policy import ReadGuard
from vita.prompt.processor import ProcessedInputs, without_oldest
from vita.prompt.template import check_text
from vita.prompt.turn_reader import PreparedTurn
from vita.runtime.clock import Stopwatch
from vita.types import MediaOptions, Message, SamplingParams, SpeechOptions

_numbers = itertools.count(1)


@dataclass(eq=False)
class _Running:
    """A turn that is being answered.

    Attributes:
        history: the turns before, to which it is added at its end.
        turn: the user's turn; None until its media are read.
        heard: characters of the answer that are kept; None: all.
        ended: whether it was added to the history, or left no trace.
        answer: what it added of the model's; None: nothing, or nothing yet.
    """

    history: list[PreparedTurn]
    turn: PreparedTurn | None = None
    heard: int | None = None
    ended: bool = False
    answer: PreparedTurn | None = None


class Session:
    """A conversation with one model.

    Each `submit` adds the user's turn and the model's answer to the history once the answer has ended. A turn that
    failed, or that the model took for noise, leaves no trace. A cancelled answer stays as far as it was given out.
    Decoded media stay in memory with their turn, until the turn no longer fits the context and is forgotten.

    Args:
        engine: the model's.
        system: replaces the built-in system text.
        options: how media are read.
        cache_salt: see `Engine.submit`.
        speaker: makes a function that speaks the answer of a handle nobody has read; None: answers are not spoken.

    Raises:
        RequestError: an argument of another type, or options that the model does not have.
    """

    def __init__(
        self, engine: Engine, system: str | None = None, options: MediaOptions | None = None, cache_salt: str = "",
        speaker: Callable[[SpeechOptions, SamplingParams | None], Callable[[Handle], Handle]] | None = None,
    ) -> None:  # fmt: skip
        self.system, self.cache_salt = system, cache_salt
        self.options = MediaOptions() if options is None else options
        if system is not None:
            check_text(system, "the system text")
        engine.processor.check_options(self.options)
        self._engine, self._speaker = engine, speaker
        self._number = next(_numbers)
        self._lock = threading.Lock()
        self._turns: list[PreparedTurn] = []
        self._dropped = 0  # turns that were forgotten since they no longer fit the context
        self._running: _Running | None = None  # the newest turn
        self._last: Request | None = None  # not its handle, which would never be dropped then, and so not cancelled
        self._finalizer = weakref.finalize(self, engine.unpin, self._number)
        self._finalizer.atexit = False

    @property
    def turns(self) -> tuple[PreparedTurn, ...]:
        """The history, as far as it fits the context: user and assistant turns, oldest first."""
        with self._lock:
            return tuple(self._turns)

    def prepare(self, message: Message, cancelled: Callable[[], bool] | None = None) -> PreparedTurn:
        """Read and decode the media of a user's turn in the calling thread; `submit` takes the result.

        Args:
            message: the user's turn.
            cancelled: asked between blocks; once true, reading ends.

        Raises:
            RequestError: as `submit`. MediaError: a file that cannot be used. Cancelled: by `cancelled`.
        """
        _, (message,) = self._engine.accept([message], self.options)
        seconds = self.options.policy.deadline
        guard = ReadGuard.start(seconds) if cancelled is None else ReadGuard.start(seconds, cancelled)
        return self._engine.processor.read_turn(message, self.options, Stopwatch(), guard)

    def submit(
        self, message: Message | PreparedTurn, params: SamplingParams | None = None, *, priority: int = 0,
        deadline: float | None = None, speech: SpeechOptions | str | bool = False,
    ) -> Handle:  # fmt: skip
        """Ask the next turn. It waits for the end of the one before, if that was cancelled.

        Args:
            message: the user's turn, or what `prepare` or `undo` returned.
            params: how tokens are chosen; one answer only.
            priority, deadline: see `Engine.submit`.
            speech: also speak the answer, as in `Vita.submit`.

        Raises:
            RequestError: the turn is not the user's or is empty, the turn before is still being answered, the session
                is closed, or there is no such voice. Otherwise as `Engine.submit`.
            ResourceError: no voice is installed.
        """
        wanted, speak = SpeechOptions.of(speech), None
        if wanted is not None:
            if self._speaker is None:
                raise RequestError("this session cannot speak", where="speech", fix="make one with model.session()")
            speak = self._speaker(wanted, params)
        if not self._finalizer.alive:
            raise RequestError("the session is closed", fix="make another one")
        if isinstance(message, PreparedTurn):
            asked: Message | PreparedTurn = check_prepared(message)
        else:
            (asked,) = self._engine.accept([message], self.options)[1]
        params = SamplingParams() if params is None else params
        check_params(params)
        if params.n != 1:
            raise RequestError("must be 1 in a session", where="n")
        before = self._last
        if before is not None and not before.ended and not before.cancelled:
            raise RequestError("the turn before is still being answered", fix="read it to its end, or cancel it")

        running = _Running(self._turns)

        def read(watch: Stopwatch, guard: ReadGuard) -> ProcessedInputs:
            read_turn = self._engine.read_turn
            turn = asked if isinstance(asked, PreparedTurn) else read_turn(asked, self.options, watch, guard)
            with self._lock:
                running.turn = turn
                turns, dropped = [*running.history, turn], self._dropped
            inputs = self._engine.processor.assemble(turns, self.system, watch, dropped)
            with self._lock:
                if inputs.dropped > dropped and running.history is self._turns:
                    running.history[:] = without_oldest(turns, inputs.dropped - dropped)[:-1]
                    self._dropped = inputs.dropped
            return inputs

        handle = self._engine.submit_prompt(
            read, params, self.options, session=self._number, priority=priority, deadline=deadline,
            cache_salt=self.cache_salt, on_end=lambda request: self._ended(running, request), after=before,
            has_media=isinstance(asked, Message) and has_media(asked),
        )  # fmt: skip
        self._last, self._running = handle.request, running
        return handle if speak is None else speak(handle)

    def probe(self, message: Message) -> Handle:
        """Ask for the response state of a turn that may go on: one token at most, with its log-probability. The
        history does not change, and `submit` of the same turn finds what was encoded.

        Args:
            message: the user's turn so far.

        Raises:
            RequestError: as `submit`.
        """
        if not self._finalizer.alive:
            raise RequestError("the session is closed", fix="make another one")
        (asked,) = self._engine.accept([message], self.options)[1]

        def read(watch: Stopwatch, guard: ReadGuard) -> ProcessedInputs:
            turn = self._engine.read_turn(asked, self.options, watch, guard)
            with self._lock:
                turns, dropped = [*self._turns, turn], self._dropped
            return self._engine.processor.assemble(turns, self.system, watch, dropped)

        return self._engine.submit_prompt(
            read,
            SamplingParams(max_tokens=1, logprobs=1),
            self.options,
            cache_salt=self.cache_salt,
            has_media=has_media(asked),
        )

    def _ended(self, running: _Running, request: Request) -> None:
        """Keep a turn and its answer; called in the engine thread."""
        with self._lock:
            running.ended = True
            if running.turn is None or request.error is not None:
                return
            answer = request.sequences[0] if request.sequences else None
            if answer is not None and answer.text.state == "noise":
                return
            said = "" if answer is None else "".join(answer.pieces)[: running.heard]
            running.history.append(running.turn)
            if said:
                running.answer = PreparedTurn("assistant", (said,))
                running.history.append(running.answer)

    def truncate(self, heard_characters: int) -> None:
        """After a barge-in: only so many characters of the newest answer were heard, and the rest is forgotten. Nothing
        changes if the newest turn has no answer: the one before it was heard to its end.

        Args:
            heard_characters: of the answer's text. 0 forgets the answer; the user's turn stays.

        Raises:
            RequestError: a negative number.
        """
        if heard_characters < 0:
            raise RequestError(f"must be 0 or more, not {heard_characters}", where="heard_characters")
        with self._lock:
            running = self._running
            if running is not None and not running.ended:
                running.heard = heard_characters
                return
            newest = self._turns[-1] if self._turns else None
            if newest is None or newest.role != "assistant" or (running is not None and newest is not running.answer):
                return
            said = str(newest.pieces[0])[:heard_characters]
            cut = replace(newest, pieces=(said,)) if said else None
            self._turns[-1:] = [] if cut is None else [cut]
            if running is not None:
                running.answer = cut

    def undo(self) -> tuple[PreparedTurn, ...]:
        """Forget the newest answer and the user's turn before it; `submit` takes that turn to ask it again.

        Returns:
            What was forgotten: the user's turn and its answer, if it has one. Empty if there was no turn.

        Raises:
            RequestError: the newest turn is still being answered.
        """
        with self._lock:
            if self._running is not None and not self._running.ended:
                raise RequestError("the turn is still being answered", fix="read it to its end, or cancel it")
            start = len(self._turns) - 1
            while start > 0 and self._turns[start].role != "user":
                start -= 1
            removed = tuple(self._turns[max(0, start) :])
            del self._turns[max(0, start) :]
            return removed

    def add(self, turn: PreparedTurn) -> None:
        """Add a turn of a conversation that was held elsewhere."""
        with self._lock:
            self._turns.append(turn)

    def reset(self) -> None:
        """Forget every turn; one that is being answered is not kept either."""
        with self._lock:
            self._turns, self._dropped = [], 0

    def close(self) -> None:
        """Cancel what runs, and let the prefix be evicted like any other."""
        if self._last is not None:
            self._engine.cancel(self._last)
        self._finalizer()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_prepared(turn: PreparedTurn) -> PreparedTurn:
    """The turn itself.

    Raises:
        RequestError: it is not the user's, or is empty.
    """
    if turn.role != "user":
        raise RequestError("the last message must be the user's")
    if not any(not isinstance(piece, str) or piece.strip() for piece in turn.pieces):
        raise RequestError("there is no question", fix="give a text, an image, a video or audio")
    return turn
