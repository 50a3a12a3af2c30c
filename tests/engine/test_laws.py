"""Laws of the engine on the mini checkpoint: batches, cuts and pauses change no answer; what ends frees its memory."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vita
from vita.engine.handle import MAX_EVENTS, Handle
from vita.errors import MediaError, QueueFull, RequestError, ResourceError
from vita.events import Done, Result, Started, TextDelta
from vita.prompt import processor, turn_reader
from vita.types import Message, SamplingParams, Video

RNG = np.random.default_rng(11)
IMAGES = [RNG.integers(0, 255, (112, 112, 3), np.uint8) for _ in range(4)]
WIDE = RNG.integers(0, 255, (112, 448, 3), np.uint8)
CLIP = vita.Audio(RNG.normal(0, 3000, 16000).astype(np.int16), 16000)
ENDLESS = SamplingParams(max_tokens=1500, ignore_eos=True)
SECONDS = 30.0  # after which a test has failed

PROMPTS: list[tuple[Message, SamplingParams]] = [
    (vita.user("Hello"), SamplingParams(max_tokens=12, logprobs=3)),
    (vita.user("What is this?", image=WIDE), SamplingParams(max_tokens=9, logprobs=3)),
    (vita.user(audio=CLIP), SamplingParams(max_tokens=10, logprobs=3, repetition_penalty=1.3)),
    (vita.user("And?", videos=[Video(IMAGES)]), SamplingParams(max_tokens=8, logprobs=3)),
    (vita.user("Dice"), SamplingParams(max_tokens=14, logprobs=3, temperature=1.2, seed=3)),
    (vita.user("Dice", image=IMAGES[0]), SamplingParams(max_tokens=11, logprobs=3, temperature=0.8, seed=4, top_p=0.9)),
]  # fmt: skip


@pytest.fixture(scope="module")
def loaded(mini: Path) -> Iterator[vita.Vita]:
    with vita.load(mini / "mini_ckpt", dtype="float32", device="cpu") as model:
        yield model


@pytest.fixture
def model(loaded: vita.Vita) -> Iterator[vita.Vita]:
    loaded.engine.clear_caches()
    before = loaded.engine.core.scheduler.limits
    yield loaded
    loaded.engine.core.scheduler.limits = before
    assert_free(loaded)


def wait_for(condition: Callable[[], bool]) -> None:
    """Until another thread has done something."""
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.001)


def assert_free(model: vita.Vita) -> None:
    """Every request has ended, and has given back memory and rows."""
    stats = model.stats()
    assert (stats.reading, stats.waiting, stats.working, stats.running, stats.kv_active) == (0, 0, 0, 0, 0)
    assert model.engine.core.open == 0 and model.engine.core.scheduler.unit is None


@contextmanager
def held(model: vita.Vita, requests: int) -> Iterator[None]:
    """The engine thread stands still inside, and then sees so many requests with their media at once."""
    core, go, standing = model.engine.core, threading.Event(), threading.Event()

    def stand() -> None:
        standing.set()
        go.wait(SECONDS)

    core.inbox.post(stand)
    assert standing.wait(SECONDS)
    try:
        yield
        wait_for(lambda: len(core.inbox._messages) >= 2 * requests)  # submitted, ready
    finally:
        go.set()


def alone(model: vita.Vita, message: Message, params: SamplingParams) -> Result:
    model.engine.clear_caches()
    return model.submit(message, params).result()


def assert_equal(one: Result, other: Result) -> None:
    assert one.token_ids == other.token_ids and one.text == other.text and one.finish_reason == other.finish_reason
    for a, b in zip(one.logprobs, other.logprobs, strict=True):
        assert abs(a.logprob - b.logprob) < 1e-4


# Exactness


def test_a_batch_answers_as_each_request_alone(model: vita.Vita) -> None:
    wanted = [alone(model, *prompt) for prompt in PROMPTS]
    model.engine.clear_caches()
    before = model.stats()
    with held(model, len(PROMPTS)):
        handles = [model.submit(*prompt) for prompt in PROMPTS]
    for handle, result in zip(handles, wanted, strict=True):
        assert_equal(handle.result(), result)
    after = model.stats()
    assert after.decode_rows - before.decode_rows > 2 * (after.decode_steps - before.decode_steps), "they shared steps"


def test_clips_that_are_encoded_together_are_those_alone(model: vita.Vita, monkeypatch: pytest.MonkeyPatch) -> None:
    clips = [vita.Audio(RNG.normal(0, 3000, n).astype(np.int16), 16000) for n in (16000, 9000, 30000, 16000)]
    params = SamplingParams(max_tokens=10, logprobs=3)
    wanted = [alone(model, vita.user(audio=clip), params) for clip in clips]
    model.engine.clear_caches()
    batches: list[int] = []
    encode = model.engine.core.runner._encode_audio
    monkeypatch.setattr(
        model.engine.core.runner,
        "_encode_audio",
        lambda spans, packs: batches.append(len(spans)) or encode(spans, packs),
    )
    with held(model, len(clips)):
        handles = [model.submit(vita.user(audio=clip), params) for clip in clips]
    for handle, one in zip(handles, wanted, strict=True):
        assert_equal(handle.result(), one)
    assert batches == [4]


def test_merged_prefill_and_shared_encoder_batches_answer_as_single_ones(
    model: vita.Vita, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(max_tokens=3, logprobs=5)
    messages = [vita.user(f"Question {k}", image=IMAGES[k]) for k in range(3)]
    model.engine.core.scheduler.limits = replace(model.engine.core.scheduler.limits, prefill_chunk=2048)
    wanted = [alone(model, message, params) for message in messages]
    model.engine.clear_caches()
    runner, units = model.engine.core.runner, list[tuple[str, int]]()
    for name in ("_prefill_work", "_encode_work"):

        def counted(make: Callable[[Any], Any], unit: Any, name: str = name) -> Any:
            units.append((name, len(unit.requests)))
            return make(unit)

        monkeypatch.setattr(runner, name, partial(counted, getattr(runner, name)))
    with held(model, len(messages)):
        handles = [model.submit(message, params) for message in messages]
    for handle, result in zip(handles, wanted, strict=True):
        assert_equal(handle.result(), result)
    assert units == [("_encode_work", 3), ("_prefill_work", 3)]


@pytest.mark.parametrize("index", range(4))
def test_paused_is_unpaused_to_the_bit(model: vita.Vita, index: int) -> None:
    message, params = PROMPTS[index][0], SamplingParams(max_tokens=1, logprobs=50)
    core = model.engine.core
    core.scheduler.limits = replace(core.scheduler.limits, prefill_chunk=64, work_steps=0.0)  # every layer
    whole = alone(model, message, params)
    model.engine.clear_caches()
    stream = model.submit(vita.user("A stream"), ENDLESS)
    events = iter(stream)
    wait_for(lambda: model.stats().running == 1)
    steps = model.stats().decode_steps
    reader = threading.Thread(target=lambda: list(events))
    reader.start()
    paused = model.submit(message, params).result()
    taken = model.stats().decode_steps - steps
    stream.cancel()
    reader.join(SECONDS)
    assert paused.logprobs == whole.logprobs and paused.token_ids == whole.token_ids
    assert taken > 3, "the stream went on between layers"


def test_answers_of_one_request_are_those_of_seeds_that_count_up(model: vita.Vita) -> None:
    message = vita.user("Dice", image=IMAGES[1])
    params = SamplingParams(max_tokens=12, temperature=1.0, seed=40, logprobs=2)
    wanted = [alone(model, message, replace(params, seed=40 + k)) for k in range(4)]
    assert len({result.token_ids for result in wanted}) > 1
    model.engine.clear_caches()
    got = model.submit(message, replace(params, n=4)).results()
    for one, other in zip(got, wanted, strict=True):
        assert_equal(one, other)
    assert got[0].usage.prompt_tokens == wanted[0].usage.prompt_tokens


def test_more_requests_than_rows_all_answer_as_alone(model: vita.Vita) -> None:
    params = SamplingParams(max_tokens=6)
    wanted = [alone(model, vita.user(f"Q{k}"), params).token_ids for k in range(21)]
    with held(model, 21):
        handles = [model.submit(vita.user(f"Q{k}"), params) for k in range(21)]
    assert [handle.result().token_ids for handle in handles] == wanted


# Ends


@contextmanager
def blocked_reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Images are not read before the end of the block."""
    begun, go, load = threading.Event(), threading.Event(), turn_reader.load_image_with_notes

    def wait(*arguments: Any) -> Any:
        begun.set()
        go.wait(SECONDS)
        return load(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(turn_reader, "load_image_with_notes", wait)
        try:
            yield begun
        finally:
            go.set()


def test_a_cancel_while_media_are_read_takes_effect_at_once(model: vita.Vita, monkeypatch: pytest.MonkeyPatch) -> None:
    with blocked_reading(monkeypatch) as begun:
        handle = model.submit(vita.user("What?", image=IMAGES[0]))
        assert begun.wait(SECONDS)
        handle.cancel()
        assert handle.result().finish_reason == "cancelled"
        assert_free(model)
    assert model.ask("Still there?", params=SamplingParams(max_tokens=2)).token_ids


def test_a_deadline_that_passes_while_media_are_read(model: vita.Vita, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = threading.Event()
    read = processor.Processor.read_turn

    def watch(self: Any, message: Message, options: Any, watch: Any, guard: Any) -> Any:
        wait_for(lambda: guard.cancelled())
        stopped.set()
        return read(self, message, options, watch, guard)

    monkeypatch.setattr(processor.Processor, "read_turn", watch)
    assert model.submit(vita.user("What?"), deadline=0.05).result().finish_reason == "cancelled"
    assert stopped.wait(SECONDS), "the worker is told, too, and does not read on for nobody"


def test_a_running_request_ends_by_cancel_by_deadline_and_by_a_dropped_handle(model: vita.Vita) -> None:
    handle = model.submit(vita.user("Hello"), ENDLESS)
    for event in handle:
        if isinstance(event, TextDelta):
            break
    model.submit(vita.user("Hello"), ENDLESS, deadline=0.2)  # and its handle is dropped
    late = model.submit(vita.user("Hello"), ENDLESS, deadline=0.2)
    assert late.result().finish_reason == "cancelled"
    full = model.submit(vita.user("Hello"), ENDLESS)
    wait_for(lambda: full._events.full)
    full.cancel()
    assert full.result().finish_reason == "cancelled"
    wait_for(lambda: model.stats().running == 0)


def test_requests_that_wait_for_memory_run_later_or_leave_at_once(mini: Path) -> None:
    message, params = vita.user("Hello"), SamplingParams(max_tokens=100, ignore_eos=True)
    with vita.load(mini / "mini_ckpt", dtype="float32", device="cpu", kv_budget=300 * 384) as model:
        position = model.engine.core.pool.bytes_for(1)
    with vita.load(mini / "mini_ckpt", dtype="float32", device="cpu", kv_budget=300 * position) as model:
        wanted = model.submit(message, params).result()
        with held(model, 3):
            first, second, third = (model.submit(message, params) for _ in range(3))
        wait_for(lambda: model.stats().waiting == 2)
        third.cancel()
        assert third.result().finish_reason == "cancelled"
        assert first.result().token_ids == second.result().token_ids == wanted.token_ids
        with pytest.raises(ResourceError, match="more than the whole KV cache budget"):
            model.submit(message, SamplingParams(max_tokens=1000)).result()
        assert_free(model)


def test_an_image_that_fails_ends_its_request_alone(model: vita.Vita, monkeypatch: pytest.MonkeyPatch) -> None:
    from vita.engine import runner

    normalise = runner.normalise
    params = SamplingParams(max_tokens=5)
    wanted = alone(model, vita.user("One", image=IMAGES[0]), params)
    bad = np.full((112, 112, 3), 7, np.uint8)

    def fails(tiles: Any, config: Any, device: Any) -> Any:
        if any((tile == 7).all() for tile in tiles):
            raise ValueError("no such image")
        return normalise(tiles, config, device)

    monkeypatch.setattr(runner, "normalise", fails)
    model.engine.clear_caches()
    with held(model, 2):
        good = model.submit(vita.user("One", image=IMAGES[0]), params)
        broken = model.submit(vita.user("Two", image=bad))
    with pytest.raises(ValueError, match="no such image"):
        broken.result()
    assert good.result().token_ids == wanted.token_ids
    assert model.engine.is_healthy


def test_a_slow_reader_pauses_only_itself(model: vita.Vita) -> None:
    params = SamplingParams(max_tokens=MAX_EVENTS + 150, ignore_eos=True)
    slow = model.submit(vita.user("Hello"), params)
    wait_for(lambda: slow._events.full)
    other = model.submit(vita.user("And?"), SamplingParams(max_tokens=40, ignore_eos=True)).result()
    assert len(other.token_ids) == 40 and len(slow._events._events) == MAX_EVENTS
    assert_equal(slow.result(), alone(model, vita.user("Hello"), params))


def test_a_request_without_a_limit_ends_where_the_memory_does(mini: Path) -> None:
    with vita.load(mini / "mini_ckpt", dtype="float32", device="cpu", kv_budget=1300 * 384) as model:
        pool = model.engine.core.pool
        pool.budget = pool.bytes_for(1300)
        result = model.submit(vita.user("Hello"), SamplingParams(max_tokens=None, ignore_eos=True)).result()
        assert result.finish_reason == "length" and len(result.token_ids) == 1025
        assert_free(model)


# What was used


@pytest.mark.parametrize("end", ["done", "cancelled", "failed"])
def test_what_was_used_is_known_while_a_request_runs_and_after_its_end(model: vita.Vita, end: str) -> None:
    handle = model.submit(vita.user("What?", image=WIDE), SamplingParams(max_tokens=30, ignore_eos=True))
    events = iter(handle)
    next(event for event in events if isinstance(event, TextDelta))
    before = handle.usage_so_far()
    assert before.completion_tokens > 0 and before.image_tokens > 0
    if end == "cancelled":
        handle.cancel()
    if end == "failed":
        request = handle.request
        assert request is not None
        model.engine.call(lambda: model.engine.core.fail(request, MediaError("broken")))
        with pytest.raises(MediaError):
            list(events)
    else:
        done = list(events)[-1]
        assert isinstance(done, Done) and handle.usage_so_far() == done.usage
    after = handle.usage_so_far()
    assert replace(after, completion_tokens=0) == replace(before, completion_tokens=0)
    assert after.completion_tokens >= before.completion_tokens


def test_what_several_answers_used_is_added_up(model: vita.Vita) -> None:
    handle = model.submit(vita.user("Dice"), SamplingParams(max_tokens=9, temperature=1.5, n=3, seed=1))
    results = handle.results()
    assert handle.usage_so_far().completion_tokens == sum(result.usage.completion_tokens for result in results)


# What is refused


@pytest.mark.parametrize(
    "arguments",
    [
        {"params": SamplingParams(temperature=-1)}, {"deadline": 0}, {"deadline": -1.0}, {"deadline": float("nan")},
        {"deadline": "soon"}, {"priority": "high"}, {"priority": None}, {"priority": float("nan")}, {"cache_salt": 5},
        {"cache_salt": []}, {"options": vita.MediaOptions(max_tiles=99)}, {"priority": 10**400},
        {"priority": -(10**5000)}, {"priority": 1_000_001},
        {"deadline": 10**400}, {"deadline": 10**5000}, {"deadline": -float("inf")},
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_at_once(model: vita.Vita, arguments: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        model.submit(vita.user("Hello"), **arguments)
    assert model.ask("Hello", params=SamplingParams(max_tokens=1)).token_ids, "and the engine is well"


@pytest.mark.parametrize("priority", [-1_000_000, 1_000_000])
def test_the_outermost_priorities_are_answered(model: vita.Vita, priority: int) -> None:
    asked = model.submit(vita.user("Hello"), SamplingParams(max_tokens=1), priority=priority)
    assert len(asked.result().token_ids) == 1


@pytest.mark.parametrize("messages", [[], [vita.assistant("Hi")], [vita.user(" ")], [vita.system("You are")]])
def test_bad_conversations_are_refused_at_once(model: vita.Vita, messages: list[Message]) -> None:
    with pytest.raises(RequestError):
        model.submit(messages)


def test_a_deadline_may_be_far_away(model: vita.Vita) -> None:
    for deadline in (float("inf"), 1e18):
        count = MAX_EVENTS + 50
        handle = model.submit(vita.user("Hello"), SamplingParams(max_tokens=count, ignore_eos=True), deadline=deadline)
        wait_for(lambda handle=handle: handle._events.full)  # the engine has nothing to do, and waits
        assert len(handle.result().token_ids) == count


def test_media_and_length_errors_are_raised_by_the_handle(model: vita.Vita) -> None:
    with pytest.raises(MediaError):
        model.submit(vita.user("What?", image="no-such-file.png")).result()
    with pytest.raises(RequestError, match="context"):
        model.submit(vita.user("word " * 3000)).result()


def test_a_full_queue_is_refused_and_counted(mini: Path) -> None:
    with vita.load(mini / "mini_ckpt", dtype="float32", device="cpu", max_queue=1) as model:
        core = model.engine.core
        core.scheduler.limits = replace(core.scheduler.limits, max_requests=1)
        handles = [model.submit(vita.user("Hello"), ENDLESS) for _ in range(2)]
        with pytest.raises(QueueFull, match="2 requests"):
            model.submit(vita.user("Hello"))
        assert model.stats().refused == 1
        for handle in handles:
            handle.cancel()
            handle.result()
        assert model.ask("Hello", params=SamplingParams(max_tokens=1)).token_ids


# Statistics, loading and the end of an engine


def test_stats_add_up(mini: Path) -> None:
    with vita.load(mini / "mini_ckpt", dtype="float32", device="cpu") as model:
        results = [model.ask("Hello", images=IMAGES[:1], params=SamplingParams(max_tokens=5)) for _ in range(2)]
        with pytest.raises(MediaError):
            model.ask("Hello", images=["no-such-file.png"])
        cancelled = model.submit(vita.user("Other"), ENDLESS)
        wait_for(lambda: model.stats().running == 1)
        cancelled.cancel()
        last = cancelled.result()
        stats = model.stats()
    assert (stats.submitted, stats.finished, stats.cancelled, stats.failed, stats.refused) == (4, 2, 1, 1, 0)
    everything = [*results, last]
    assert stats.prompt_tokens == sum(r.usage.prompt_tokens for r in everything)
    assert stats.completion_tokens == sum(len(r.token_ids) for r in everything)
    assert stats.reused_tokens == sum(r.usage.reused_tokens for r in everything) > 0
    assert stats.decode_rows == stats.decode_steps == sum(len(r.token_ids) - 1 for r in everything)
    assert (stats.encoder_misses, stats.encoder_hits) == (results[0].usage.tiles, 0)
    assert stats.kv_active == 0 and 0 < stats.kv_idle <= stats.kv_budget and stats.healthy
    assert stats.first_token_median is not None and stats.inter_token_median is not None


def load(mini: Path, **options: Any) -> vita.Vita:
    return vita.load(mini / "mini_ckpt", dtype="float32", device="cpu", **options)


def test_close_ends_pending_requests_and_every_thread(mini: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(threading.enumerate())
    model = load(mini)
    session = model.session()
    running = session.submit(vita.user("Hello"), ENDLESS)
    wait_for(lambda: model.stats().running == 1)
    with blocked_reading(monkeypatch) as begun:
        reading = model.submit(vita.user("What?", image=IMAGES[0]))
        assert begun.wait(SECONDS)
        running.cancel()
        following = session.submit(vita.user("And?"))  # its prompt waits for the end of the turn before
        model.close()
        handles: list[Handle] = [running, reading, following]
        assert [handle.result().finish_reason for handle in handles] == ["cancelled"] * 3
    model.close()
    assert not model.engine._thread.is_alive() and not model.engine.is_healthy
    with pytest.raises(ResourceError, match="closed"):
        model.submit(vita.user("Hello"))
    wait_for(lambda: set(threading.enumerate()) <= before)
    assert model.stats().cancelled == 3


@pytest.mark.parametrize("used", ["stats", "answer", "session", "cancelled session", "failed"])
def test_a_dropped_model_ends_its_threads_and_is_freed(mini: Path, used: str) -> None:
    before = set(threading.enumerate())
    model = load(mini)
    if used == "stats":
        model.stats()
    elif used == "answer":
        model.ask("Hello", params=SamplingParams(max_tokens=2))
    elif used == "failed":
        with pytest.raises(MediaError):
            model.ask("Hello", images=["no-such-file.png"])
    else:
        handle = model.session().submit(vita.user("Hello"), SamplingParams(max_tokens=300, ignore_eos=True))
        if used == "cancelled session":
            handle.cancel()
        list(handle)
        del handle
    time.sleep(0.05)  # the engine thread waits
    engine = weakref.ref(model.engine)
    del model
    gc.collect()
    assert engine() is None
    wait_for(lambda: set(threading.enumerate()) <= before)


def test_a_handle_keeps_its_engine_until_it_is_read(mini: Path) -> None:
    handle = load(mini).submit(vita.user("Hello"), SamplingParams(max_tokens=300, ignore_eos=True))
    gc.collect()
    assert len(handle.result().token_ids) == 300


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_error_while_loading_reaches_the_caller(mini: Path, error: BaseException) -> None:
    before = set(threading.enumerate())

    def progress(*_: object) -> None:
        raise error

    with pytest.raises(type(error)):
        load(mini, progress=progress)
    wait_for(lambda: set(threading.enumerate()) <= before)


def test_ctrl_c_while_loading_reaches_the_caller(mini: Path) -> None:
    before, sent = set(threading.enumerate()), list[int]()

    def progress(*_: object) -> None:
        if not sent:
            sent.append(1)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)

    with pytest.raises(KeyboardInterrupt):
        load(mini, progress=progress)
    wait_for(lambda: set(threading.enumerate()) <= before)


def test_started_comes_first_and_carries_the_state(model: vita.Vita) -> None:
    events = list(model.submit(vita.user("Hello"), SamplingParams(max_tokens=4)))
    assert isinstance(events[0], Started) and sum(isinstance(event, Started) for event in events) == 1
