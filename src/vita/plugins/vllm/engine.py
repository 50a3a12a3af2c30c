"""A vLLM engine with the interface of this package's own: `submit` returns a handle with the same events.

submit → media worker → event loop of a thread of its own → vLLM's engine process → events of the handle
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from vllm.exceptions import GracefulHTTPError, VLLMClientError
from vllm.v1.engine.exceptions import EngineDeadError

from vita.checkpoint.open import Checkpoint
from vita.config import VitaConfig
from vita.engine.engine import ReadTurn
from vita.engine.handle import Handle
from vita.engine.media_workers import MediaWorkers
from vita.engine.metrics import Stats
from vita.engine.sampler import check_params, check_tokens
from vita.engine.submission import accept_messages, check_submission, has_media, is_short
from vita.errors import Cancelled, QueueFull, RequestError, ResourceError, VitaError
from vita.events import FinishReason
from vita.media.policy import ReadGuard
from vita.options import EngineOptions
from vita.plugins.vllm.checkpoint import opened_model
from vita.plugins.vllm.request import Answer, VllmRequest
from vita.plugins.vllm.sampling import vllm_params
from vita.plugins.vllm.start import start_vllm
from vita.plugins.vllm.statistics import Statistics
from vita.prompt.processor import Processor
from vita.prompt.tokenizer import Tokenizer
from vita.types import MediaOptions, Message, SamplingParams

log = logging.getLogger("vita")
CLOSE_SECONDS = 20.0  # that vLLM gets to end its processes
T = TypeVar("T")


@dataclass(frozen=True)
class ServedCheckpoint:
    """The checkpoint that vLLM has loaded; see `vita.serve.served_model.LoadedCheckpoint`."""

    checkpoint: Checkpoint
    config: VitaConfig
    tokenizer: Tokenizer
    stop_ids: frozenset[int]


class VllmEngine:
    """vLLM's `AsyncLLM`, which computes in a process of its own.

    Args:
        folder: of the checkpoint.
        options: `dtype`, `kv_budget`, `max_queue` and `threads` count; the caller has refused the rest.
        arguments: more of vLLM's engine arguments.

    Raises:
        CheckpointError: not a VITA-1.5 checkpoint, or one that vLLM cannot serve.
        RequestError: an argument that vLLM does not have. ResourceError: vLLM cannot start.
    """

    def __init__(self, folder: str, options: EngineOptions, arguments: Mapping[str, object]) -> None:
        self._opened = opened = opened_model(folder)
        self._max_queue, self._lock, self._numbers = options.max_queue, threading.Lock(), itertools.count(1)
        self._requests: set[VllmRequest] = set()
        self._closed = False
        self._workers = MediaWorkers()
        self._read_turn: ReadTurn | None = None
        self._statistics = Statistics()
        self._loop = asyncio.new_event_loop()
        # vLLM's client belongs to the loop that it is made in.
        self._thread = threading.Thread(target=self._loop.run_forever, name="vita-vllm", daemon=True)
        self._thread.start()
        try:
            self._llm = self._in_loop(start_vllm(folder, options, arguments, self._statistics)).result()
        except BaseException:
            self._stop_loop()
            raise
        config = opened.checkpoint.config
        config = replace(config, max_length=min(int(self._llm.model_config.max_model_len), config.context))
        self.processor = Processor(config, opened.tokenizer)
        self.model = ServedCheckpoint(opened.checkpoint, config, opened.tokenizer, opened.stop_ids)
        self._max_running = int(self._llm.vllm_config.scheduler_config.max_num_seqs)

    @property
    def is_healthy(self) -> bool:
        """Whether requests are taken."""
        return not self._closed and not self._llm.errored

    def read_turn_with(self, reader: ReadTurn | None) -> None:
        """See `vita.engine.engine.Engine.read_turn_with`."""
        self._read_turn = reader

    def submit(
        self, messages: Sequence[Message], params: SamplingParams | None = None, options: MediaOptions | None = None,
        *, priority: int = 0, deadline: float | None = None, cache_salt: str = "",
    ) -> Handle:  # fmt: skip
        """Queue a request; arguments, events and errors as those of `vita.engine.engine.Engine.submit`."""
        options = MediaOptions() if options is None else options
        params = SamplingParams() if params is None else params
        check_params(params)
        check_tokens(params, self._opened.tokenizer.size)
        check_submission(priority, deadline, cache_salt)
        system, turns = accept_messages(messages, options, self.processor, self.model.checkpoint)
        request = VllmRequest(params, priority, cache_salt, self._opened, self._loop)
        with self._lock:
            self._check_open()
            self._requests.add(request)
            self._statistics.submitted += 1
        if deadline is not None:
            self._tell(self._set_deadline, request, deadline)

        def read() -> None:
            self._read(request, system, turns, options)

        if is_short(turns):
            read()
        else:
            self._workers.submit(read, has_media=any(has_media(turn) for turn in turns))

        def cancel() -> None:
            request.cancelled = True
            self._tell(self._cancel, request)

        return Handle(request.events, cancel, params.n, owner=self, usage=request.usage_so_far)

    def _check_open(self) -> None:
        """Refuse a request if it cannot be taken; under the lock."""
        if self._closed:
            raise ResourceError("the engine is closed", fix="load the model again")
        if self._llm.errored:
            raise _ended()
        if len(self._requests) >= self._max_queue + self._max_running:
            self._statistics.refused += 1
            raise QueueFull(f"{len(self._requests)} requests are waiting or running", fix="try again later")

    def _read(self, request: VllmRequest, system: str | None, turns: Sequence[Message], options: MediaOptions) -> None:
        """In a media worker: make the prompt, and tell the loop."""
        guard = ReadGuard.start(options.policy.deadline, lambda: request.cancelled or request.ended)
        try:
            guard.check("the request")
            read_turn = self._read_turn or self.processor.read_turn
            prepared = [read_turn(turn, options, request.watch, guard) for turn in turns]
            request.set_prompt(self.processor.assemble(prepared, system, request.watch), prepared)
        except Cancelled:
            self._tell(self._cancel, request)
        except BaseException as error:
            self._tell(self._fail, request, error)
        else:
            self._tell(self._begin, request)

    def _tell(self, function: Callable[..., None], *arguments: object) -> None:
        """Call a function in the event loop soon. Once the engine is closed every request has ended."""
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(function, *arguments)

    # In the event loop

    def _set_deadline(self, request: VllmRequest, seconds: float) -> None:
        if not request.ended:
            request.deadline = self._loop.call_later(seconds, self._cancel, request)

    def _begin(self, request: VllmRequest) -> None:
        """Its prompt is made: ask vLLM for each of its answers."""
        if request.ended:
            return
        for answer in request.answers:
            task = self._loop.create_task(self._answer(request, answer))
            task.add_done_callback(partial(self._answer_ended, request, answer))
            request.tasks.append(task)

    async def _answer(self, request: VllmRequest, answer: Answer) -> FinishReason:
        """Give out what vLLM answers; returns why it ended."""
        assert request.inputs is not None
        most = self.model.config.context - request.inputs.length
        params = vllm_params(request.params, self._opened, most, answer.index)
        [rendered] = await self._llm.renderer.render_cmpl_async([request.prompt])
        name = f"vita-{next(self._numbers)}"
        outputs = self._llm.generate(rendered, params, name, priority=request.priority)
        reason: FinishReason | None = None
        async with aclosing(outputs):  # leaving it early aborts the request in vLLM
            async for output in outputs:
                reason = request.take(answer, output)
                if reason is not None and not output.finished:
                    break  # a stop sequence, which vLLM does not know
                if reason is None and not await request.wait_until_read():
                    break
        return reason or "cancelled"

    def _answer_ended(self, request: VllmRequest, answer: Answer, task: asyncio.Task[FinishReason]) -> None:
        """In a callback, since a task that is cancelled before its first step runs nothing of its own."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(request, _as_vita_error(error))
            return
        reason = "cancelled" if task.cancelled() else task.result()
        if request.finish(answer, reason, self.model.config.context):
            self._leave(request, reason)

    def _cancel(self, request: VllmRequest) -> None:
        """Stop it; what it has said so far stays."""
        request.cancelled = True
        if request.ended:
            return
        for task in request.tasks:
            task.cancel()
        if not request.tasks:  # its media are being read
            for answer in request.answers:
                request.finish(answer, "cancelled", self.model.config.context)
            self._leave(request, "cancelled")

    def _fail(self, request: VllmRequest, error: BaseException) -> None:
        if request.fail(error):
            for task in request.tasks:
                task.cancel()
            self._leave(request, None)

    def _leave(self, request: VllmRequest, reason: FinishReason | None) -> None:
        """A request has ended, with an error if there is no reason."""
        if request.deadline is not None:
            request.deadline.cancel()
        self._statistics.ended(request.usage_so_far(), request.watch.first_token, reason)
        request.prompt = {}  # a handle that is kept must not hold media
        with self._lock:
            self._requests.discard(request)

    # From other threads

    def stats(self) -> Stats:
        """Counts since the start, and what vLLM said of its queues and its KV cache after its last step."""
        with self._lock:
            reading = sum(not request.tasks for request in self._requests)
        return self._statistics.collect(reading=reading, healthy=self.is_healthy)

    def close(self) -> None:
        """End every request as cancelled, vLLM's process and the thread. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._workers.close()
        with contextlib.suppress(FutureTimeout):
            self._in_loop(self._cancel_all()).result(CLOSE_SECONDS)
            self._in_loop(self._end_tasks()).result(CLOSE_SECONDS)  # vLLM's, which would log the end of its process
        self._llm.shutdown(timeout=CLOSE_SECONDS)
        self._llm = None  # its destructor would run when the interpreter is half gone
        self._stop_loop()

    async def _cancel_all(self) -> None:
        requests = list(self._requests)
        for request in requests:
            self._cancel(request)
        await asyncio.gather(*(task for request in requests for task in request.tasks), return_exceptions=True)

    def _in_loop(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _end_tasks(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _stop_loop(self) -> None:
        with contextlib.suppress(FutureTimeout):
            self._in_loop(self._end_tasks()).result(CLOSE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_SECONDS)  # a start that is interrupted may hang; the thread is a daemon
        if not self._thread.is_alive():
            self._loop.close()


def _ended() -> ResourceError:
    return ResourceError("the vLLM engine has ended", fix="start the server again; its log says why")


def _as_vita_error(error: BaseException) -> VitaError:
    """An error of vLLM as one of this package's."""
    if isinstance(error, VitaError):
        return error
    if isinstance(error, GracefulHTTPError):
        return QueueFull("vLLM takes no more requests", fix="try again later")
    if isinstance(error, (VLLMClientError, ValueError)):
        return RequestError(str(error).rstrip("."))
    if isinstance(error, EngineDeadError):
        return _ended()
    log.error("vLLM failed in a request", exc_info=error)
    return ResourceError("vLLM failed in this request", fix="the server's log says more")
