"""Memory of the KV pool: a system that has none left spoils one request at most, and no slab outlives its count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.engine.fakes import FakeEngine, new_cache, read, text, tile

from vita.engine import sampled
from vita.engine.request import Request
from vita.errors import ResourceError
from vita.events import Done
from vita.model.kv_cache import KVCache
from vita.types import SamplingParams

MEMORY_ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.50 GiB"),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1610612736 bytes"),
    MemoryError(),
]
LONG = SamplingParams(max_tokens=90, ignore_eos=True)


@pytest.fixture
def folder(mini: Path) -> Path:
    return mini / "mini_ckpt"


def failing(function: Callable[..., Any], times: int, error: BaseException) -> Callable[..., Any]:
    """A function that raises so often before it works."""
    left = [error] * times

    def call(*arguments: Any) -> Any:
        if left:
            raise left.pop()
        return function(*arguments)

    return call


def done_of(request: Request) -> Done:
    last = read(request)[-1]
    assert isinstance(last, Done), last
    return last


def assert_well(engine: FakeEngine) -> None:
    """The engine answers, and no byte is lost."""
    request = engine.submit(text(90, 91))
    engine.run()
    assert done_of(request).token_ids == engine.expected(request).ids
    assert engine.core.stats().healthy and engine.core.pool.active == 0 and engine.core.open == 0


# No memory, whatever the budget says


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=lambda error: type(error).__name__)
def test_idle_prefixes_make_way_for_a_request_that_finds_no_memory(folder: Path, error: BaseException) -> None:
    engine = FakeEngine(folder)
    engine.submit(text(1, 2, 3))
    engine.run()
    engine.core.pool._allocate = failing(new_cache, 1, error)
    request = engine.submit(text(4, 5, 6))
    engine.step()
    assert not len(engine.core.pool.prefixes), "they were freed for it"
    engine.run()
    assert done_of(request).token_ids == engine.expected(request).ids
    assert_well(engine)


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=lambda error: type(error).__name__)
def test_a_request_that_finds_no_memory_fails_alone(folder: Path, error: BaseException) -> None:
    engine = FakeEngine(folder)
    runs = engine.submit(text(7, 8), params=LONG)
    engine.start(runs)
    engine.core.pool._allocate = failing(new_cache, 2, error)
    fails, waits = engine.submit(text(1, 2, 3)), engine.submit(text(4, 5, 6))
    engine.run()
    assert read(fails) == [error]
    for request in (runs, waits):
        assert done_of(request).token_ids == engine.expected(request).ids
    assert engine.core.stats().failed == 1
    assert_well(engine)


def test_those_behind_one_that_finds_no_memory_are_served_without_a_message(folder: Path) -> None:
    engine = FakeEngine(folder)
    engine.core.pool._allocate = failing(new_cache, 2, MEMORY_ERRORS[0])
    engine.submit(text(1, 2, 3))
    waits = engine.submit(text(4, 5, 6))
    engine.step()
    assert engine.inbox.waits == [], "nobody would wake it"
    engine.run()
    assert done_of(waits).token_ids == engine.expected(waits).ids


def test_a_beginning_that_cannot_be_copied_is_computed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine(folder)
    engine.submit(text(*range(20, 40)))
    engine.run()
    monkeypatch.setattr(KVCache, "copy_prefix", failing(KVCache.copy_prefix, 1, MEMORY_ERRORS[0]))
    request = engine.submit(text(*range(20, 30), 1, 2))
    engine.run()
    done = done_of(request)
    assert done.token_ids == engine.expected(request).ids and done.usage.reused_tokens == 0
    assert_well(engine)


@pytest.mark.parametrize("error", MEMORY_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("when", ["encoding", "running"])
def test_a_slab_that_cannot_be_trimmed_is_freed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, when: str, error: BaseException
) -> None:
    engine = FakeEngine(folder, layers=2)
    request = engine.submit(text(1, 2, 3), *([tile(1)] if when == "encoding" else []), params=LONG)
    other = engine.submit(text(4, 5, 6))
    if when == "running":
        engine.start(request)
    else:
        while request.done_rows == 0:  # after the image, its prompt is prefilled in two parts
            engine.core.scheduler.limits.__dict__["prefill_chunk"] = 4
            engine.step()
    monkeypatch.setattr(KVCache, "copy_prefix", failing(KVCache.copy_prefix, 1, error))
    request.cancelled = True
    engine.step()
    assert done_of(request).finish_reason == "cancelled"
    engine.run()
    assert done_of(other).token_ids == engine.expected(other).ids
    assert_well(engine)


@pytest.mark.parametrize("n", [2, 4])
def test_further_answers_that_find_no_memory_fail_with_their_request(
    folder: Path, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    engine = FakeEngine(folder)
    request = engine.submit(text(1, 2, 3), params=SamplingParams(max_tokens=9, n=n))
    monkeypatch.setattr(KVCache, "copy_prefix", failing(KVCache.copy_prefix, 2, MEMORY_ERRORS[0]))
    engine.run()
    assert read(request) == [MEMORY_ERRORS[0]]
    assert_well(engine)


@pytest.mark.parametrize("is_async", [False, True])
def test_log_probabilities_that_find_no_memory_fail_their_request_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    engine = FakeEngine(folder, is_async=is_async)
    runs = engine.submit(text(7, 8), params=LONG)
    fails = engine.submit(text(1, 2, 3), params=SamplingParams(max_tokens=9, logprobs=2, n=2))
    wrapped = failing(sampled.log_probabilities, 1, MEMORY_ERRORS[0])
    monkeypatch.setattr(sampled, "log_probabilities", wrapped)
    engine.run()
    assert read(fails)[-1] is MEMORY_ERRORS[0]
    assert done_of(runs).token_ids == engine.expected(runs).ids and engine.core.stats().failed == 1
    assert_well(engine)


def test_a_device_that_fails_at_log_probabilities_is_no_lack_of_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine(folder, is_async=True)
    error = RuntimeError("CUDA error: an illegal memory access")
    monkeypatch.setattr(sampled, "log_probabilities", failing(sampled.log_probabilities, 1, error))
    request = engine.submit(text(1, 2, 3), params=SamplingParams(max_tokens=9, logprobs=2))
    engine.run()
    assert isinstance(read(request)[-1], ResourceError) and not engine.core.stats().healthy


def test_a_device_that_fails_while_it_allocates_is_no_lack_of_memory(folder: Path) -> None:
    engine = FakeEngine(folder, is_async=True)
    engine.core.pool._allocate = failing(new_cache, 9, RuntimeError("CUDA error: an illegal memory access"))
    request = engine.submit(text(1, 2, 3))
    engine.run()
    last = read(request)[-1]
    assert isinstance(last, ResourceError) and "the device has failed" in str(last)
    assert not engine.core.stats().healthy


# What is counted


def live_bytes(engine: FakeEngine, *requests: Request) -> int:
    """Bytes of all slabs that something refers to, each counted once."""
    slabs = {id(entry.cache): entry.cache for entry in engine.core.pool.prefixes._entries}
    for request in requests:
        held = [request.cache, *(answer.slab for answer in request.sequences)]
        slabs |= {id(cache): cache for cache in held if cache is not None}
    return sum(cache.nbytes for cache in slabs.values())


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("end", ["stop", "cancel", "error"])
def test_no_slab_outlives_its_count_while_other_answers_of_its_request_run(
    folder: Path, end: str, is_async: bool
) -> None:
    engine, ended_apart = FakeEngine(folder, is_async=is_async, positions=300), 0
    engine.model.stop_ids = frozenset(range(0, engine.model.tokenizer.size, 8))  # an answer ends after about 8 tokens
    for seed in range(6):
        params = SamplingParams(max_tokens=40, temperature=5.0, seed=seed, n=4)
        request = engine.submit(text(1, 2, seed), params=params)
        for step in range(60):
            engine.step()
            assert live_bytes(engine, request) <= engine.core.pool.used <= engine.core.pool.budget
            reasons = [answer.reason for answer in request.sequences]
            ended_apart += None in reasons and any(reasons)
            if step == 12 and end == "cancel":
                request.cancelled = True
            if step == 12 and end == "error":
                engine.core.fail(request, MEMORY_ERRORS[0])
        assert engine.core.pool.active == 0
    assert ended_apart, "some answers ended while others of their request ran"
