"""What was computed before is not computed again: prefixes, images, audio; answers stay the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import vita
from vita.events import Result
from vita.types import Image, Message, SamplingParams, Text, Video

RNG = np.random.default_rng(1)
PICTURE, OTHER = (RNG.integers(0, 255, (70, 50, 3), np.uint8) for _ in range(2))
SOUND = vita.Audio(RNG.normal(0, 3000, 16000).astype(np.int16), 16000)
PARAMS = SamplingParams(max_tokens=10, logprobs=1)


@pytest.fixture
def model(mini: Path) -> vita.Vita:
    return vita.load(mini / "mini_ckpt", dtype="float32", device="cpu")


def ask(model: vita.Vita, *messages: vita.Message) -> Result:
    return Result.collect(model.stream(messages, PARAMS))


def assert_same(model: vita.Vita, warm: Result, *messages: vita.Message) -> None:
    """What a model that remembers nothing says."""
    model.engine.clear_caches()
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
    model.engine.clear_caches()
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


SIX = SamplingParams(max_tokens=6)
DICE = np.random.default_rng(3)
ONE, SECOND = (DICE.integers(0, 255, (112, 112, 3), dtype=np.uint8) for _ in range(2))


@pytest.fixture
def seen(mini_model: vita.Vita) -> Iterator[list[int]]:
    """Tiles that went through the encoder."""
    counts: list[int] = []
    mini_model.engine.clear_caches()
    hook = mini_model.engine.model.projector.register_forward_pre_hook(lambda _, x: counts.append(len(x[0])))
    yield counts
    hook.remove()


def test_the_same_picture_in_another_conversation_is_not_encoded_again(mini_model: vita.Vita, seen: list[int]) -> None:
    def ask(system: str) -> tuple[int, ...]:
        return mini_model.ask("What?", images=[ONE], system_text=system, params=SIX).token_ids

    fresh = ask("One.")
    before = sum(seen)
    other = ask("Another system text.")
    assert before > 0 and sum(seen) == before
    mini_model.engine.clear_caches()
    assert ask("Another system text.") == other and sum(seen) == 2 * before
    assert ask("One.") == fresh


def test_pictures_in_another_order_are_the_same_pictures(mini_model: vita.Vita, seen: list[int]) -> None:
    mini_model.ask("What?", images=[ONE, SECOND], params=SIX)
    before = sum(seen)
    swapped = mini_model.ask("What?", images=[SECOND, ONE], params=SIX).token_ids
    assert sum(seen) == before
    mini_model.engine.clear_caches()
    assert mini_model.ask("What?", images=[SECOND, ONE], params=SIX).token_ids == swapped


def test_frames_that_stand_still_are_encoded_once(mini_model: vita.Vita, seen: list[int]) -> None:
    clip = Video([ONE, ONE, ONE, SECOND, SECOND])
    said = mini_model.ask("What?", videos=[clip], params=SIX)
    assert sum(seen) == 2 and said.usage.images == 5
    message = Message("user", (Video([ONE]), Image(ONE), Text("Same?")))
    vita.Result.collect(mini_model.stream(message, SIX))
