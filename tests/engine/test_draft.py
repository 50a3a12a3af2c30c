"""The response state is prefilled with the prompt as a draft: it changes no answer, whether it is right or wrong.

A request for two answers has no draft, so its first answer is what one without a draft would be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vita
from vita.events import Done
from vita.types import Message, SamplingParams

HISS = vita.Audio(np.random.default_rng(3).normal(0, 2000, 24000).astype(np.int16), 16000)
GREEDY = SamplingParams(max_tokens=12, logprobs=2)
DICE = SamplingParams(max_tokens=12, temperature=1.1, seed=5)
STRICT = SamplingParams(max_tokens=12, presence_penalty=1.5, repetition_penalty=1.2)


@pytest.fixture(scope="module", params=["mini", "default"])
def model(request: pytest.FixtureRequest, mini: Path) -> Iterator[vita.Vita]:
    folder = mini / "mini_ckpt" if request.param == "mini" else None
    with vita.load(folder, dtype="float32", device="cpu") as loaded:
        yield loaded


def answers(model: vita.Vita, messages: list[Message], params: SamplingParams) -> list[Done]:
    model.engine.clear_caches()
    return [event for event in model.submit(messages, params) if isinstance(event, Done)]


def without_draft(model: vita.Vita, messages: list[Message], params: SamplingParams) -> Done:
    return min(answers(model, messages, replace(params, n=2)), key=lambda done: done.index)


def took_draft(done: Done) -> bool:
    """Whether the second token came without a decode step."""
    return done.timings.decode_tokens == max(0, done.usage.completion_tokens - 2)


@pytest.mark.parametrize("params", [GREEDY, DICE, STRICT], ids=["greedy", "seeded", "penalties"])
@pytest.mark.parametrize("spoken", [False, True], ids=["typed", "noise"])
def test_a_draft_changes_no_token(model: vita.Vita, spoken: bool, params: SamplingParams) -> None:
    messages = [vita.user(audio=HISS) if spoken else vita.user("What can you do?")]
    [drafted] = answers(model, messages, params)
    plain = without_draft(model, messages, params)
    assert drafted.token_ids == plain.token_ids
    assert drafted.state == plain.state
    np.testing.assert_allclose([p.logprob for p in drafted.logprobs], [p.logprob for p in plain.logprobs], atol=1e-4)


def test_a_right_draft_saves_a_decode_step_and_a_wrong_one_does_not() -> None:
    with vita.load(dtype="float32", device="cpu") as model:
        [typed] = answers(model, [vita.user("What can you do?")], GREEDY)
        assert typed.state == "typed" and took_draft(typed)
        [noise] = answers(model, [vita.user(audio=HISS)], GREEDY)
        assert noise.state == "noise" and not took_draft(noise)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_the_limit_counts_the_drafted_token(model: vita.Vita, limit: int) -> None:
    [done] = answers(model, [vita.user("What can you do?")], SamplingParams(max_tokens=limit, ignore_eos=True))
    assert done.usage.completion_tokens == limit and done.finish_reason == "length"


def test_after_a_wrong_draft_the_prefix_cache_holds_what_was_said(model: vita.Vita) -> None:
    """A follow-up that finds the slab of the first turn answers as one that computes everything."""
    first = [vita.user(audio=HISS)]
    said = model.submit(first, GREEDY).result()
    again = [*first, vita.assistant(said.text or "Yes."), vita.user("And what can you do?")]
    [warm] = [event for event in model.submit(again, GREEDY) if isinstance(event, Done)]
    [cold] = answers(model, again, GREEDY)
    assert warm.usage.reused_tokens > 0 and cold.usage.reused_tokens == 0
    assert warm.token_ids == cold.token_ids


@pytest.mark.slow
def test_a_prompt_that_ends_a_chunk_has_no_draft(model: vita.Vita) -> None:
    """Its draft would be prefilled apart from its last position."""
    chunk = model.engine.core.scheduler.limits.prefill_chunk
    text = "a"
    [done] = answers(model, [vita.user(text)], GREEDY)
    for _ in range(3 * chunk):
        if done.usage.prompt_tokens % chunk == 0:
            break
        missing = -done.usage.prompt_tokens % chunk
        text += " a" * max(1, missing // 3)
        [done] = answers(model, [vita.user(text)], GREEDY)
    assert done.usage.prompt_tokens % chunk == 0
    assert done.token_ids == without_draft(model, [vita.user(text)], GREEDY).token_ids
