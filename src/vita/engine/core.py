"""Engine core: the loop of the engine thread, the only thread that calls torch.

messages → scheduler.plan → runner.launch → commit → events of the handles
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import torch

from vita.checkpoint.load import Progress
from vita.checkpoint.open import Checkpoint
from vita.engine.answers import choose_draft, done_of_answer, done_of_request, start_answers, token_logprob
from vita.engine.core_share import CoreShare
from vita.engine.decode import MAX_BATCH, choose_decode_runner, step_bytes
from vita.engine.encoder_cache import EncoderCache
from vita.engine.inbox import Inbox
from vita.engine.kv_pool import MEMORY_ERRORS, KVPool
from vita.engine.loaded import LoadedModel
from vita.engine.metrics import Counters, Stats, collect_stats
from vita.engine.request import Phase, Request, Sequence, Token
from vita.engine.runner import DeviceError, Runner
from vita.engine.sampled import Launched
from vita.engine.scheduler import FIRST_POSITIONS, Limits, Plan, Scheduler, WorkUnit
from vita.errors import Cancelled, ResourceError
from vita.events import FinishReason, Started
from vita.model.kv_cache import KVCache
from vita.options import EngineOptions
from vita.planning.memory_plan import prefill_chunk, tile_batch
from vita.prompt.processor import Processor

log = logging.getLogger("vita")
GPU_WORK_SECONDS = 0.015  # of encoders and prefill between two decode steps


class EngineCore:
    """What the engine thread owns.

    Args:
        options: see `EngineOptions`.
        start_job: starts the reading of a prompt that waited for the end of a request.
        share: of the media workers.

    Attributes:
        inbox: messages from other threads.
        open: requests that have not ended; guarded by `lock`.
        failure: what ended loading, or the device; None while all is well.
        closed: set once; the thread ends.
    """

    model: LoadedModel
    processor: Processor
    pool: KVPool
    encoder_cache: EncoderCache
    runner: Runner
    scheduler: Scheduler

    def __init__(
        self, options: EngineOptions, start_job: Callable[[Callable[[], None]], None], share: CoreShare | None = None
    ) -> None:
        self.options, self.start_job, self._share = options, start_job, share
        self.inbox, self.counters = Inbox(), Counters()
        self.lock = threading.RLock()  # a finalizer may run while its thread holds it
        self.open, self.closed = 0, False
        self.failure: BaseException | None = None
        self.loaded = threading.Event()
        self._pending: Launched | None = None
        self._read_at = 0.0  # when a step was last read back, by the runner's clock

    def run(self, checkpoint: Checkpoint, progress: Progress | None) -> None:
        """The engine thread: load, then serve until closed."""
        with torch.inference_mode():
            try:
                self._load(checkpoint, progress)
            except BaseException as error:  # raised again by the caller of `load`
                self.failure, self.closed = error, True
                return
            finally:
                self.loaded.set()
            while not self.closed:
                self._guarded_step()
            with self.lock:  # requests are posted under the lock, none after `closed` was set
                messages = list(self.inbox.drain())
            for message in messages:
                message()
            self._end_all(Cancelled())

    def _load(self, checkpoint: Checkpoint, progress: Progress | None) -> None:
        def report(part: str, done: int, total: int) -> None:
            if self.closed and not self.loaded.is_set():  # the caller of `load` gave up
                raise Cancelled
            if progress is not None:
                progress(part, done, total)

        if self.options.threads is not None:
            torch.set_num_threads(self.options.threads)
        self.model = model = LoadedModel(checkpoint, self.options, report)
        self.processor = Processor(model.config, model.tokenizer)
        decode = choose_decode_runner(model.decoder, quantized_kv_cache=model.quantized_kv_cache)
        model.weight_bytes = step_bytes(decode, model.decoder)
        threads = torch.get_num_threads() if model.device.type == "cpu" else 1
        self.encoder_cache = EncoderCache()
        self.runner = Runner(
            model, decode, self.encoder_cache, threads, share=self._share, disturbed=lambda: self.inbox.changed
        )
        if self.runner.cores_are_busy():
            self.runner.start_with_one_thread()
        position = KVCache.bytes_per_position(model.config.decoder, model.dtype, quantized=model.quantized_kv_cache)
        self.pool = KVPool(model.memory_plan.kv_budget, self._allocate, position)
        limits = Limits(
            max_batch=MAX_BATCH,
            prefill_chunk=prefill_chunk(model.device),
            tile_batch=tile_batch(model.device),
            context=model.config.context,
            work_seconds=GPU_WORK_SECONDS if self.runner.is_async else None,
            exclusive_encoders=model.residency.limited,
            reasons=model.tokenizer.reasoning is not None,
        )
        self.scheduler = Scheduler(limits, self.pool, self._admit, self.runner.known)

    def _allocate(self, capacity: int) -> KVCache:
        model = self.model
        return KVCache(
            model.config.decoder, capacity, dtype=model.dtype, device=model.device, quantized=model.quantized_kv_cache
        )

    def _guarded_step(self) -> None:
        try:
            self._step()
        except DeviceError as error:
            log.error("the device has failed; no request is taken any more: %s", error)
            self._break(ResourceError(f"the device has failed ({error})", fix="load the model again"))
        except Exception as error:
            log.exception("the engine has failed; no request is taken any more")
            self._break(error)

    def _break(self, error: Exception) -> None:
        """The engine is unhealthy: every request ends with the error."""
        with self.lock:
            self.failure = error
        self._pending = None
        self._end_all(error)

    def _step(self) -> None:
        """One turn of the loop."""
        self._take_messages()
        plan = self.scheduler.plan()
        if plan.empty and self._pending is None:
            self.inbox.wait(self.scheduler.next_deadline())
            return
        launched = None if plan.empty else self._launch(plan)
        if self.runner.is_async:  # read back one step late
            launched, self._pending = self._pending, launched
        if launched is not None:
            self._commit(launched)

    def _take_messages(self) -> None:
        """What other threads asked for, and what has expired. In a function of its own: a variable of `_step` would
        hold on to the last message, and by it to an engine that was dropped, while the thread waits."""
        for message in self.inbox.drain():
            message()
        for request in self.scheduler.expired():
            self.end_request(request, "cancelled")

    def _launch(self, plan: Plan) -> Launched:
        """Compute or queue a step. A prompt that it completes has its first tokens sampled at once, so that its
        sequences take part in the next step."""
        launched = self.runner.launch(plan)
        if launched.seconds:
            self.scheduler.stepped(launched.seconds)
        if launched.unit_error is not None:
            self._unit_failed(*launched.unit_error)
        if launched.finished is not None:
            for request in self.scheduler.unit_finished(launched.finished):
                self._start(request, launched)
        return launched

    def _commit(self, launched: Launched) -> None:
        """Read what a step sampled, and hand it to the sequences."""
        for answer, error in launched.failed:
            self.fail(answer.request, error)
        for sampled in launched.sampled:
            tokens = sampled.tokens(self.runner.raise_fatal)  # waits for the device
            now = self.runner.clock()
            seconds = launched.seconds or now - max(launched.started, self._read_at)
            for answer, token in tokens:
                if isinstance(token, Exception):
                    self.fail(answer.request, token)
                    continue
                if sampled.first:
                    self._mark_first(answer.request)
                else:
                    answer.decode_seconds += seconds
                self._accept(answer, token)
        self._read_at = self.runner.clock()

    def _mark_first(self, request: Request) -> None:
        if not request.watch.first_token:
            request.watch.mark_first_token()
            self.counters.first_token.append(request.watch.first_token)

    def _unit_failed(self, unit: WorkUnit, error: Exception) -> None:
        """The request of a unit fails; those of a shared unit are computed again, each alone."""
        self.scheduler.unit = None
        for request in unit.requests:
            if len(unit.requests) == 1:
                self.fail(request, error)
            request.alone = True
            if request.cache is not None:  # the unit may have advanced it before it failed
                request.cache.reset(request.reused + request.done_rows)

    # Messages of the engine's front

    def submit(self, request: Request) -> None:
        """A request whose media a worker reads."""
        self.counters.submitted += 1
        self.scheduler.submit(request)

    def ready(self, request: Request) -> None:
        """Its media are read."""
        try:
            self.scheduler.ready(request)
        except ResourceError as error:
            self.fail(request, error)

    def unpin(self, session: int) -> None:
        """A session has ended: neither what it left in the cache nor what still runs is pinned."""
        for request in self.scheduler.requests():
            if request.session == session:
                request.session = None
        self.pool.prefixes.unpin(session)

    def stats(self) -> Stats:
        """Counts and latencies, as of now."""
        return collect_stats(
            self.counters, self.scheduler, self.pool, self.encoder_cache, self.runner, healthy=self.failure is None
        )

    # From admission to the end

    def _admit(self, request: Request) -> bool:
        """Reserve memory for a request and find its prefix. One for which the system has no memory fails alone."""
        answers = request.params.n
        try:
            found = self.pool.acquire(request.atoms, request.capacity, request.salt, answers, request.session)
        except MEMORY_ERRORS as error:
            self.runner.raise_fatal(error)
            self.fail(request, error)
            return False
        if found is None:
            return False
        request.reserved = self.pool.bytes_for(request.capacity) * (answers - 1)
        request.cache, _ = found
        request.reused = request.cache.length
        request.draft = choose_draft(request, self.scheduler.limits.prefill_chunk, is_async=self.runner.is_async)
        return True

    def _start(self, request: Request, launched: Launched) -> None:
        """A prompt is prefilled: sample the first token of each of its answers."""
        try:
            sampled = start_answers(request, launched.logits[id(request)], self.model, self.pool, self.runner)
        except Exception as error:
            self.runner.raise_fatal(error)
            self.fail(request, error)
            return
        launched.sampled += sampled
        self.scheduler.start(request)

    def _accept(self, answer: Sequence, token: Token) -> None:
        """One more token of a sequence. An error in its text ends its request alone."""
        try:
            self._take_token(answer, token)
        except Exception as error:
            log.exception("a sequence has failed")
            self.fail(answer.request, error)

    def _take_token(self, answer: Sequence, token: Token) -> None:
        answer.in_flight -= 1
        if answer.reason is not None:  # it ended while this step was in flight
            self._release(answer)
            return
        request, text, now = answer.request, answer.text, self.runner.clock()
        if answer.told_at is not None:
            self.counters.inter_token.append(now - answer.told_at)
        answer.tokens.append(token)
        pieces = text.push(token.id)
        if token.logprob is not None and not pieces.hidden:
            answer.logprobs.append(token_logprob(token, self.model.tokenizer))
        if len(answer.tokens) == 1:
            request.events.put(Started(text.state, answer.index))
        answer.say(pieces)
        answer.told_at = None if request.events.full else now
        if text.stopped or (token.id in self.model.stop_ids and not request.params.ignore_eos):
            self._end_answer(answer, "stop")
        elif (
            answer.visible >= request.limit
            or len(answer.tokens) >= request.most
            or (answer.cache.length >= answer.cache.capacity and not answer.in_flight and not self._grow(answer))
        ):
            self._end_answer(answer, "length")

    def _grow(self, answer: Sequence) -> bool:
        """More positions for an answer without a limit; False if there are none."""
        capacity = min(answer.cache.capacity + FIRST_POSITIONS, self.model.config.context)
        grown = None if capacity <= answer.cache.capacity else self.pool.grow(answer.cache, capacity)
        if grown is not None:
            answer.slab = grown
        return grown is not None

    def _end_answer(self, answer: Sequence, reason: FinishReason) -> None:
        answer.reason = reason
        request = answer.request
        answer.say(answer.text.flush())
        self.scheduler.stop(answer)
        self._release(answer)
        done = done_of_answer(answer, reason, self.model)
        if all(other.reason is not None for other in request.sequences):
            self.counters.count_end(request, reason)
            self._leave(request)  # before `Done`: who reads it finds the session's history complete
        request.events.put(done)

    def _release(self, answer: Sequence) -> None:
        """The slab of an ended sequence becomes idle: prompt and the tokens that were fed, however it ended."""
        if answer.in_flight or (slab := answer.take_slab()) is None:
            return
        request = answer.request
        atoms = (*request.atoms, *(token.id for token in answer.tokens))
        self.pool.release(slab, atoms, request.salt, request.session)

    def _leave(self, request: Request) -> None:
        """A request has ended: it leaves every queue."""
        self.scheduler.end(request)
        if self.scheduler.unit is None:
            self.runner.drop_unit()
        self.pool.unreserve(request.reserved)
        request.reserved = 0
        if request.on_end is not None:
            try:
                request.on_end(request)
            except Exception:  # the reader still gets its end, and the engine goes on
                log.exception("the end of a request could not be reported to its session")
        request.used = request.usage_so_far()
        # A handle that is kept must hold neither KV slabs nor media, nor its session.
        request.embeds, request.features, request.spans, request.sequences = None, {}, [], []
        request.inputs, request.on_end = None, None
        with self.lock:
            self.open -= 1
            request.ended = True
            jobs, request.then = request.then, []
        for job in jobs:
            self.start_job(job)

    def end_request(self, request: Request, reason: FinishReason) -> None:
        """End a request in whatever phase."""
        if request.phase is Phase.FINISHED:
            return
        if request.sequences:
            for answer in request.sequences:
                if answer.reason is None:
                    self._end_answer(answer, reason)
            return
        if request.cache is not None:
            if self.scheduler.shares_unit(request):
                self.pool.drop(request.cache)
            else:
                self.pool.release(request.cache, request.atoms, request.salt, request.session)
            request.cache = None
        self.counters.count_end(request, reason)
        events = [done_of_request(request, reason, index, self.model) for index in range(request.params.n)]
        self._leave(request)
        for done in events:
            request.events.put(done)

    def fail(self, request: Request, error: BaseException) -> None:
        """A request ends with an error, which its reader raises."""
        if request.phase is Phase.FINISHED:
            return
        self.counters.failed += 1
        request.error = error
        for answer in request.sequences:
            answer.reason = answer.reason or "cancelled"
            if (slab := answer.take_slab()) is not None:
                self.pool.drop(slab)
        if request.cache is not None:
            self.pool.drop(request.cache)
            request.cache = None
        self._leave(request)
        request.events.put(error)

    def _end_all(self, error: BaseException) -> None:
        """Every request ends: as cancelled for `Cancelled`, else with the error. Background work ends with it."""
        self.scheduler.background.end(error)
        for request in self.scheduler.requests():
            if isinstance(error, Cancelled):
                self.end_request(request, "cancelled")
            else:
                self.fail(request, error)
