"""Random schedules: arrivals, cancels, failures and slow readers lose, double or reorder no event, and no memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.engine.fakes import (
    BAD_DECODE,
    BAD_PREFILL,
    BAD_TILE,
    BrokenInput,
    FakeEngine,
    clip,
    oracle,
    read,
    text,
    tile,
)

from vita.engine.request import Phase, Request
from vita.errors import ResourceError
from vita.events import Done, Event, Started, TextDelta
from vita.types import SamplingParams, Span


@dataclass
class Reader:
    """A request, what its reader was given, and what was done to it."""

    request: Request
    spans: tuple[Span, ...]
    events: list[Event | BaseException] = field(default_factory=list)
    stopped: bool = False  # cancelled, or past its deadline


PROMPTS = st.one_of(
    st.lists(st.integers(20, 25), min_size=1, max_size=20).map(lambda ids: (text(*ids),)),
    st.tuples(st.integers(20, 22), st.lists(st.integers(0, 3), min_size=1, max_size=5)).map(
        lambda p: (text(p[0]), *(tile(k) for k in p[1]), text(p[0] + 1))
    ),
    st.integers(0, 2).map(lambda k: (text(21), clip(k), text(22))),
    st.sampled_from([(text(20, BAD_PREFILL),), (text(BAD_DECODE, 20),), (text(20), tile(BAD_TILE), tile(1))]),
)
OPERATIONS = st.one_of(
    st.tuples(
        st.just("submit"), PROMPTS, st.integers(1, 12), st.integers(1, 2), st.integers(0, 2),
        st.sampled_from(["", "tenant"]), st.sampled_from([None, None, 30.0]),
    ),
    st.tuples(st.just("begin"), PROMPTS),
    st.tuples(st.just("ready"), st.integers(0, 20)),
    st.tuples(st.just("cancel"), st.integers(0, 20)),
    st.tuples(st.just("step"), st.integers(1, 12)),
    st.tuples(st.just("step"), st.integers(1, 12)),
    st.tuples(st.just("read"), st.integers(0, 20), st.integers(1, 6)),
    st.tuples(st.just("wait"), st.sampled_from([1.0, 100.0])),
)  # fmt: skip


class Schedule:
    """Runs operations on a small engine, then reads everything to the end."""

    def __init__(self, folder: Path, is_async: bool) -> None:
        self.engine = FakeEngine(
            folder, positions=120, is_async=is_async, max_events=3, max_batch=3, max_requests=5, prefill_chunk=8,
            tile_batch=2, context=60, work_seconds=9.0 if is_async else None,
        )  # fmt: skip
        self.readers: list[Reader] = []
        self.unread: list[Reader] = []

    def apply(self, operation: tuple[object, ...]) -> None:
        engine, name, args = self.engine, operation[0], operation[1:]
        if name == "submit":
            spans, tokens, n, priority, salt, deadline = args
            ignore_eos = tokens % 2 == 0  # type: ignore[operator]
            params = SamplingParams(max_tokens=tokens, ignore_eos=ignore_eos, n=n)  # type: ignore[arg-type]
            at = None if deadline is None else engine.clock.now + deadline  # type: ignore[operator]
            request = engine.begin(params, priority=priority, salt=salt, deadline=at)
            self.readers.append(Reader(request, spans))  # type: ignore[arg-type]
            engine.read(request, *spans)  # type: ignore[misc]
        elif name == "begin":
            self.readers.append(Reader(engine.begin(), args[0]))  # type: ignore[arg-type]
            self.unread.append(self.readers[-1])
        elif name == "ready" and self.unread:
            reader = self.unread.pop(args[0] % len(self.unread))  # type: ignore[operator]
            engine.read(reader.request, *reader.spans)
        elif name == "cancel" and self.readers:
            reader = self.readers[args[0] % len(self.readers)]  # type: ignore[operator]
            reader.request.cancelled = True
            engine.step()
            assert reader.request.phase is Phase.FINISHED, "within one step"
        elif name == "read" and self.readers:
            reader = self.readers[args[0] % len(self.readers)]  # type: ignore[operator]
            for _ in range(args[1]):  # type: ignore[call-overload]
                if (event := reader.request.events.get(0)) is not None:
                    reader.events.append(event)
        elif name == "wait":
            engine.clock.now += args[0]  # type: ignore[operator]
        elif name == "step":
            for _ in range(args[0]):  # type: ignore[call-overload]
                engine.step()
                self.check()

    def check(self) -> None:
        """What holds after every step."""
        core, pool = self.engine.core, self.engine.core.pool
        assert pool.used <= pool.budget and pool.active >= 0
        stats = core.stats()
        standing = stats.reading + stats.waiting + stats.working + stats.running
        assert stats.submitted == stats.finished + stats.cancelled + stats.failed + standing == len(self.readers)
        assert core.open == standing and stats.healthy

    def finish(self) -> None:
        while self.unread:
            self.apply(("ready", 0))
        for _ in range(3000):
            for reader in self.readers:
                reader.events += read(reader.request)
            self.engine.step()
            if self.engine.core.open == 0 and self.engine.core._pending is None:
                break
        for reader in self.readers:
            reader.events += read(reader.request)
        self.check()
        assert self.engine.core.open == 0 and self.engine.core.pool.active == 0
        scheduler = self.engine.core.scheduler
        assert not scheduler.requests() and scheduler.unit is None
        for reader in self.readers:
            self.check_reader(reader)

    def check_reader(self, reader: Reader) -> None:
        request, events = reader.request, reader.events
        errors = [e for e in events if isinstance(e, BaseException)]
        if errors:
            assert events[-1] is errors[0] and len(errors) == 1
            assert isinstance(errors[0], ResourceError if "KV cache" in str(errors[0]) else BrokenInput)
            return
        for index in range(request.params.n):
            mine = [e for e in events if not isinstance(e, BaseException) and e.index == index]
            assert [type(e) for e in mine if not isinstance(e, TextDelta)] in ([Started, Done], [Done])
            done = mine[-1]
            assert isinstance(done, Done)
            whole = oracle(self.engine.model, reader.spans, request.params, 60)
            said = "".join(e.text for e in mine if isinstance(e, TextDelta))
            if done.finish_reason == "cancelled":
                assert whole.ids[: len(done.token_ids)] == done.token_ids
            else:
                assert (done.token_ids, said, done.finish_reason) == (whole.ids, whole.text, whole.reason)


def run_schedule(folder: Path, operations: list[tuple[object, ...]], is_async: bool) -> None:
    schedule = Schedule(folder, is_async)
    for operation in operations:
        schedule.apply(operation)
    schedule.finish()


SCHEDULES = st.lists(OPERATIONS, min_size=5, max_size=40)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(operations=SCHEDULES, is_async=st.booleans())
def test_random_schedules_lose_double_and_reorder_nothing(
    mini: Path, operations: list[tuple[object, ...]], is_async: bool
) -> None:
    run_schedule(mini / "mini_ckpt", operations, is_async)


@pytest.mark.slow
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(operations=SCHEDULES, is_async=st.booleans())
def test_a_thousand_random_schedules(mini: Path, operations: list[tuple[object, ...]], is_async: bool) -> None:
    run_schedule(mini / "mini_ckpt", operations, is_async)
