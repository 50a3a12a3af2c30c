"""Scheduler: decides what the engine computes next. Every decision is made here, none of them with torch.

reading → waiting → encoding → prefilling → running. A step decodes up to 16 sequences and runs layers of at most one
unit of encoder or prefill work.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from vita.engine.background import SourceQueue, WorkSource
from vita.engine.prefix_cache import atoms_of
from vita.engine.reasoning import with_reasoning
from vita.engine.request import Phase, Request, Sequence
from vita.errors import ResourceError
from vita.runtime.clock import Clock
from vita.types import MediaKind, MediaSpan, Span, TextSpan

AGING_SECONDS = 10.0  # of waiting that make up for one level of priority
RECENT_STEPS = 5
UNREAD_SECONDS = 60.0  # after which a request whose event queue is full is cancelled
FIRST_POSITIONS = 1024  # reserved for the answer of a request without a limit; grows by as many


class Pool(Protocol):
    """What the scheduler needs of `KVPool`."""

    def can_hold(self, positions: int) -> bool: ...
    def bytes_for(self, positions: int) -> int: ...


@dataclass(frozen=True)
class Limits:
    """Sizes of a step.

    Attributes:
        max_batch: sequences in one decode step.
        max_requests: requests that are admitted at the same time.
        prefill_chunk: prompts are cut at multiples of so many positions.
        tile_batch: image tiles that are encoded together.
        audio_batch: rows of audio clips that are encoded together; a longer clip is encoded alone.
        context: positions of the longest sequence.
        work_steps: a unit's layers may take so many decode steps of the current batch.
        work_seconds: or so many seconds, whatever a step takes; None: `work_steps` holds.
        exclusive_encoders: encoders and decoder take turns in memory, so nothing decodes while an encoder's unit runs;
            between two units there is a step.
        reasons: answers may hold a reasoning, which has a bound of its own.
    """

    max_batch: int = 16
    max_requests: int = 64
    prefill_chunk: int = 512
    tile_batch: int = 4
    audio_batch: int = 200  # 16 s: a short clip must not wait for a long one
    context: int = 32768
    work_steps: float = 1.5
    work_seconds: float | None = None
    exclusive_encoders: bool = False
    reasons: bool = False


@dataclass(eq=False)
class EncodeUnit:
    """Tiles or audio clips for an encoder, of one request or several."""

    kind: MediaKind
    spans: list[MediaSpan]
    requests: list[Request]


@dataclass(eq=False)
class PrefillUnit:
    """A stretch of one prompt, or the rests of several short ones.

    Attributes:
        parts: requests and how many of their rows.
    """

    parts: list[tuple[Request, int]]

    @property
    def requests(self) -> list[Request]:
        return [request for request, _ in self.parts]


WorkUnit = EncodeUnit | PrefillUnit


@dataclass
class Plan:
    """One step.

    Attributes:
        decode: sequences that get one more token.
        unit: whose layers run beside, a new one or one that goes on; None: none.
        budget: seconds for the unit's layers. 0: one layer, since nobody decodes and the inbox is looked at between
            layers.
        source: background work that has the budget instead of a unit.
        next_tiles: that are encoded after a unit which begins in this step, so that their pixels can be copied
            meanwhile.
    """

    decode: list[Sequence] = field(default_factory=list)
    unit: WorkUnit | None = None
    budget: float = 0.0
    source: WorkSource | None = None
    next_tiles: list[MediaSpan] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not self.decode and self.unit is None and self.source is None


class Scheduler:
    """Queues and their order.

    Args:
        limits: of a step.
        pool: whose budget admits requests.
        admit: reserves memory for a request and finds its prefix; False if there is no room now, or if it failed.
        known: rows of a media span that are known already are put into the request's features; True if they were.
        clock: seconds, monotonic.
    """

    def __init__(
        self, limits: Limits, pool: Pool, admit: Callable[[Request], bool],
        known: Callable[[Request, MediaSpan], bool], clock: Clock = time.monotonic,
    ) -> None:  # fmt: skip
        self.limits, self._pool, self._admit, self._known, self._clock = limits, pool, admit, known, clock
        self.reading: list[Request] = []
        self.waiting: list[Request] = []
        self.working: deque[Request] = deque()  # encoding or prefilling, the next to be served first
        self.starting: list[Request] = []  # prefilled, the first token not sampled yet
        self.running: deque[Sequence] = deque()  # decoding, the next to be served first
        self.unit: WorkUnit | None = None  # began and is not finished
        self._excluded = False  # nothing decoded in the last step, for an encoder's sake
        self.background = SourceQueue()
        self.step_seconds = 0.0  # lower quartile of the last decode steps
        self._steps: deque[float] = deque(maxlen=RECENT_STEPS)

    def requests(self) -> list[Request]:
        """All that have not ended."""
        running = {id(sequence.request): sequence.request for sequence in self.running}
        return [*self.reading, *self.waiting, *self.working, *self.starting, *running.values()]

    def submit(self, request: Request) -> None:
        """A request whose media are being read."""
        self.reading.append(request)

    def ready(self, request: Request) -> None:
        """Its media are read: it waits for admission.

        Raises:
            ResourceError: it needs more than the whole KV budget.
        """
        if request.phase is not Phase.READING:
            return  # it ended meanwhile
        inputs = request.inputs
        assert inputs is not None
        request.atoms = atoms_of(inputs.spans)
        room = self.limits.context - inputs.length
        asked = request.params.max_tokens
        request.limit = room if asked is None else min(asked, room)
        most = with_reasoning(request.params, reasons=self.limits.reasons)
        request.most = room if most is None else min(most, room)
        request.capacity = inputs.length + min(request.most, FIRST_POSITIONS if most is None else request.most)
        positions = request.capacity * request.params.n
        if not self._pool.can_hold(positions):
            need = self._pool.bytes_for(positions)
            raise ResourceError(
                f"a request of {positions} positions needs {need / 1e9:.2f} GB, more than the whole KV cache budget",
                where="max_tokens", fix="ask for fewer tokens, or raise the memory limit",
            )  # fmt: skip
        request.phase = Phase.WAITING
        self.reading.remove(request)
        self.waiting.append(request)

    def plan(self) -> Plan:
        """What to compute next."""
        self._admit_waiting()
        next_tiles: list[MediaSpan] = []
        if self.unit is None and (unit := self._next_unit()) is not None:
            held_up = self._excluded and any(sequence.can_step for sequence in self.running)
            if not (held_up and isinstance(unit, EncodeUnit)):
                self.unit, next_tiles = unit, self._tiles_behind(unit)
        self._excluded = self.limits.exclusive_encoders and isinstance(self.unit, EncodeUnit)
        decode = [] if self._excluded else self._next_rows()
        budget = self._budget() if decode else 0.0
        source = self.background.next(
            has_unit=self.unit is not None, decoding=bool(decode), step_seconds=self.step_seconds + budget
        )
        return Plan(decode, self.unit if source is None else None, budget, source, next_tiles)

    def _budget(self) -> float:
        if self.limits.work_seconds is not None:
            return self.limits.work_seconds
        return self.limits.work_steps * self.step_seconds

    def _admit_waiting(self) -> None:
        """Admit by priority and age while there is room. The first that does not fit holds up the rest, so that a large
        request is not passed over for ever."""
        if not self.waiting:
            return
        now = self._clock()
        self.waiting.sort(key=lambda r: (r.priority - (now - r.arrived) / AGING_SECONDS, r.arrived))
        running = {id(sequence.request) for sequence in self.running}
        room = self.limits.max_requests - len(self.working) - len(self.starting) - len(running)
        while self.waiting and room > 0:
            request = self.waiting[0]
            if not self._admit(request):
                if request.phase is Phase.FINISHED:  # it failed, and left the queue: the next one may do better
                    continue
                break
            self.waiting.remove(request)
            request.spans = behind(request.inputs.spans if request.inputs else (), request.reused)
            if request.draft is not None:
                request.spans.append(TextSpan((request.draft,)))
            request.phase = Phase.ENCODING
            request.served = now
            self.working.append(request)
            room -= 1

    def _next_unit(self) -> WorkUnit | None:
        """A unit for the request that was served longest ago; others join it where the unit has room."""
        order = self._by_priority(self.working)
        for request in order:
            if not self._is_encoded(request):
                return self._encode_unit(request.pending_media[0].kind, _company(request, order))
            return self._prefill_unit(_company(request, order))
        return None

    def _is_encoded(self, request: Request) -> bool:
        """Whether the rows of all its media are there; then it is prefilled next."""
        if request.phase is Phase.ENCODING and all([self._known(request, span) for span in request.pending_media]):
            request.phase = Phase.PREFILLING
        return request.phase is Phase.PREFILLING

    def _by_priority(self, requests: Iterable[Request], served: Container[Request] = ()) -> list[Request]:
        """By priority and by how long ago each was served, so that requests of one priority take turns and none
        starves. Requests in `served` count as served now."""
        now = self._clock()

        def rank(request: Request) -> tuple[float, bool]:
            waited = 0.0 if request in served else now - request.served
            return request.priority - waited / AGING_SECONDS, request in served

        return sorted(requests, key=rank)

    def _tiles_behind(self, unit: WorkUnit) -> list[MediaSpan]:
        """The batch of tiles that is encoded next, if no request arrives or ends until then."""
        present = {span.digest for span in unit.spans} if isinstance(unit, EncodeUnit) else set()
        return self._encode_unit("image", self._by_priority(self.working, served=unit.requests), present).spans

    def _encode_unit(self, kind: MediaKind, order: list[Request], without: Container[bytes] = ()) -> EncodeUnit:
        """Tiles, or short audio clips, of several requests share a batch.

        Args:
            kind, order: of the media and of the requests.
            without: digests of spans that are left out.
        """
        limit, size = (self.limits.tile_batch if kind == "image" else self.limits.audio_batch), 0
        spans: dict[tuple[str, bytes], MediaSpan] = {}
        requests: list[Request] = []
        for request in order:
            if request.phase is not Phase.ENCODING:
                continue
            for span in request.pending_media:
                key, more = (request.salt, span.digest), 1 if kind == "image" else span.rows
                too_many = key not in spans and spans and size + more > limit
                if span.kind != kind or span.digest in without or too_many or self._known(request, span):
                    continue
                size += 0 if key in spans else more
                spans[key] = span
                if request not in requests:
                    requests.append(request)
        return EncodeUnit(kind, list(spans.values()), requests)

    def _prefill_unit(self, order: list[Request]) -> PrefillUnit:
        """The next stretch of the first prompt. If that is its rest, the rests of others join it, as long as none of
        them must be cut and all together are no longer than a chunk."""
        first, chunk = order[0], self.limits.prefill_chunk
        rows = self._stretch(first)
        parts = [(first, rows)]
        if rows == first.remaining_rows:
            for request in order[1:]:
                rest = request.remaining_rows
                if rows + rest <= chunk and rest == self._stretch(request) and self._is_encoded(request):
                    parts.append((request, rest))
                    rows += rest
        return PrefillUnit(parts)

    def _stretch(self, request: Request) -> int:
        """Rows of a prompt up to the next multiple of the chunk, or to its end."""
        chunk = self.limits.prefill_chunk
        return min(request.remaining_rows, chunk - (request.reused + request.done_rows) % chunk)

    def _next_rows(self) -> list[Sequence]:
        """Up to `max_batch` sequences; if there are more, they take turns."""
        rows = [sequence for sequence in self.running if sequence.can_step][: self.limits.max_batch]
        if len(self.running) > self.limits.max_batch:
            for sequence in rows:
                self.running.remove(sequence)
                self.running.append(sequence)
        return rows

    def stepped(self, seconds: float) -> None:
        """A decode step took so long. The lower quartile: steps that the system interrupted must not give the next unit
        more time. On busy cores that is a step in five, and their median was up to 2.6 times the usual step."""
        self._steps.append(seconds)
        self.step_seconds = sorted(self._steps)[(len(self._steps) - 1) // 4]

    def unit_finished(self, unit: WorkUnit) -> list[Request]:
        """A unit is computed. Its requests go to the end of their queue; returns those whose prompt is prefilled."""
        self.unit = None
        prefilled: list[Request] = []
        for request in unit.requests:
            if request.phase is Phase.FINISHED:
                continue
            self.working.remove(request)
            request.served = self._clock()
            if isinstance(unit, PrefillUnit):
                request.done_rows += dict((id(r), rows) for r, rows in unit.parts)[id(request)]
                if not request.remaining_rows:
                    request.phase = Phase.RUNNING
                    self.starting.append(request)
                    prefilled.append(request)
                    continue
            self.working.append(request)
        return prefilled

    def start(self, request: Request) -> None:
        """The sequences of a prefilled request decode from the next step on."""
        self.starting.remove(request)
        self.running.extend(request.sequences)

    def end(self, request: Request) -> None:
        """A request ended, in whatever phase: it leaves every queue."""
        request.phase = Phase.FINISHED
        for queue in (self.reading, self.waiting, self.working, self.starting):
            if request in queue:
                queue.remove(request)
        for sequence in request.sequences:
            self.stop(sequence)
        if self.unit is not None and all(r.phase is Phase.FINISHED for r in self.unit.requests):
            self.unit = None

    def shares_unit(self, request: Request) -> bool:
        """Whether a unit with others goes on writing into the request's KV cache, which nobody else may get then."""
        return self.unit is not None and len(self.unit.requests) > 1 and request in self.unit.requests

    def stop(self, sequence: Sequence) -> None:
        """A sequence takes part in no further step."""
        if sequence in self.running:
            self.running.remove(sequence)

    def expired(self) -> list[Request]:
        """Requests that must end now: cancelled, past their deadline, or with a queue that nobody reads. In order of
        arrival, since a session's history depends on it."""
        now = self._clock()
        found = [
            request
            for request in self.requests()
            if request.cancelled
            or (request.deadline is not None and now >= request.deadline)
            or request.events.unread_for() > UNREAD_SECONDS
        ]
        return sorted(found, key=lambda request: request.arrived)

    def next_deadline(self) -> float | None:
        """Seconds until a request can expire without a message from outside; None: never."""
        now = self._clock()
        requests = self.requests()
        times = [max(0.0, r.deadline - now) for r in requests if r.deadline is not None]
        times += [max(0.0, UNREAD_SECONDS - r.events.unread_for()) + 0.01 for r in requests if r.events.full]
        return min(times, default=None)


def _company(request: Request, order: list[Request]) -> list[Request]:
    """A request, and those behind it that may share its unit."""
    if request.alone:
        return [request]
    return [request, *(other for other in order[order.index(request) + 1 :] if not other.alone)]


def behind(spans: Iterable[Span], rows: int) -> list[Span]:
    """The spans of a prompt behind its first `rows` positions, which end between two atoms."""
    rest: list[Span] = []
    for span in spans:
        if rows >= span.rows:
            rows -= span.rows
        elif isinstance(span, TextSpan):
            rest.append(TextSpan(span.ids[rows:]))
            rows = 0
        else:
            rest.append(span)
    return rest
