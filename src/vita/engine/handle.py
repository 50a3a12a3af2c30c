"""Handle: what `submit` returns. A bounded queue of events with one reader, a thread or an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from vita.errors import RequestError
from vita.events import Done, Event, ReasoningDelta, Result, Started, TextDelta, Usage
from vita.runtime.clock import Clock

if TYPE_CHECKING:
    from vita.engine.request import Request

MAX_EVENTS = 256  # unread events; a sequence pauses while its queue is full
POLL_SECONDS = 0.05  # how often a reader asks its `cancelled` callable
Item = Event | BaseException  # an error is what the reader raises


class EventQueue:
    """Events from the engine thread to one reader.

    The engine thread never blocks on it: it asks `full` before it computes for the reader, and `put` always succeeds.

    Args:
        wake: called when the reader has taken an event from a full queue, so that the engine goes on.
        clock: seconds, monotonic.
    """

    def __init__(self, wake: Callable[[], None], clock: Clock = time.monotonic, max_events: int = MAX_EVENTS) -> None:
        self._wake, self._clock, self._max = wake, clock, max_events
        self._events: deque[Item] = deque()
        self._changed = threading.Condition()
        self._notify: Callable[[Item], None] | None = None  # of a reader in an event loop
        self._last_read = clock()

    @property
    def full(self) -> bool:
        """Whether the reader is so far behind that its sequences pause."""
        return len(self._events) >= self._max

    def unread_for(self) -> float:
        """Seconds that a full queue has waited for its reader; 0 if it is not full."""
        return self._clock() - self._last_read if self.full else 0.0

    def put(self, event: Item) -> None:
        """Add an event, or the error that the reader raises."""
        with self._changed:
            if not self.full:
                self._last_read = max(self._last_read, self._clock())
            self._events.append(event)
            self._changed.notify_all()
            notify = self._notify
        if notify is not None:
            notify(event)

    def get(self, timeout: float | None = None) -> Item | None:
        """The next event; None if none came within `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._events), timeout)
            return self._take()

    def _take(self) -> Item | None:
        if not self._events:
            return None
        was_full = self.full
        event = self._events.popleft()
        self._last_read = self._clock()
        if was_full:
            self._wake()
        return event

    async def aget(self) -> Item:
        """The next event, for a reader in an event loop."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def notify(_: Item) -> None:
            wake(loop, arrived)

        while True:
            with self._changed:
                event = self._take()
                self._notify = None if event is not None else notify
            if event is not None:
                return event
            await arrived.wait()
            arrived.clear()

    async def aget_all(self, not_before: float) -> list[Item]:
        """All unread events, at least one, for a reader in an event loop.

        Args:
            not_before: time of `time.monotonic`; until then deltas wait, and do not wake the event loop.
        """
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def notify(event: Item) -> None:
            if not (_is_delta(event) and time.monotonic() < not_before):
                wake(loop, arrived)

        while True:
            with self._changed:
                early = not_before - time.monotonic()
                taken: list[Item] = []
                if early <= 0 or not all(map(_is_delta, self._events)):
                    while (event := self._take()) is not None:
                        taken.append(event)
                self._notify = None if taken else notify
            if taken:
                return taken
            timer = loop.call_later(early, arrived.set) if early > 0 else None
            await arrived.wait()
            arrived.clear()
            if timer is not None:
                timer.cancel()


def wake(loop: asyncio.AbstractEventLoop, arrived: asyncio.Event) -> None:
    """Set an event of an event loop from another thread."""
    with contextlib.suppress(RuntimeError):  # the loop is closed; its reader is gone
        loop.call_soon_threadsafe(arrived.set)


def _is_delta(event: Item) -> bool:
    return isinstance(event, (TextDelta, ReasoningDelta))


class Handle:
    """A submitted request: its events, its result, and cancelling it.

    One reader, a thread or an event loop, takes the events; `cancel` may be called from anywhere. A handle that is
    dropped is cancelled.

    Args:
        events: filled by the engine.
        cancel: tells the engine to stop.
        count: answers of the request (`SamplingParams.n`), each of which ends with `Done`.
        owner: the engine, which lives as long as the handle is read.
        request: what the engine knows of it; a session waits for its end.
        usage: what it has used so far; called from any thread.
    """

    def __init__(
        self, events: EventQueue, cancel: Callable[[], None], count: int = 1, owner: object = None,
        request: Request | None = None, usage: Callable[[], Usage] = Usage,
    ) -> None:  # fmt: skip
        self.request, self._usage = request, usage
        self._events, self._cancel, self._count, self._owner = events, cancel, count, owner
        self._open = count  # answers without `Done`
        self._first: Started | Done | None = None
        self._error: BaseException | None = None  # that the request failed with
        self._results: list[Result] = []  # empty until all events were read by one of the functions for it
        self._taken: deque[Event] = deque()  # taken by `started`, not yet handed out
        self._finalizer = weakref.finalize(self, cancel)
        self._finalizer.atexit = False

    def cancel(self) -> None:
        """Stop; the answers so far end with `Done(finish_reason="cancelled")`. Nothing happens after the end."""
        self._cancel()

    def usage_so_far(self) -> Usage:
        """What the request has used, all its answers together. The engine goes on counting until the request ends."""
        return self._usage()

    def __iter__(self) -> Iterator[Event]:
        return self.iterate()

    def iterate(self, cancelled: Callable[[], bool] | None = None) -> Iterator[Event]:
        """Events until every answer is done; leaving the loop early cancels.

        Args:
            cancelled: asked every 50 ms; once true, the request is cancelled.

        Raises:
            VitaError: what went wrong with the request.
        """
        if self._error is not None:
            raise self._error
        if cancelled is not None and not callable(cancelled):
            raise RequestError(f"must be a function, not {type(cancelled).__name__}", where="cancelled")
        try:
            while self._open or self._taken:
                if self._taken:
                    yield self._taken.popleft()
                    continue
                if cancelled is not None and cancelled():
                    self._cancel()
                    cancelled = None
                item = self._events.get(None if cancelled is None else POLL_SECONDS)
                if item is not None:
                    yield self._opened(item)
        finally:
            if self._open:
                self._cancel()

    def _opened(self, item: Event | BaseException) -> Event:
        if isinstance(item, BaseException):
            self._error = item
            self._end()
            raise item
        if self._first is None and isinstance(item, (Started, Done)):
            self._first = item
        if isinstance(item, Done):
            self._open -= 1
            if not self._open:
                self._end()
        return item

    def _end(self) -> None:
        self._open, self._owner = 0, None
        self._finalizer.detach()

    async def __aiter__(self) -> AsyncIterator[Event]:
        if self._error is not None:
            raise self._error
        try:
            while self._open or self._taken:
                yield self._taken.popleft() if self._taken else self._opened(await self._events.aget())
        finally:
            if self._open:
                self._cancel()

    async def coalesced(self, seconds: float) -> AsyncIterator[Event]:
        """Events as iteration gives them out, but deltas that come within `seconds` of the last one are joined.

        The first delta and every other event are given out at once. A fast model then costs the reader and its network
        a fraction of the events.
        """
        if self._error is not None:
            raise self._error
        not_before = 0.0
        try:
            while self._open or self._taken:
                if self._taken:
                    yield self._taken.popleft()
                    continue
                items = await self._events.aget_all(not_before)
                if any(map(_is_delta, items)):
                    not_before = time.monotonic() + seconds
                for item in joined(items):
                    yield self._opened(item)
        finally:
            if self._open:
                self._cancel()

    async def started(self) -> Started | Done:
        """Wait until the first token is known; media and length errors are raised here.

        Returns:
            `Started`, or `Done` if the request was cancelled before. Iteration gives that event out, too. A second call
            returns the same.

        Raises:
            VitaError: what went wrong with the request.
        """
        while self._first is None:
            if self._error is not None:
                raise self._error
            self._taken.append(self._opened(await self._events.aget()))
        return self._first

    def result(self, cancelled: Callable[[], bool] | None = None) -> Result:
        """The whole first answer; blocks until it is done. A second call returns the same.

        Events that were read by iteration before are not in it.

        Raises:
            RequestError: all were read by iteration. Otherwise as iteration.
        """
        return self._read_all(cancelled)[0]

    def results(self) -> list[Result]:
        """All answers, in the order of their index; otherwise as `result`."""
        return list(self._read_all())

    async def aresult(self) -> Result:
        """`result` for asyncio."""
        self._check_unread()
        if not self._results:
            self._results = self._collect([event async for event in self])
        return self._results[0]

    def _read_all(self, cancelled: Callable[[], bool] | None = None) -> list[Result]:
        self._check_unread()
        if not self._results:
            self._results = self._collect(self.iterate(cancelled))
        return self._results

    def _check_unread(self) -> None:
        if self._error is not None:
            raise self._error
        if not (self._open or self._taken or self._results):
            raise RequestError(
                "all events of this handle were read already", where="result", fix="pass them to Result.collect"
            )

    def _collect(self, events: Iterable[Event]) -> list[Result]:
        kept = events if self._count == 1 else list(events)  # audio that nobody asks for again is not kept
        return [Result.collect(kept, index) for index in range(self._count)]


def joined(items: Sequence[Item]) -> list[Item]:
    """The same events, neighbouring deltas of one kind of each answer joined."""
    out: list[Item] = []
    last: dict[int, int] = {}  # of each answer: the place of its last event
    for item in items:
        if isinstance(item, BaseException):
            out.append(item)
            continue
        place = last.get(item.index)
        before = None if place is None else out[place]
        if isinstance(item, TextDelta) and isinstance(before, TextDelta):
            out[last[item.index]] = TextDelta(before.text + item.text, item.index)
        elif isinstance(item, ReasoningDelta) and isinstance(before, ReasoningDelta):
            out[last[item.index]] = ReasoningDelta(before.text + item.text, item.index)
        else:
            last[item.index] = len(out)
            out.append(item)
    return out
