"""The scheduler alone: which unit is next, who shares it, who is admitted, who takes turns, who must end."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vita.engine.handle import EventQueue
from vita.engine.request import Phase, Request, Sequence
from vita.engine.scheduler import EncodeUnit, Limits, PrefillUnit, Scheduler, WorkUnit, behind
from vita.errors import ResourceError
from vita.events import TextDelta
from vita.planning.memory_plan import prefill_chunk, tile_batch
from vita.prompt.processor import ProcessedInputs
from vita.types import MediaSpan, SamplingParams, Span, TextSpan


class Pool:
    """A budget in positions; requests of `reuse` find so many positions in the prefix cache."""

    def __init__(self, budget: int = 10**9) -> None:
        self.budget, self.used = budget, 0
        self.reuse: dict[int, int] = {}

    def can_hold(self, positions: int) -> bool:
        return positions <= self.budget

    def bytes_for(self, positions: int) -> int:
        return positions

    def admit(self, request: Request) -> bool:
        if self.used + request.capacity > self.budget:
            return False
        self.used += request.capacity
        request.reused = self.reuse.get(id(request), 0)
        return True


class Bench:
    """A scheduler with a fake clock and pool; encoded contents are remembered as by the encoder cache."""

    def __init__(self, budget: int = 10**9, max_events: int = 256, **limits: object) -> None:
        self.now, self.pool, self.max_events = 0.0, Pool(budget), max_events
        self.encoded: set[tuple[str, bytes]] = set()
        self.scheduler = Scheduler(
            Limits(**limits), self.pool, self.pool.admit, self.known, lambda: self.now  # type: ignore[arg-type]
        )  # fmt: skip

    def known(self, request: Request, span: MediaSpan) -> bool:
        if (request.salt, span.digest) in self.encoded:
            request.features[span.digest] = None  # type: ignore[assignment]
            return True
        return False

    def submit(self, *spans: Span, max_tokens: int = 10, reused: int = 0, n: int = 1, **options: object) -> Request:
        request = self.begin(SamplingParams(max_tokens=max_tokens, n=n), **options)
        request.inputs = ProcessedInputs(spans, 0, 0.0, 0, ())
        self.pool.reuse[id(request)] = reused
        self.scheduler.ready(request)
        return request

    def begin(self, params: SamplingParams | None = None, **options: object) -> Request:
        events = EventQueue(lambda: None, lambda: self.now, self.max_events)
        request = Request(params or SamplingParams(), events, arrived=self.now, served=self.now, **options)  # type: ignore[arg-type]
        self.scheduler.submit(request)
        return request

    def next_unit(self) -> WorkUnit | None:
        return self.scheduler.plan().unit

    def finish(self, unit: WorkUnit, seconds: float = 1.0) -> list[Request]:
        """A unit is computed."""
        self.now += seconds
        if isinstance(unit, EncodeUnit):
            self.encoded |= {(r.salt, span.digest) for r in unit.requests for span in unit.spans}
        return self.scheduler.unit_finished(unit)

    def run(self, count: int) -> Sequence:
        """A request that decodes: `count` sequences of it."""
        request = self.submit(TextSpan((1,)), n=count)
        unit = self.next_unit()
        assert unit is not None
        self.finish(unit)
        request.sequences = [sequence(request, index) for index in range(count)]
        self.scheduler.start(request)
        return request.sequences[0]


def sequence(request: Request, index: int) -> Sequence:
    cache = SimpleNamespace(length=0, capacity=100)
    return Sequence(request, index, *cast("list[object]", [cache, None, None, None]))  # type: ignore[arg-type]


def prompt(rows: int, start: int = 0) -> TextSpan:
    return TextSpan(tuple(range(start, start + rows)))


def tiles(*codes: int) -> tuple[MediaSpan, ...]:
    return tuple(MediaSpan("image", b"%d" % code, 4) for code in codes)


def clip(code: int, rows: int = 30) -> MediaSpan:
    return MediaSpan("audio", b"a%d" % code, rows)


# Prefill


@given(length=st.integers(1, 60), reused=st.integers(0, 59), chunk=st.integers(1, 16))
def test_prompts_are_cut_at_multiples_of_the_chunk_whatever_is_reused(length: int, reused: int, chunk: int) -> None:
    bench = Bench(prefill_chunk=chunk)
    reused = min(reused, length - 1)
    bench.submit(prompt(length), reused=reused)
    at = reused
    while at < length:
        unit = bench.next_unit()
        assert isinstance(unit, PrefillUnit)
        [(_, rows)] = unit.parts
        assert at // chunk == (at + rows - 1) // chunk, "no stretch crosses a multiple of the chunk"
        at += rows
        assert at == length or at % chunk == 0
        done = bench.finish(unit)
        assert bool(done) == (at == length)
    assert bench.next_unit() is None


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 39)), min_size=1, max_size=6))
def test_merging_cuts_no_prompt_elsewhere(prompts: list[tuple[int, int]]) -> None:
    bench = Bench(prefill_chunk=16)
    requests = [bench.submit(prompt(n, 100 * k), reused=min(r, n - 1)) for k, (n, r) in enumerate(prompts)]
    while (unit := bench.next_unit()) is not None:
        assert isinstance(unit, PrefillUnit)
        assert sum(rows for _, rows in unit.parts) <= 16
        for request, rows in unit.parts:
            first = request.reused + request.done_rows
            assert first // 16 == (first + rows - 1) // 16
        bench.finish(unit)
    assert all(request.phase is Phase.RUNNING and not request.remaining_rows for request in requests)


def test_short_prompts_that_arrive_together_share_a_unit() -> None:
    bench = Bench(prefill_chunk=16)
    requests = [bench.submit(prompt(5, 100 * k)) for k in range(4)]
    unit = bench.next_unit()
    assert isinstance(unit, PrefillUnit) and unit.parts == [(request, 5) for request in requests[:3]]


def test_the_last_stretch_of_a_long_prompt_takes_short_ones_along() -> None:
    bench = Bench(prefill_chunk=16)
    long, short = bench.submit(prompt(20)), bench.submit(prompt(5, 100))
    parts = []
    while (unit := bench.next_unit()) is not None:
        assert isinstance(unit, PrefillUnit)
        parts.append(unit.parts)
        bench.finish(unit)
    assert parts == [[(long, 16)], [(short, 5), (long, 4)]]


def test_a_request_that_failed_in_company_is_computed_alone() -> None:
    bench = Bench(prefill_chunk=16, tile_batch=4)
    first, second, third = (bench.submit(prompt(3, 10 * k), *tiles(k)) for k in range(3))
    second.alone = True
    units = []
    while (unit := bench.next_unit()) is not None:
        units.append((type(unit), unit.requests))
        bench.finish(unit)
    assert [requests for _, requests in units] == [[first, third], [second], [first, third], [second]]


# Encoders


def test_media_of_several_requests_share_a_batch() -> None:
    bench = Bench(tile_batch=4, audio_batch=60)
    one, two = bench.submit(prompt(1), *tiles(1, 2, 3)), bench.submit(prompt(1), *tiles(3, 4, 5))
    ears, more = bench.submit(prompt(1), clip(1)), bench.submit(prompt(1), clip(2), clip(1), clip(3))
    batches = []
    while (unit := bench.next_unit()) is not None:
        if isinstance(unit, EncodeUnit):
            batches.append(([span.digest for span in unit.spans], unit.requests))
        bench.finish(unit)
    assert batches[0] == ([b"1", b"2", b"3", b"4"], [one, two]), "tile 3 is encoded once for both"
    assert ([b"a1", b"a2"], [ears, more]) in batches, "clip 1 is encoded once for both"
    assert ([b"a3"], [more]) in batches and ([b"5"], [two]) in batches and len(batches) == 4


def test_a_long_clip_is_encoded_alone() -> None:
    bench = Bench(audio_batch=40)
    bench.submit(prompt(1), clip(1, 50))
    bench.submit(prompt(1), clip(2, 39))
    bench.submit(prompt(1), clip(3, 1))
    batches = []
    while (unit := bench.next_unit()) is not None:
        if isinstance(unit, EncodeUnit):
            batches.append([span.digest for span in unit.spans])
        bench.finish(unit)
    assert batches == [[b"a1"], [b"a2", b"a3"]]


def test_tenants_share_a_batch_but_no_rows() -> None:
    bench = Bench(tile_batch=4)
    bench.submit(prompt(1), *tiles(1), salt="a")
    bench.submit(prompt(1), *tiles(1), salt="b")
    unit = bench.next_unit()
    assert isinstance(unit, EncodeUnit) and len(unit.spans) == 2


def test_what_was_encoded_before_is_not_encoded_again() -> None:
    bench = Bench()
    bench.encoded = {("", b"1"), ("", b"2")}
    bench.submit(prompt(1), *tiles(1, 2))
    assert isinstance(bench.next_unit(), PrefillUnit)


def test_a_batch_of_tiles_is_no_larger_than_the_limit() -> None:
    bench = Bench(tile_batch=4)
    bench.submit(prompt(1), *tiles(*range(12)))
    sizes = []
    while isinstance(unit := bench.next_unit(), EncodeUnit):
        sizes.append(len(unit.spans))
        bench.finish(unit)
    assert sizes == [4, 4, 4]


def test_sixteen_images_on_a_gpu_are_encoded_in_two_batches_and_prefilled_together() -> None:
    gpu = torch.device("cuda")
    bench = Bench(tile_batch=tile_batch(gpu), prefill_chunk=prefill_chunk(gpu))
    requests = [bench.submit(prompt(20, 100 * k), *tiles(k), prompt(10, 100 * k + 50)) for k in range(16)]
    units: list[tuple[type[WorkUnit], int]] = []
    while (unit := bench.next_unit()) is not None:
        units.append((type(unit), len(unit.requests)))
        bench.finish(unit)
    assert units == [(EncodeUnit, 13), (EncodeUnit, 3), (PrefillUnit, 16)]
    assert all(request.phase is Phase.RUNNING for request in requests)


def test_exclusive_encoders_stop_decode_steps() -> None:
    for exclusive, decoding in ((False, 1), (True, 0)):
        bench = Bench(exclusive_encoders=exclusive)
        bench.run(1)
        bench.submit(prompt(600), *tiles(1))
        plan = bench.scheduler.plan()
        assert isinstance(plan.unit, EncodeUnit) and len(plan.decode) == decoding
        bench.finish(plan.unit)
        plan = bench.scheduler.plan()
        assert isinstance(plan.unit, PrefillUnit) and len(plan.decode) == 1


# Budget of a unit


def test_a_unit_goes_on_until_it_is_finished() -> None:
    bench = Bench()
    bench.submit(prompt(5))
    first = bench.next_unit()
    bench.submit(prompt(5, 50), priority=-9)
    assert bench.next_unit() is first is bench.next_unit()


def test_the_budget_is_one_and_a_half_steps_of_what_decodes() -> None:
    bench = Bench()
    bench.submit(prompt(5))
    assert bench.scheduler.plan().budget == 0, "nobody decodes: layer by layer"
    bench = Bench()
    bench.run(1)
    bench.scheduler.stepped(2.0)
    assert bench.scheduler.plan().budget == 3.0
    for _ in range(50):
        bench.scheduler.stepped(1.0)
    assert bench.scheduler.plan().budget == pytest.approx(1.5)
    gpu = Bench(work_seconds=0.015)
    gpu.run(1)
    gpu.scheduler.stepped(2.0)
    assert gpu.scheduler.plan().budget == 0.015


def test_steps_that_the_system_interrupts_give_a_unit_no_more_time() -> None:
    bench = Bench()
    bench.run(1)
    for seconds in (1.0, 1.1, 3.0, 1.0, 2.5, 4.0):  # beside a busy process
        bench.scheduler.stepped(seconds)
    assert bench.scheduler.plan().budget == pytest.approx(1.65)
    for seconds in (3.0, 3.1, 3.0, 3.2):  # a larger batch
        bench.scheduler.stepped(seconds)
    assert bench.scheduler.plan().budget == pytest.approx(4.5)


# Fairness


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 12)), min_size=2, max_size=6),
    st.lists(st.floats(0.1, 5.0), min_size=60, max_size=60),
)
def test_nobody_waits_behind_more_than_one_turn_of_every_other(
    arrivals: list[tuple[int, int]], seconds: list[float]
) -> None:
    bench = Bench(prefill_chunk=8, tile_batch=2)
    served: list[list[Request]] = []
    arrived: dict[int, int] = {}
    requests = []
    for k, (rows, count) in enumerate(arrivals):
        requests.append(bench.submit(prompt(rows, 1000 * k), *tiles(*range(100 * k, 100 * k + count))))
        arrived[id(requests[-1])] = len(served)
        if (unit := bench.next_unit()) is not None:
            served.append(unit.requests)
            bench.finish(unit, seconds[len(served)])
    while (unit := bench.next_unit()) is not None:
        served.append(unit.requests)
        bench.finish(unit, seconds[len(served) % 60])
    for request in requests:
        turns = [arrived[id(request)] - 1, *(k for k, who in enumerate(served) if request in who)]
        for before, after in pairwise(turns):
            between = served[before + 1 : after]
            for other in requests:
                assert sum(who[0] is other for who in between) <= 1


def test_a_lower_priority_value_goes_first_and_waiting_makes_up_for_it() -> None:
    bench = Bench(prefill_chunk=4)
    slow = bench.submit(prompt(4), priority=1)
    turns = 0
    while slow.phase is not Phase.RUNNING:
        bench.submit(prompt(4, 100 * turns), priority=0)  # one after the other, without end
        unit = bench.next_unit()
        assert unit is not None
        bench.finish(unit, seconds=1.0)
        turns += 1
    assert 10 <= turns <= 12, "ten seconds make up for one level"


def test_more_sequences_than_rows_take_turns() -> None:
    bench = Bench(max_batch=16)
    bench.run(16)
    bench.run(16)
    bench.run(8)
    counts: dict[int, int] = {}
    for _ in range(5):
        for row in bench.scheduler.plan().decode:
            counts[id(row)] = counts.get(id(row), 0) + 1
    assert len(counts) == 40 and set(counts.values()) == {2}


def test_a_slow_reader_pauses_only_itself() -> None:
    bench = Bench(max_events=2)
    slow, quick = bench.run(1), bench.run(1)
    for _ in range(2):
        slow.request.events.put(TextDelta("x"))
    assert bench.scheduler.plan().decode == [quick]
    slow.request.events.get(0)
    assert bench.scheduler.plan().decode == [slow, quick]


# Admission


def test_the_first_that_does_not_fit_holds_up_the_rest() -> None:
    bench = Bench(budget=100)
    holds = bench.submit(prompt(50))
    bench.next_unit()
    large, small = bench.submit(prompt(80)), bench.submit(prompt(5))
    bench.scheduler.plan()
    assert large.phase is small.phase is Phase.WAITING
    bench.pool.used -= holds.capacity
    bench.scheduler.plan()
    assert large.phase is not Phase.WAITING and small.phase is Phase.WAITING


def test_what_never_fits_is_refused_and_leaves_the_queue() -> None:
    bench = Bench(budget=100)
    with pytest.raises(ResourceError, match=r"a request of 120 positions needs .* more than the whole KV cache budget"):
        bench.submit(prompt(20), max_tokens=40, n=2)


def test_waiting_requests_are_admitted_by_priority_and_age() -> None:
    bench = Bench(max_requests=1)
    bench.submit(prompt(5))
    bench.scheduler.plan()
    old = bench.submit(prompt(5), priority=1)
    bench.now = 5.0
    urgent = bench.submit(prompt(5), priority=0)
    bench.scheduler.plan()
    assert bench.scheduler.waiting == [urgent, old]
    bench.now = 40.0
    late = bench.submit(prompt(5), priority=0)
    bench.scheduler.plan()
    assert bench.scheduler.waiting == [urgent, old, late], "35 seconds make up for more than one level"


def test_no_more_requests_than_the_limit_are_admitted() -> None:
    bench = Bench(max_requests=3)
    for k in range(5):
        bench.submit(prompt(600, 1000 * k))
    bench.scheduler.plan()
    assert len(bench.scheduler.working) == 3 and len(bench.scheduler.waiting) == 2
    bench = Bench(max_requests=2)
    first, *_ = (bench.submit(prompt(5, 1000 * k)) for k in range(3))
    unit = bench.next_unit()
    assert unit is not None
    assert first in bench.finish(unit), "prefilled, not yet decoding: it still counts"
    bench.scheduler.plan()
    assert len(bench.scheduler.waiting) == 1


# Ends


def test_expiry() -> None:
    bench = Bench(max_events=1)
    reading, cancelled = bench.begin(deadline=5.0), bench.begin()
    waiting = bench.submit(prompt(3), deadline=7.0)
    unread = bench.run(1).request
    assert bench.scheduler.expired() == []
    assert bench.scheduler.next_deadline() == 5.0 - bench.now
    cancelled.cancelled = True
    assert bench.scheduler.expired() == [cancelled]
    bench.scheduler.end(cancelled)
    bench.now = 5.0
    assert bench.scheduler.expired() == [reading]
    bench.scheduler.end(reading)
    bench.now = 7.0
    assert bench.scheduler.expired() == [waiting]
    bench.scheduler.end(waiting)
    unread.events.put(TextDelta("x"))
    assert bench.scheduler.next_deadline() == pytest.approx(60.01)
    bench.now = 67.5
    assert bench.scheduler.expired() == [unread]
    bench.scheduler.end(unread)
    assert bench.scheduler.requests() == [] and bench.scheduler.next_deadline() is None


def test_a_request_that_ends_leaves_every_queue_in_any_phase() -> None:
    bench = Bench(max_requests=1)
    reading = bench.begin()
    working = bench.submit(prompt(3))
    bench.scheduler.plan()
    waiting = bench.submit(prompt(3))
    for request in (reading, working, waiting):
        bench.scheduler.end(request)
        assert request.phase is Phase.FINISHED
    assert bench.scheduler.requests() == [] and bench.scheduler.unit is None
    bench = Bench()
    starting = bench.submit(prompt(3))
    unit = bench.next_unit()
    assert unit is not None and bench.finish(unit) == [starting] and bench.scheduler.requests() == [starting]
    bench.scheduler.end(starting)
    assert bench.scheduler.requests() == []


def test_a_shared_unit_goes_on_for_the_others() -> None:
    bench = Bench()
    one, two = bench.submit(prompt(3)), bench.submit(prompt(3, 50))
    unit = bench.next_unit()
    assert unit is not None and unit.requests == [one, two]
    bench.scheduler.end(one)
    assert bench.next_unit() is unit
    assert bench.finish(unit) == [two]


@given(st.lists(st.integers(1, 6), max_size=8), st.data())
def test_the_spans_behind_a_reused_beginning(rows: list[int], data: st.DataObject) -> None:
    spans: list[Span] = [
        TextSpan(tuple(range(100 * k, 100 * k + n))) if k % 2 else MediaSpan("image", b"%d" % k, n)
        for k, n in enumerate(rows)
    ]
    borders = [0]
    for span in spans:
        borders += (
            [borders[-1] + i for i in range(1, span.rows + 1)]
            if isinstance(span, TextSpan)
            else [borders[-1] + span.rows]
        )
    cut = data.draw(st.sampled_from(borders))
    rest = behind(spans, cut)
    assert sum(span.rows for span in rest) == sum(rows) - cut
    ids = [i for span in spans if isinstance(span, TextSpan) for i in span.ids]
    left = [i for span in rest if isinstance(span, TextSpan) for i in span.ids]
    assert left == ids[len(ids) - len(left) :]
