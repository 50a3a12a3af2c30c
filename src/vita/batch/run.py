"""Run a batch: keep the engine's scheduler busy, write each result when it is complete."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vita.batch.items import Asked, Item
from vita.batch.output import Results, encode_line
from vita.errors import QueueFull, RequestError, VitaError
from vita.events import Result
from vita.serve.chat_objects import completion_object
from vita.serve.errors import JSON, PARAMETERS, SERVER, ApiError, as_api_error
from vita.serve.model_names import model_id
from vita.types import MediaOptions

if TYPE_CHECKING:
    from vita.api import Vita
    from vita.engine.handle import Handle

log = logging.getLogger("vita.batch")
MAX_CONCURRENCY = 128
HELD = 8  # complete results that may wait for an earlier one, times `concurrency`
QUEUE_SECONDS = 0.05  # between two tries while the engine's queue is full
BREATH = 256  # items that are passed over before the event loop gets to run


@dataclass
class Counts:
    """How far a batch is.

    Attributes:
        before: results of earlier runs that this input asks for.
        answered, failed: results of this run, complete.
        on_disk: results of this run that are synced.
    """

    before: int = 0
    answered: int = 0
    failed: int = 0
    on_disk: int = 0


class Interrupted(Exception):
    """A signal ended the batch. What was complete is on disk.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


class Batch:
    """One run over an input.

    Args:
        model: loaded.
        items: of one shard, with their keys.
        results: open.
        concurrency: requests in progress, 1 to 128.
        ordered: write results in the order of the input, not as they are complete.
        report: called with the counts after each change.

    Raises:
        RequestError: `concurrency` is out of range.
    """

    def __init__(
        self, model: Vita, items: Iterator[tuple[str, Item]], results: Results, *, concurrency: int = 16,
        ordered: bool = False, report: Callable[[Counts], None] = lambda counts: None,
    ) -> None:  # fmt: skip
        check_concurrency(concurrency)
        self._model, self._items, self._results = model, items, results
        self._concurrency, self._ordered, self._report = concurrency, ordered, report
        self._name, self._options = model_id(model), MediaOptions()
        self._handles: set[Handle] = set()
        self._signal: int | None = None
        self._position = 0  # of the next item that is asked
        self._held: dict[int, tuple[bytes, bool]] = {}  # results by position, before those of earlier items
        self._next = 0  # position of the next result, if they are ordered
        self.counts = Counts()

    def run(self) -> Counts:
        """Answer everything that has no result yet.

        Raises:
            Interrupted: a signal came. ResourceError: the disk is full, or the engine has failed. In both cases the
            results that were complete are in the file.
        """
        asyncio.run(self._run())
        if self._signal is not None:
            raise Interrupted(self._signal)
        return self.counts

    async def _run(self) -> None:
        active: set[asyncio.Task[tuple[int, bytes, bool] | None]] = set()
        with self._stopped_by_signals():
            try:
                while await self._fill(active) or active:
                    done, active = await asyncio.wait(active, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        self._take(task.result())
                    self._sync(final=False)
            finally:
                for handle in self._handles:
                    handle.cancel()
                for task in active:
                    task.cancel()
                await asyncio.gather(*active, return_exceptions=True)
        self._sync(final=True)

    async def _fill(self, active: set[asyncio.Task[tuple[int, bytes, bool] | None]]) -> bool:
        """Start requests until enough are in progress; whether there is anything to wait for."""
        passed = 0
        held = HELD * self._concurrency
        while self._signal is None and len(active) < self._concurrency and len(self._held) + len(active) < held:
            found = next(self._items, None)
            if found is None:
                break
            key, item = found
            passed += 1
            if key in self._results.done:
                self._results.done.remove(key)  # comes once: its memory is free
                self.counts.before += 1
            else:
                active.add(asyncio.create_task(self._answer(self._position, key, item)))
                self._position += 1
            if passed % BREATH == 0:
                self._report(self.counts)
                await asyncio.sleep(0)
        return bool(active)

    async def _answer(self, position: int, key: str, item: Item) -> tuple[int, bytes, bool] | None:
        """Position, line and failure of one request; None if it was cancelled.

        Raises:
            VitaError: the engine has failed, so that no other request would succeed.
        """
        asked = Asked(None)
        try:
            asked = item.read(self._model)
            if asked.error is not None:
                raise asked.error
            body = await self._ask(key, asked)
        except (VitaError, ApiError) as error:
            if not self._model.engine.is_healthy:
                raise
            return position, _failure(key, asked.custom_id, _explain(error)), True
        except Exception as error:  # one request must not end all others
            log.exception("a fault of ours in %s, please report it", key)
            what = f"this is a bug of ours: {type(error).__name__}: {error}"
            fault = ApiError(500, what, SERVER, code="internal_error")
            return position, _failure(key, asked.custom_id, fault), True
        return None if body is None else (position, _line(key, asked.custom_id, 200, body, None), False)

    async def _ask(self, key: str, asked: Asked) -> dict[str, JSON] | None:
        handle = await self._submit(asked)
        if handle is None:
            return None
        self._handles.add(handle)
        try:
            events = [event async for event in handle]
        finally:
            self._handles.discard(handle)
        results = [Result.collect(events, index) for index in range(asked.params.n)]
        if any(result.finish_reason == "cancelled" for result in results):
            return None
        return completion_object(
            results, self._model.engine.model, id=key.replace("batch_req_", "chatcmpl-"), created=int(time.time()),
            name=self._name, top_logprobs=asked.top_logprobs,
        )  # fmt: skip

    async def _submit(self, asked: Asked) -> Handle | None:
        """Queue a request, once there is space for it; None if the batch was stopped."""
        while self._signal is None:
            try:
                return self._model.submit(asked.messages, asked.params, options=self._options)
            except QueueFull:
                await asyncio.sleep(QUEUE_SECONDS)
        return None

    def _take(self, found: tuple[int, bytes, bool] | None) -> None:
        """Write a result, or keep it until the earlier ones are written."""
        if found is None:
            return
        position, line, failed = found
        if not self._ordered:
            self._write(line, failed)
            return
        self._held[position] = (line, failed)
        while self._next in self._held:
            self._write(*self._held.pop(self._next))
            self._next += 1

    def _write(self, line: bytes, failed: bool) -> None:
        self._results.append(line)
        if failed:
            self.counts.failed += 1
        else:
            self.counts.answered += 1

    def _sync(self, *, final: bool) -> None:
        if final:
            self._results.sync()
        else:
            self._results.sync_if_due()
        self.counts.on_disk = self._results.synced
        self._report(self.counts)

    @contextlib.contextmanager
    def _stopped_by_signals(self) -> Iterator[None]:
        """Within the block, the first SIGINT or SIGTERM ends the batch in order; a second one ends it at once."""
        loop = asyncio.get_running_loop()
        numbers: list[signal.Signals] = []

        def stop(number: signal.Signals) -> None:
            self._signal = number
            for handle in self._handles:
                handle.cancel()
            for one in numbers:
                loop.remove_signal_handler(one)

        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) == signal.SIG_IGN:  # as by nohup
                continue
            with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):  # Windows, or not the main thread
                loop.add_signal_handler(number, stop, number)
                numbers.append(number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)


def check_concurrency(count: int) -> None:
    """Refuse a number of requests that the engine's queue cannot take.

    Raises:
        RequestError: not 1 to 128.
    """
    if not 1 <= count <= MAX_CONCURRENCY:
        raise RequestError(f"must be 1 to {MAX_CONCURRENCY}, not {count}", where="concurrency")


def _explain(error: VitaError | ApiError) -> ApiError:
    """What a line says about an error: a server hides what its machine lacks, a batch does not."""
    found = as_api_error(error)
    if isinstance(error, VitaError):
        found.message = error.sentence(PARAMETERS)
    return found


def _failure(key: str, custom_id: str | None, error: ApiError) -> bytes:
    reason: dict[str, JSON] = {"code": error.code or error.type, "message": error.message}
    return _line(key, custom_id, error.status, error.body(), reason)


def _line(key: str, custom_id: str | None, status: int, body: dict[str, JSON], error: dict[str, JSON] | None) -> bytes:
    response: dict[str, JSON] = {"status_code": status, "request_id": key.replace("batch_req_", "req_"), "body": body}
    return encode_line({"id": key, "custom_id": custom_id, "response": response, "error": error})
