"""A picture or sound is encoded once: same answers, fewer tiles through the encoder, a bounded store."""

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


@given(st.lists(st.integers(0, 9), max_size=30))
def test_rows_come_back_in_order_and_are_made_once(wanted: list[int]) -> None:
    store, made = EncoderCache(), []

    def encode(places: list[int]) -> list[torch.Tensor]:
        made.extend(wanted[k] for k in places)
        return [torch.full((2, 3), float(wanted[k])) for k in places]

    keys = [bytes([w]) for w in wanted]
    for _ in range(2):
        assert [int(rows[0, 0]) for rows in store.fill(keys, encode)] == wanted
    assert sorted(made) == sorted(set(wanted))


def test_the_store_is_bounded_and_forgets_the_oldest() -> None:
    store = EncoderCache(most_bytes=3 * 24)
    made: list[int] = []

    def ask(number: int) -> None:
        def encode(places: list[int]) -> list[torch.Tensor]:
            made.append(number)
            return [torch.zeros(2, 3)]

        store.fill([bytes([number])], encode)

    for number in (1, 2, 3, 1, 4, 1, 2):
        ask(number)
    assert made == [1, 2, 3, 4, 2]


@pytest.fixture
def seen(mini_model: vita.Vita) -> Iterator[list[int]]:
    """Tiles that went through the encoder."""
    counts: list[int] = []
    mini_model.engine.features.clear()
    mini_model.engine.prefixes.clear()
    hook = mini_model.engine.model.vision.register_forward_pre_hook(lambda _, x: counts.append(len(x[0])))
    yield counts
    hook.remove()


def test_the_same_picture_in_another_conversation_is_not_encoded_again(mini_model: vita.Vita, seen: list[int]) -> None:
    def ask(system: str) -> tuple[int, ...]:
        return mini_model.ask("What?", images=[ONE], system_text=system, params=PARAMS).token_ids

    fresh = ask("One.")
    before = sum(seen)
    other = ask("Another system text.")
    assert before > 0 and sum(seen) == before
    mini_model.engine.features.clear()
    mini_model.engine.prefixes.clear()
    assert ask("Another system text.") == other and sum(seen) == 2 * before
    assert ask("One.") == fresh


def test_pictures_in_another_order_are_the_same_pictures(mini_model: vita.Vita, seen: list[int]) -> None:
    mini_model.ask("What?", images=[ONE, OTHER], params=PARAMS)
    before = sum(seen)
    swapped = mini_model.ask("What?", images=[OTHER, ONE], params=PARAMS).token_ids
    assert sum(seen) == before
    mini_model.engine.features.clear()
    mini_model.engine.prefixes.clear()
    assert mini_model.ask("What?", images=[OTHER, ONE], params=PARAMS).token_ids == swapped


def test_frames_that_stand_still_are_encoded_once(mini_model: vita.Vita, seen: list[int]) -> None:
    clip = Video([ONE, ONE, ONE, OTHER, OTHER])
    said = mini_model.ask("What?", videos=[clip], params=PARAMS)
    assert sum(seen) == 2 and said.usage.pictures == 5
    message = Message("user", (Video([ONE]), Image(ONE), Text("Same?")))
    vita.Result.collect(mini_model.stream(message, PARAMS))
