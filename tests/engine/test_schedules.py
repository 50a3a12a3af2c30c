"""The engine's core on a fake model: what is computed between two steps, and what ends when something fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby, pairwise
from pathlib import Path

import pytest
from tests.engine.fakes import (
    BAD_DECODE,
    BAD_PREFILL,
    BAD_TILE,
    BrokenInput,
    FakeClock,
    FakeEngine,
    clip,
    read,
    text,
    tile,
)
from torch import Tensor

from vita.engine.request import Phase
from vita.engine.runner import DeviceError
from vita.engine.work import LayeredWork
from vita.errors import ResourceError
from vita.events import Done, Event
from vita.types import SamplingParams, Span

ARRIVALS: dict[str, tuple[Span, ...]] = {
    "text": (text(*range(20, 1220)),),
    "image": (text(5), *(tile(k) for k in range(12)), text(6)),
    "audio": (text(5), clip(1, seconds=30.0), text(6)),
    "video": (text(5), *(tile(100 + k) for k in range(16)), text(6)),
}


@pytest.fixture
def folder(mini: Path) -> Path:
    return mini / "mini_ckpt"


def ids_of(events: list[Event | BaseException], index: int = 0) -> tuple[int, ...]:
    done = [e for e in events if isinstance(e, Done) and e.index == index]
    assert len(done) == 1, events
    return done[0].token_ids


# Between two steps


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("arrival", ARRIVALS)
def test_between_two_steps_one_unit_computes_at_most_its_budget(folder: Path, arrival: str, is_async: bool) -> None:
    engine = FakeEngine(folder, layers=20, is_async=is_async, work_seconds=3.0 if is_async else None)
    stream = engine.submit(text(1, 2, 3), params=SamplingParams(max_tokens=100, ignore_eos=True))
    engine.start(stream)
    engine.model.log.clear()
    other = engine.submit(*ARRIVALS[arrival])
    engine.run()
    assert ids_of(read(stream)) == engine.expected(stream).ids
    assert ids_of(read(other)) == engine.expected(other).ids
    runs = [(kind, list(group)) for kind, group in groupby(engine.model.log, key=lambda entry: entry[0])]
    between = [entries for kind, entries in runs[:-1] if kind == "layer"]
    assert sum(len(entries) for entries in between) > 20
    # A step takes 1 s and so does a layer: as many layers as the budget has seconds.
    budget = engine.limits.work_seconds or engine.limits.work_steps
    assert all(1 <= len(entries) <= budget and len({unit for _, unit in entries}) == 1 for entries in between)
    assert max(len(entries) for entries in between) == budget, "the budget is used"


def test_the_step_after_an_arrival_is_not_late_whatever_a_layer_costs(folder: Path) -> None:
    engine = FakeEngine(folder)
    engine.start(engine.submit(text(1, 2, 3), params=SamplingParams(max_tokens=40, ignore_eos=True)))
    engine.step(2)
    engine.model.layer_seconds = 50.0
    engine.model.log.clear()
    engine.submit(*ARRIVALS["image"])
    engine.step(30)
    kinds = [kind for kind, _ in engine.model.log]
    assert "layer" in kinds
    assert all(pair != ("layer", "layer") for pair in pairwise(kinds)), "one layer, then a step"


def test_a_long_layer_behind_a_short_one_waits_for_the_next_step() -> None:
    clock, seconds = FakeClock(), [13.5, 9.0, 2.5, 26.0, 26.0, 60.0, 5.0, 5.0, 5.0, 5.0, 5.0, 5.0]  # as 30 s of audio

    def layers() -> Iterator[object]:
        for duration in seconds:
            clock.now += duration
            yield None

    work, runs, done = LayeredWork("audio", 1, layers(), clock=clock), [], False
    while not done:
        start = clock.now
        done = work.run_some(32.0)
        runs.append(clock.now - start)
    assert runs == [22.5, 28.5, 26.0, 60.0, 5.0, 5.0, 20.0], "one slow layer is forgotten after three more"
    assert sum(runs) == sum(seconds)


def test_alone_a_unit_is_computed_layer_by_layer_so_that_messages_are_seen(folder: Path) -> None:
    engine = FakeEngine(folder, layers=20)
    request = engine.submit(*ARRIVALS["image"])
    engine.step(5)
    assert len(engine.model.log) == 5
    request.cancelled = True
    engine.step()
    assert request.phase is Phase.FINISHED and len(engine.model.log) == 5
    assert engine.core.pool.active == 0


def test_exclusive_encoders_and_decode_steps_do_not_overlap(folder: Path) -> None:
    engine = FakeEngine(folder, layers=6, exclusive_encoders=True)
    stream = engine.submit(text(1, 2), params=SamplingParams(max_tokens=60, ignore_eos=True))
    engine.start(stream)
    engine.step(2)
    engine.model.log.clear()
    image = engine.submit(text(5), tile(1), text(6))
    engine.run()
    kinds = [kind for kind, _ in engine.model.log]
    assert kinds[:6] == ["layer"] * 6, "the encoder is not interrupted"
    assert "decode" in kinds[6:12], "prefill is interleaved as ever"
    assert ids_of(read(stream)) == engine.expected(stream).ids and ids_of(read(image)) == engine.expected(image).ids


@pytest.mark.parametrize("ends", [False, True])
def test_an_answer_gets_a_step_between_two_exclusive_units(folder: Path, ends: bool) -> None:
    engine = FakeEngine(folder, layers=6, exclusive_encoders=True)
    params = SamplingParams(max_tokens=60, ignore_eos=True)
    streams = [engine.submit(text(k, 2), params=params) for k in (1, 3)]
    for stream in streams:
        engine.start(stream)
    engine.model.log.clear()
    images = [engine.submit(text(5), *(tile(20 * k + j) for j in range(12)), text(6)) for k in range(2)]
    if ends:  # the request of a unit that is under way
        engine.step(9)
        images[0].cancelled = True
    engine.run()
    runs = [(kind, len(list(group))) for kind, group in groupby(engine.model.log, key=lambda entry: entry[0])]
    layers = [count for kind, count in runs if kind == "layer"]
    assert max(layers) == 6, "no unit begins before a step"
    assert layers.count(6) >= (4 if ends else 6), "and none is interrupted"
    for request in (*streams, *images[ends:]):
        assert ids_of(read(request)) == engine.expected(request).ids


def test_exclusive_units_follow_each_other_while_nobody_decodes(folder: Path) -> None:
    engine = FakeEngine(folder, layers=6, exclusive_encoders=True, max_events=4)
    stream = engine.submit(text(1, 2), params=SamplingParams(max_tokens=60, ignore_eos=True))
    engine.run()
    assert stream.events.full, "its reader is slow, so it is not waited for"
    engine.model.log.clear()
    image = engine.submit(text(5), *(tile(k) for k in range(12)), text(6), params=SamplingParams(max_tokens=2))
    engine.run()
    assert [kind for kind, _ in engine.model.log[:18]] == ["layer"] * 18
    assert ids_of(read(image)) == engine.expected(image).ids


@pytest.mark.parametrize("is_async", [False, True])
def test_decode_time_is_that_of_the_steps_whoever_waits_for_them(
    folder: Path, is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine(folder, is_async=is_async)
    if is_async:  # the host queues a step in no time and waits when it reads
        engine.model.step_seconds = 0.0

        def reading(ids: Tensor) -> Callable[[], list[int]]:
            def read() -> list[int]:
                engine.clock.now += 1.0
                return ids.tolist()

            return read

        monkeypatch.setattr("vita.engine.runner.reading", reading)
    request = engine.submit(text(1, 2), params=SamplingParams(max_tokens=10, ignore_eos=True))
    engine.run()
    done = read(request)[-1]
    assert isinstance(done, Done) and done.timings.decode == 9.0


def test_the_latency_between_tokens_is_what_a_reader_sees(folder: Path) -> None:
    engine = FakeEngine(folder, layers=20, max_events=8)
    stream = engine.submit(text(1, 2, 3), params=SamplingParams(max_tokens=60, ignore_eos=True))
    engine.start(stream)
    engine.submit(*ARRIVALS["image"])
    for _ in range(20):
        read(stream)
        engine.step()
    gaps = engine.core.counters.inter_token
    longest = 1.0 + engine.limits.work_steps
    assert min(gaps) >= 1.0 and longest <= max(gaps) <= longest + 1.0, "a step, and the layers beside it"
    engine.run()  # the reader is slow now
    engine.clock.now += 30.0
    read(stream)
    engine.step(3)
    assert max(gaps) <= longest + 1.0, "a pause that the reader made is not the engine's latency"


# Ends


@pytest.mark.parametrize("end", ["cancel", "deadline", "unread"])
@pytest.mark.parametrize("is_async", [False, True])
def test_an_end_in_any_phase_frees_memory_and_row_within_one_step(folder: Path, end: str, is_async: bool) -> None:
    phases = set()
    for steps in range(60):
        engine = FakeEngine(folder, is_async=is_async, max_events=4, positions=100, max_requests=2)
        stream = engine.submit(text(1, 2), params=SamplingParams(max_tokens=30, ignore_eos=True))
        other = engine.submit(text(5, 6), params=SamplingParams(max_tokens=5, ignore_eos=True))
        engine.start(stream)
        spans = (text(5), tile(1), tile(2), clip(1), text(6))
        request = engine.begin(
            SamplingParams(max_tokens=20, ignore_eos=True), deadline=1000.0 if end == "deadline" else None
        )
        for step in range(steps):
            if step == 3:
                engine.read(request, *spans)
            engine.step()
            stream.events.get(0)
        phases.add(request.phase)
        if request.phase is Phase.FINISHED or (end == "unread" and not request.events.full):
            continue
        if end == "cancel":
            request.cancelled = True
        else:
            engine.clock.now += 2000.0
            stream.events._last_read = other.events._last_read = engine.clock.now
        held = request.cache is not None or bool(request.sequences)
        before = engine.core.pool.active
        engine.step(2 if is_async else 1)  # a step that was launched with it is read back first
        assert request.phase is Phase.FINISHED and isinstance(read(request)[-1], Done)
        assert request not in engine.core.scheduler.requests() and request.cache is None
        assert not held or engine.core.pool.active < before
        while stream.phase is not Phase.FINISHED or other.phase is not Phase.FINISHED:
            for reader in (stream, other):
                read(reader)
            engine.step()
        engine.run()
        assert engine.core.pool.active == 0 and engine.core.open == 0
    assert phases >= {Phase.READING, Phase.WAITING, Phase.ENCODING, Phase.PREFILLING, Phase.RUNNING}


# Failures


@pytest.mark.parametrize("is_async", [False, True])
def test_a_failing_sequence_ends_alone_and_its_companions_are_computed_right(folder: Path, is_async: bool) -> None:
    engine = FakeEngine(folder, is_async=is_async)
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    prompts: list[tuple[Span, ...]] = [
        (text(1, 2),), (text(BAD_DECODE, 2),), (text(4, BAD_PREFILL),), (text(3), tile(BAD_TILE)), (text(3), tile(7)),
        (text(8, 9),),
    ]  # fmt: skip
    requests = [engine.submit(*prompt, params=params) for prompt in prompts]
    engine.run()
    for request, prompt in zip(requests, prompts, strict=True):
        events = read(request)
        if prompt in (prompts[1], prompts[2], prompts[3]):
            assert isinstance(events[-1], BrokenInput), prompt
            assert not any(isinstance(e, (Done, BaseException)) for e in events[:-1])
        else:
            assert ids_of(events) == engine.expected(request).ids, prompt
    stats = engine.core.stats()
    assert (stats.failed, stats.finished, stats.kv_active) == (3, 3, 0) and stats.healthy


@pytest.mark.parametrize("when", ["merged prefill", "step of several"])
def test_a_failure_behind_the_last_layer_does_not_feed_positions_twice(folder: Path, when: str) -> None:
    engine = FakeEngine(folder)
    requests = [engine.submit(text(k, 2, 3), params=SamplingParams(max_tokens=9, ignore_eos=True)) for k in (1, 4, 6)]
    if when == "step of several":
        for request in requests:
            engine.start(request)
    engine.model.raise_once = RuntimeError("out of memory")
    engine.run()
    for request in requests:
        assert ids_of(read(request)) == engine.expected(request).ids


def test_a_slab_that_a_unit_still_writes_into_is_given_to_nobody(folder: Path) -> None:
    engine = FakeEngine(folder, layers=8)
    beginning = tuple(range(20, 40))
    engine.submit(text(*beginning), params=SamplingParams(max_tokens=1))
    engine.run()
    leaves, stays = engine.submit(text(*beginning, 1, 2)), engine.submit(text(3, 4))
    engine.step(3)
    leaves.cancelled = True
    other = engine.submit(text(*beginning, 5, 6))
    engine.run()
    for request in (stays, other):
        assert ids_of(read(request)) == engine.expected(request).ids
    assert engine.core.pool.active == 0


def test_an_error_in_the_text_of_a_sequence_ends_it_alone(folder: Path) -> None:
    engine = FakeEngine(folder)
    params = SamplingParams(max_tokens=9, ignore_eos=True)
    good, bad = (engine.submit(text(k, 2), params=params) for k in (1, 4))
    engine.start(bad)

    def fail(token: int) -> str:
        raise BrokenInput("text")

    bad.sequences[0].text.push = fail  # type: ignore[method-assign]
    engine.run()
    assert isinstance(read(bad)[-1], BrokenInput)
    assert ids_of(read(good)) == engine.expected(good).ids
    assert engine.core.stats().healthy and engine.core.pool.active == 0


def test_a_failed_device_ends_every_request_and_refuses_work(folder: Path) -> None:
    engine = FakeEngine(folder, is_async=True)
    requests = [engine.submit(text(k, 2, 3), params=SamplingParams(max_tokens=99, ignore_eos=True)) for k in range(3)]
    engine.step(6)
    waiting = engine.begin()
    engine.model.raise_once = RuntimeError("CUDA error: an illegal memory access was encountered")
    engine.run()
    for request in (*requests, waiting):
        last = read(request)[-1]
        assert isinstance(last, ResourceError) and "the device has failed" in str(last)
    assert not engine.core.stats().healthy and engine.core.pool.active == 0 and engine.core.open == 0


def test_a_device_that_fails_while_a_prompt_is_between_queues_loses_no_request(folder: Path) -> None:
    for steps in range(12):
        engine = FakeEngine(folder, is_async=True)
        requests = [engine.submit(text(k, 2, 3)) for k in (1, 4)]
        engine.step(steps)
        engine.core._break(DeviceError("gone"))
        engine.run()
        for request in requests:
            assert isinstance(read(request)[-1], (DeviceError, Done)), steps
        assert engine.core.open == 0 and engine.core.pool.active == 0


# Growth, several answers, memory


@pytest.mark.parametrize("is_async", [False, True])
def test_an_answer_without_a_limit_grows_to_the_end_of_the_context(folder: Path, is_async: bool) -> None:
    engine = FakeEngine(folder, context=1500, positions=4000, max_events=10_000, is_async=is_async)
    request = engine.submit(text(1, 2, 3), params=SamplingParams(max_tokens=None, ignore_eos=True))
    engine.run()
    events = read(request)
    assert ids_of(events) == engine.expected(request).ids and len(ids_of(events)) == 1497
    assert isinstance(events[-1], Done) and events[-1].finish_reason == "length" and events[-1].notes


def test_an_answer_that_cannot_grow_ends_with_length(folder: Path) -> None:
    engine = FakeEngine(folder, context=3000, positions=1100, max_events=10_000)
    request = engine.submit(text(1, 2, 3), params=SamplingParams(max_tokens=None, ignore_eos=True))
    engine.run()
    events = read(request)
    assert isinstance(events[-1], Done) and events[-1].finish_reason == "length"
    assert len(ids_of(events)) == 1025 and ids_of(events) == engine.expected(request).ids[:1025]
    assert engine.core.pool.active == 0


def test_several_answers_wait_for_the_memory_of_all_of_them(folder: Path) -> None:
    params = SamplingParams(max_tokens=30, ignore_eos=True)
    engine = FakeEngine(folder, positions=33 * 4 + 10)
    first = [engine.submit(text(k, 2, 3), params=params) for k in (1, 4)]
    several = engine.submit(text(7, 2, 3), params=SamplingParams(max_tokens=30, ignore_eos=True, n=4))
    engine.run()
    for request in first:
        assert ids_of(read(request)) == engine.expected(request).ids
    events = read(several)
    assert [ids_of(events, index) for index in range(4)] == [engine.expected(several).ids] * 4
    assert engine.core.pool.active == 0


@pytest.mark.parametrize("is_async", [False, True])
def test_short_prompts_and_tiles_of_several_requests_share_units(folder: Path, is_async: bool) -> None:
    engine = FakeEngine(folder, is_async=is_async)
    requests = [engine.submit(text(k, 2, 3)) for k in range(6)]
    engine.run()
    assert engine.model.units == 1, "one prefill for all of them"
    engine = FakeEngine(folder, is_async=is_async)
    requests = [engine.submit(text(k), tile(k), tile(20 + k), text(9)) for k in range(2)]
    engine.run()
    assert engine.model.units == 2, "four tiles in one batch, one prefill"
    for request in requests:
        assert ids_of(read(request)) == engine.expected(request).ids


def test_a_content_is_encoded_once_and_counted_once(folder: Path) -> None:
    engine = FakeEngine(folder)
    spans = (text(1), *(tile(k) for k in range(9)), text(2))
    engine.submit(*spans)
    engine.run()
    stats = engine.core.stats()
    assert (stats.encoder_misses, stats.encoder_hits) == (9, 0)
    engine.submit(text(3), *spans)
    engine.run()
    stats = engine.core.stats()
    assert (stats.encoder_misses, stats.encoder_hits) == (9, 9)


def test_the_end_of_a_request_frees_what_it_held(folder: Path) -> None:
    """A handle that is kept must not hold KV slabs that the pool counts as free."""
    engine = FakeEngine(folder)
    request = engine.submit(text(1), tile(1))
    engine.run()
    assert read(request)
    assert not request.sequences and request.cache is None and request.embeds is None and not request.features
