"""A turn that goes on where another ended gives the same answer, and computes only what is new."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vita
from vita.config import DecoderConfig
from vita.engine.prefix_cache import PrefixCache, Unit, filled, rows_of
from vita.events import Result
from vita.media.digest import digest
from vita.model.kv_cache import KVCache
from vita.types import SamplingParams

RNG = np.random.default_rng(1)
PICTURE, OTHER = (RNG.integers(0, 255, (70, 50, 3), np.uint8) for _ in range(2))
SOUND = vita.Audio(RNG.normal(0, 3000, 16000).astype(np.int16), 16000)
PARAMS = SamplingParams(max_tokens=10, logprobs=1)
CONFIG = DecoderConfig(16, 16, 1, 2, 1, vocab_size=8)


@pytest.fixture
def model(mini: Path) -> vita.Vita:
    return vita.load(mini / "mini_ckpt", dtype="float32", device="cpu")


def ask(model: vita.Vita, *messages: vita.Message) -> Result:
    return Result.collect(model.stream(messages, PARAMS))


def assert_same(model: vita.Vita, warm: Result, *messages: vita.Message) -> None:
    """What a model that remembers nothing says."""
    model.engine.prefixes.clear()
    cold = ask(model, *messages)
    assert cold.usage.reused_tokens == 0 and warm.token_ids == cold.token_ids
    for a, b in zip(warm.logprobs, cold.logprobs, strict=True):
        assert abs(a.logprob - b.logprob) < 1e-4


def test_a_second_question_about_a_picture_skips_vision(model: vita.Vita) -> None:
    ask(model, vita.user("What is this?", image=PICTURE))
    second = vita.user("And its colour?", image=PICTURE)
    warm = ask(model, second)
    assert warm.timings.vision == 0
    assert warm.usage.reused_tokens > warm.usage.image_tokens > 0
    assert_same(model, warm, second)


def test_a_follow_up_reuses_the_whole_conversation(model: vita.Vita) -> None:
    first = vita.user("Hello", image=PICTURE, audio=SOUND)
    said = ask(model, first)
    talk = (first, vita.assistant(said.text), vita.user("And then?"))
    warm = ask(model, *talk)
    assert warm.timings.vision == warm.timings.audio == 0
    assert warm.usage.reused_tokens > said.usage.prompt_tokens - 5
    assert_same(model, warm, *talk)


def test_another_picture_or_sound_is_not_taken_for_the_same(model: vita.Vita) -> None:
    ask(model, vita.user("What is this?", image=PICTURE, audio=SOUND))
    other = vita.user("What is this?", image=OTHER, audio=SOUND)
    warm = ask(model, other)
    assert warm.timings.vision > 0
    assert_same(model, warm, other)
    louder = vita.Audio(SOUND.source * 2, 16000)
    quiet = ask(model, vita.user("What is this?", image=OTHER, audio=louder))
    assert quiet.timings.vision == 0 and quiet.timings.audio > 0


def test_the_same_question_again_computes_one_token(model: vita.Vita) -> None:
    message = vita.user("Hello")
    first, again = ask(model, message), ask(model, message)
    assert again.token_ids == first.token_ids
    assert again.usage.reused_tokens == again.usage.prompt_tokens - 1


def test_a_longer_answer_gets_more_room(model: vita.Vita) -> None:
    message = vita.user("Hello")
    short = Result.collect(model.stream(message, SamplingParams(max_tokens=2)))
    long = Result.collect(model.stream(message, SamplingParams(max_tokens=60)))
    assert long.usage.reused_tokens and long.token_ids[:2] == short.token_ids and len(long.token_ids) == 60
    model.engine.prefixes.clear()
    assert long.token_ids == Result.collect(model.stream(message, SamplingParams(max_tokens=60))).token_ids


def test_a_cancelled_answer_leaves_a_usable_beginning(model: vita.Vita) -> None:
    message = vita.user("Hello", image=PICTURE)
    events = model.stream(message, SamplingParams(max_tokens=100))
    next(iter(events))
    events.close()  # type: ignore[attr-defined]
    warm = ask(model, message)
    assert warm.usage.reused_tokens == warm.usage.prompt_tokens - 1
    assert_same(model, warm, message)
    assert model.ask("Hello", cancelled=lambda: True).finish_reason == "cancelled"


def test_another_conversation_does_not_cost_this_one_its_memory(model: vita.Vita) -> None:
    first = vita.user("Hello", image=PICTURE)
    said = ask(model, first)
    for k in range(3):
        ask(model, vita.user(f"Something else {k}", image=OTHER))
    warm = ask(model, first, vita.assistant(said.text), vita.user("And then?"))
    assert warm.timings.vision == 0 and warm.usage.reused_tokens > said.usage.prompt_tokens - 5


def cache(rows: int, capacity: int = 8) -> KVCache:
    made = KVCache(CONFIG, capacity, dtype=torch.float32, device=torch.device("cpu"))
    made.length = rows
    return made


class TestStore:
    def test_the_longest_beginning_wins(self) -> None:
        store = PrefixCache()
        store.put([Unit(k) for k in (1, 2)], cache(2))
        store.put([Unit(k) for k in (1, 2, 3, 4)], cache(4))
        found, shared = store.take([Unit(k) for k in (1, 2, 3, 9)], 8)
        assert found is not None and (found.length, shared) == (3, 3)
        assert store.take([Unit(9), Unit(2)], 8) == (None, 0)

    def test_the_last_unit_is_always_computed(self) -> None:
        store = PrefixCache()
        store.put([Unit(1), Unit(b"tile", 4)], cache(5))
        assert store.take([Unit(1), Unit(b"tile", 4)], 8)[1] == 1

    def test_a_common_beginning_is_copied_and_a_conversation_handed_over(self) -> None:
        store = PrefixCache()
        long = cache(8)
        long.keys.normal_()
        store.put([Unit(k) for k in range(8)], long)
        begun, shared = store.take([Unit(0), Unit(1), Unit(99)], 5)
        assert begun is not None and begun is not long and (begun.length, begun.capacity, shared) == (2, 5, 2)
        torch.testing.assert_close(begun.keys[:, :, :, :2], long.keys[:, :, :, :2])
        assert long.length == 8
        gone_on, shared = store.take([Unit(k) for k in (*range(8), 99)], 8)
        assert gone_on is long and shared == 8 and store.take([Unit(0), Unit(1)], 8) == (None, 0)

    def test_count_and_memory_are_bounded(self) -> None:
        one = cache(1).nbytes
        store = PrefixCache(most_caches=2, most_bytes=10 * one)
        for k in range(5):
            store.put([Unit(k), Unit(9)], cache(2))
        assert [store.take([Unit(k), Unit(8)], 8)[1] for k in range(5)] == [0, 0, 0, 1, 1]
        tight = PrefixCache(most_caches=9, most_bytes=2 * one)
        for k in range(3):
            tight.put([Unit(k), Unit(9)], cache(2))
        assert [tight.take([Unit(k), Unit(8)], 8)[1] for k in range(3)] == [0, 1, 1]
        tight.put([Unit(7), Unit(2)], cache(2, capacity=100))
        assert tight.take([Unit(7), Unit(3)], 8) == (None, 0), "one that is larger than the bound is not kept"

    @given(st.lists(st.integers(1, 5), max_size=12), st.integers(0, 40))
    def test_filled_units_lie_whole_within(self, rows: list[int], length: int) -> None:
        units = [Unit(k, r) for k, r in enumerate(rows)]
        kept = filled(units, length)
        assert rows_of(kept) <= length and units[: len(kept)] == kept
        assert len(kept) == len(units) or rows_of(units[: len(kept) + 1]) > length

    def test_growing_keeps_what_is_filled(self) -> None:
        small = cache(3)
        small.keys.normal_()
        small.values.normal_()
        large = small.copy_prefix(3, 20)
        assert large.capacity == 20 and large.length == 3
        torch.testing.assert_close(large.keys[:, :, :, :3], small.keys[:, :, :, :3])
        torch.testing.assert_close(large.values[:, :, :, :3], small.values[:, :, :, :3])


def test_digests_tell_shapes_and_values_apart() -> None:
    a = torch.arange(6.0)
    names = {digest(a), digest(a.view(2, 3)), digest(a + 1), digest(a, a), digest(a[:3], a[3:])}
    assert len(names) == 5 and digest(a) == digest(a.clone())
