"""Engine: submit requests to one loaded model from any thread.

submit → media worker → inbox → engine thread (`engine.core`) → events of the handle
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import threading
import time
import weakref
from collections.abc import Callable, Sequence

from vita.checkpoint.load import Progress
from vita.checkpoint.open import Checkpoint
from vita.engine.background import WorkSource
from vita.engine.core import EngineCore
from vita.engine.handle import EventQueue, Handle
from vita.engine.loaded import LoadedModel
from vita.engine.media_workers import MediaWorkers
from vita.engine.metrics import Stats
from vita.engine.request import Request
from vita.engine.sampler import check_params, check_tokens
from vita.engine.submission import accept_messages, check_submission, has_media, is_short
from vita.errors import Cancelled, QueueFull, ResourceError
from vita.media.policy import ReadGuard
from vita.options import EngineOptions
from vita.prompt.processor import ProcessedInputs, Processor
from vita.prompt.turn_reader import PreparedTurn
from vita.runtime.clock import Stopwatch
from vita.types import MediaOptions, Message, SamplingParams

EXIT_SECONDS = 10.0  # that the end of the process waits for a step to end

ReadPrompt = Callable[[Stopwatch, ReadGuard], ProcessedInputs]
ReadTurn = Callable[[Message, MediaOptions, Stopwatch, ReadGuard], PreparedTurn]


class Engine:
    """One model, ready to answer. A dropped engine ends its thread.

    Args:
        checkpoint: an opened folder.
        options: see `EngineOptions`.
        progress: called as `progress(part, done, total)` while tensors are loaded.

    Raises:
        CheckpointError: the tensors do not match the configuration.
        ResourceError: the device is missing, or the model does not fit its memory.
    """

    def __init__(
        self, checkpoint: Checkpoint, options: EngineOptions | None = None, progress: Progress | None = None
    ) -> None:
        self._workers = MediaWorkers()
        self._read_turn: ReadTurn | None = None
        self.core = core = EngineCore(options or EngineOptions(), lambda start: start(), self._workers.share)
        self._finalizer = weakref.finalize(self, _close, core, self._workers)
        self._finalizer.atexit = False
        self._thread = threading.Thread(
            target=_run, args=(core, self._workers, checkpoint, progress), name="vita-engine", daemon=True
        )
        self._thread.start()
        try:
            while not core.loaded.wait(0.1):  # in slices, so that Ctrl-C reaches the caller of `load`
                pass
        except BaseException:
            core.closed = True
            raise
        if core.failure is not None:
            raise core.failure

    def computing(self) -> contextlib.AbstractContextManager[None]:
        """The calling thread computes within the block; meanwhile steps on a CPU leave it a core."""
        return self._workers.share.computing()

    @property
    def model(self) -> LoadedModel:
        """The loaded model. Other threads may read its configuration; only the engine thread computes with it."""
        return self.core.model

    @property
    def processor(self) -> Processor:
        """From messages to prompts."""
        return self.core.processor

    @property
    def is_healthy(self) -> bool:
        """Whether requests are taken."""
        return self.core.failure is None and not self.core.closed

    def submit(
        self, messages: Sequence[Message], params: SamplingParams | None = None, options: MediaOptions | None = None,
        *, priority: int = 0, deadline: float | None = None, cache_salt: str = "",
    ) -> Handle:  # fmt: skip
        """Queue a request.

        Args:
            messages: turns, oldest first, the last one the user's.
            params: how tokens are chosen; default: greedy.
            options: how media are read.
            priority: -1,000,000 to 1,000,000; requests with a lower value are served first, waiting makes up for it.
            deadline: seconds from now after which the request is cancelled.
            cache_salt: requests with another salt neither use nor see what this one leaves in the caches.

        Raises:
            RequestError: parameters, roles or types that cannot be used. QueueFull: too many requests wait.
            ResourceError: the engine has failed or is closed. Media and length errors are raised by the handle.
        """
        options = MediaOptions() if options is None else options
        system, turns = self.accept(messages, options)

        def read(watch: Stopwatch, guard: ReadGuard) -> ProcessedInputs:
            prepared = [self.read_turn(turn, options, watch, guard) for turn in turns]
            return self.processor.assemble(prepared, system, watch)

        return self.submit_prompt(
            read, params, options, priority=priority, deadline=deadline, cache_salt=cache_salt,
            has_media=any(has_media(turn) for turn in turns), in_caller=is_short(turns),
        )  # fmt: skip

    def read_turn_with(self, reader: ReadTurn | None) -> None:
        """Decode media elsewhere from now on: a server does it in other processes.

        Args:
            reader: called in a media worker, as `TurnReader.read_turn`; None: decode in the media worker.
        """
        self._read_turn = reader

    def read_turn(self, message: Message, options: MediaOptions, watch: Stopwatch, guard: ReadGuard) -> PreparedTurn:
        """Decode the media of one message; called in a media worker. Errors as for `TurnReader.read_turn`."""
        return (self._read_turn or self.processor.read_turn)(message, options, watch, guard)

    def accept(self, messages: Sequence[Message], options: MediaOptions) -> tuple[str | None, list[Message]]:
        """See `accept_messages`."""
        return accept_messages(messages, options, self.processor, self.model.checkpoint)

    def submit_prompt(
        self, read: ReadPrompt, params: SamplingParams | None, options: MediaOptions, *, session: int | None = None,
        priority: int = 0, deadline: float | None = None, cache_salt: str = "",
        on_end: Callable[[Request], None] | None = None, after: Request | None = None, has_media: bool = True,
        in_caller: bool = False,
    ) -> Handle:  # fmt: skip
        """Queue a request whose prompt a media worker makes. Arguments and errors as for `submit`, and:

        Args:
            read: makes the prompt, in a media worker.
            session: number of the session that pins the prefix.
            on_end: called in the engine thread when the request has ended, before its `Done` event.
            after: the prompt is made when this request has ended: the turn before.
            has_media: there is something to read; otherwise the prompt does not wait for the media of others.
            in_caller: make the prompt in the calling thread, which is sooner than waking another for a few words.
        """
        params = SamplingParams() if params is None else params
        check_params(params)
        check_tokens(params, self.model.tokenizer.size)
        check_submission(priority, deadline, cache_salt)
        core, now = self.core, time.monotonic()
        request = Request(
            params, EventQueue(core.inbox.wake), cache_salt, session, priority, now, now,
            None if deadline is None else now + deadline, on_end,
        )  # fmt: skip

        workers = self._workers  # not self: a request that waits must not keep the engine

        def start() -> None:
            if in_caller:
                _read(core, request, read, options)
            else:
                workers.submit(lambda: _read(core, request, read, options), has_media=has_media)

        with core.lock:
            self._check_open()
            core.open += 1
            core.inbox.post(lambda: core.submit(request))
            waits = after is not None and not after.ended
            if after is not None and waits:
                after.then.append(start)
        if not waits:
            start()
        cancel = functools.partial(_cancel, core, request)
        return Handle(request.events, cancel, params.n, owner=self, request=request, usage=request.usage_so_far)

    def cancel(self, request: Request) -> None:
        """End a request; nothing happens if it has ended."""
        _cancel(self.core, request)

    def _check_open(self) -> None:
        """Refuse a request if it cannot be taken; under the lock."""
        core = self.core
        self._check_running()
        if core.open >= core.options.max_queue + core.scheduler.limits.max_requests:
            core.counters.refused += 1
            raise QueueFull(f"{core.open} requests are waiting or running", fix="try again later")

    def _check_running(self) -> None:
        if self.core.closed:
            raise ResourceError("the engine is closed", fix="load the model again")
        if self.core.failure is not None:
            raise ResourceError(f"the engine has failed ({self.core.failure})", fix="load the model again")

    def attach(self, source: WorkSource) -> Callable[[], None]:
        """Have background work computed between decode steps, as urgent as it says.

        Returns:
            A function that any thread may call when the source has something new to compute.

        Raises:
            ResourceError: the engine has failed or is closed.
        """
        core = self.core
        with core.lock:
            self._check_running()
            core.inbox.post(lambda: core.scheduler.background.attach(source))
        return core.inbox.wake

    def call(self, function: Callable[[], object]) -> None:
        """Run a function in the engine thread, between two steps, and wait for it.

        Raises:
            ResourceError: the engine is closed. Otherwise what the function raises.
        """
        done = threading.Event()
        failure: list[BaseException] = []

        def message() -> None:
            try:
                function()
            except BaseException as error:
                failure.append(error)
            finally:
                done.set()

        self.core.inbox.post(message)
        while not done.wait(0.1):
            if not self._thread.is_alive():
                raise ResourceError("the engine is closed", fix="load the model again")
        if failure:
            raise failure[0]

    def warm_up(self) -> None:
        """Load every part of the model now, so that no request waits for it."""
        self.call(self.model.warm_up)

    def clear_caches(self) -> None:
        """Forget every idle prefix, and every encoded image and audio clip."""
        core = self.core

        def clear() -> None:
            core.pool.prefixes.clear()
            core.encoder_cache.clear()

        self.call(clear)

    def unpin(self, session: int) -> None:
        """A session has ended: its prefix is evicted like any other."""
        core = self.core
        core.inbox.post(lambda: core.unpin(session))

    def stats(self) -> Stats:
        """Counts and latencies between two steps."""
        if not self._thread.is_alive():
            return self.core.stats()
        found: list[Stats] = []
        self.call(lambda: found.append(self.core.stats()))
        return found[0]

    def close(self) -> None:
        """End every request as cancelled, and the engine thread. A second call does nothing."""
        self._finalizer()
        if self._thread is not threading.current_thread():
            self._thread.join()


def _run(core: EngineCore, workers: MediaWorkers, checkpoint: Checkpoint, progress: Progress | None) -> None:
    """The engine thread. It ends before the interpreter does: a daemon thread that returns from C++ after that is
    killed there, which aborts the process."""
    end = functools.partial(_end_at_exit, core, workers, threading.current_thread())
    atexit.register(end)
    try:
        core.run(checkpoint, progress)
    finally:
        atexit.unregister(end)


def _end_at_exit(core: EngineCore, workers: MediaWorkers, thread: threading.Thread) -> None:
    _close(core, workers)
    workers.join(1.0)
    thread.join(EXIT_SECONDS)


def _close(core: EngineCore, workers: MediaWorkers) -> None:
    with core.lock:
        core.closed = True
    core.inbox.wake()
    workers.close()


def _cancel(core: EngineCore, request: Request) -> None:
    request.cancelled = True
    core.inbox.wake()


def _read(core: EngineCore, request: Request, read: ReadPrompt, options: MediaOptions) -> None:
    """In a media worker: make the prompt, and tell the engine thread."""
    guard = ReadGuard.start(options.policy.deadline, lambda: request.cancelled or request.ended)
    try:
        guard.check("the request")
        request.inputs = read(request.watch, guard)
    except Cancelled:
        core.inbox.wake()
    except BaseException as error:
        failure = error  # the name of an except clause is gone when the message runs
        core.inbox.post(lambda: core.fail(request, failure))
    else:
        core.inbox.post(lambda: core.ready(request))
