"""An image or audio clip is encoded once: same answers, fewer tiles through the encoder, a bounded cache."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vita
from vita.engine.encoder_cache import EncoderCache
from vita.types import Image, Message, SamplingParams, Text, Video

PARAMS = SamplingParams(max_tokens=6)
DICE = np.random.default_rng(3)
ONE, OTHER = (DICE.integers(0, 255, (112, 112, 3), dtype=np.uint8) for _ in range(2))


def rows(value: float) -> torch.Tensor:
    return torch.full((2, 3), float(value))  # 24 bytes


@given(
    st.integers(0, 5), st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.sampled_from(["", "salt"])), max_size=50)
)
def test_the_cache_is_bounded_and_forgets_the_least_recently_used(
    count: int, operations: list[tuple[bool, int, str]]
) -> None:
    cache, kept = EncoderCache(max_bytes=24 * count), dict[tuple[str, int], float]()
    for put, number, salt in operations:
        key = salt, number
        if put:
            cache.put(b"%d" % number, salt, rows(number))
            if key not in kept and count:
                kept[key] = float(number)
                if len(kept) > count:
                    del kept[next(iter(kept))]
        else:
            found = cache.get(b"%d" % number, salt)
            assert (None if found is None else float(found[0, 0])) == kept.get(key)
            if found is not None:
                kept[key] = kept.pop(key)
        assert cache.nbytes == 24 * len(kept) <= cache.max_bytes
    cache.clear()
    assert cache.nbytes == 0 and all(cache.get(b"%d" % number, salt) is None for salt, number in kept)


def test_one_that_is_larger_than_the_cache_is_not_kept_and_evicts_nothing() -> None:
    cache = EncoderCache(max_bytes=48)
    cache.put(b"1", "", rows(1))
    cache.put(b"2", "", torch.zeros(100))
    assert cache.get(b"1", "") is not None and cache.get(b"2", "") is None


@pytest.fixture
def seen(mini_model: vita.Vita) -> Iterator[list[int]]:
    """Tiles that went through the encoder."""
    counts: list[int] = []
    mini_model.engine.clear_caches()
    mini_model.warm_up()
    hook = mini_model.engine.model.vision.layers[0].register_forward_pre_hook(lambda _, x: counts.append(len(x[0])))
    yield counts
    hook.remove()


def test_the_same_image_in_another_conversation_is_not_encoded_again(mini_model: vita.Vita, seen: list[int]) -> None:
    def ask(system: str) -> tuple[int, ...]:
        return mini_model.ask("What?", images=[ONE], system_text=system, params=PARAMS).token_ids

    fresh = ask("One.")
    before = sum(seen)
    other = ask("Another system text.")
    assert before > 0 and sum(seen) == before
    mini_model.engine.clear_caches()
    assert ask("Another system text.") == other and sum(seen) == 2 * before
    assert ask("One.") == fresh


def test_images_in_another_order_are_the_same_images(mini_model: vita.Vita, seen: list[int]) -> None:
    mini_model.ask("What?", images=[ONE, OTHER], params=PARAMS)
    before = sum(seen)
    swapped = mini_model.ask("What?", images=[OTHER, ONE], params=PARAMS).token_ids
    assert sum(seen) == before
    mini_model.engine.clear_caches()
    assert mini_model.ask("What?", images=[OTHER, ONE], params=PARAMS).token_ids == swapped


def test_frames_that_stand_still_are_encoded_once(mini_model: vita.Vita, seen: list[int]) -> None:
    clip = Video([ONE, ONE, ONE, OTHER, OTHER])
    said = mini_model.ask("What?", videos=[clip], params=PARAMS)
    assert sum(seen) == 2 and said.usage.images == 5
    message = Message("user", (Video([ONE]), Image(ONE), Text("Same?")))
    mini_model.submit(message, PARAMS).result()


def test_rows_of_one_tenant_are_not_another_ones(mini_model: vita.Vita, seen: list[int]) -> None:
    for salt, tiles in (("a", 1), ("b", 2), ("a", 2), ("b", 2)):
        mini_model.submit(vita.user("What?", image=ONE), PARAMS, cache_salt=salt).result()
        assert sum(seen) == tiles
