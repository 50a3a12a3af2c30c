"""Reasoning is taken off the text: any batch, any way of reading gives the same, and its bound holds.

The checkpoint is a random one whose tokenizer has the reasoning tokens; `logit_bias` makes it use them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from recipes.nano.export import export
from recipes.nano.model import Learner, sizes
from recipes.nano.tokenizer import build_tokenizer

import vita
from vita.engine.reasoning import ReasoningState
from vita.engine.sampler import SamplingState, sample
from vita.errors import RequestError
from vita.events import Done, Event, ReasoningDelta, Result, Started, TextDelta
from vita.prompt.answer_text import AnswerText
from vita.prompt.tokenizer import ReasoningTokens, Tokenizer
from vita.types import MAX_REASONING_TOKENS, SamplingParams


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reasoning")
    build_tokenizer(out / "tokenizer")
    torch.manual_seed(0)
    export(Learner(sizes("tiny", Tokenizer.load(out / "tokenizer").size)), out / "tokenizer", out / "checkpoint")
    return out / "checkpoint"


@pytest.fixture(scope="module")
def model(folder: Path) -> Iterator[vita.Vita]:
    with vita.load(folder, device="cpu", dtype="float32") as loaded:
        yield loaded


def tokens_of(model: vita.Vita) -> ReasoningTokens:
    found = model.engine.model.tokenizer.reasoning
    assert found is not None
    return found


def likely(model: vita.Vita, begin: float = 9.0, end: float = 3.0, **params: object) -> SamplingParams:
    """Parameters under which random weights reason often."""
    tokens = tokens_of(model)
    bias = {tokens.begin: begin, tokens.end: end}
    return SamplingParams(logit_bias=bias, **({"max_tokens": 12, "temperature": 1.5} | params))  # type: ignore[arg-type]


def parted(ids: Sequence[int], tokens: ReasoningTokens) -> tuple[list[int], list[int]]:
    """Visible tokens, and those between the reasoning tokens, by reading a whole answer."""
    if tokens.begin not in ids:
        return list(ids), []
    start = list(ids).index(tokens.begin)
    stop = list(ids).index(tokens.end, start) if tokens.end in ids[start:] else len(ids)
    return [*ids[:start], *ids[stop + 1 :]], list(ids[start + 1 : stop])


def test_what_stands_between_the_tokens_is_reasoning_and_the_rest_is_text(model: vita.Vita) -> None:
    tokens, tokenizer, seen = tokens_of(model), model.engine.model.tokenizer, 0
    for seed in range(12):
        handle = model.submit(vita.user("Hello"), likely(model, seed=seed, max_reasoning_tokens=9))
        result = handle.result()
        visible, inner = parted(result.token_ids, tokens)
        text = AnswerText(tokenizer)
        said = "".join([*(text.push(i).text for i in visible), text.flush().text])
        assert result.text == said and "<think>" not in result.text + result.reasoning
        assert len(inner) <= 9 and len(visible) <= 12
        assert result.usage.completion_tokens == len(result.token_ids) == len(visible) + result.reasoning_tokens
        assert handle.usage_so_far() == result.usage
        seen += bool(inner)
        if inner:
            other = AnswerText(tokenizer)
            pieces = [other.push(i).reasoning for i in (tokens.begin, *inner, tokens.end)]
            assert result.reasoning == "".join(pieces) and result.reasoning == result.reasoning.strip()
    assert seen > 6


def test_a_batch_reasons_as_each_answer_alone(model: vita.Vita) -> None:
    asked = [
        (f"Question {k}", likely(model, seed=k, max_reasoning_tokens=k, repetition_penalty=1.3, presence_penalty=0.5))
        for k in range(6)
    ]
    alone = [model.submit(vita.user(text), params).result() for text, params in asked]
    together = [model.submit(vita.user(text), params) for text, params in asked]
    for handle, one in zip(together, alone, strict=True):
        other = handle.result()
        assert (other.token_ids, other.text, other.reasoning) == (one.token_ids, one.text, one.reasoning)
        assert other.usage.reasoning_tokens == one.usage.reasoning_tokens
    several = likely(model, seed=40, n=3)
    for index, result in enumerate(model.submit(vita.user("Hello"), several).results()):
        params = dataclasses.replace(several, n=1, seed=40 + index)
        single = model.submit(vita.user("Hello"), params).result()
        assert (result.token_ids, result.reasoning) == (single.token_ids, single.reasoning)


def test_events_add_up_to_the_result(model: vita.Vita) -> None:
    params = likely(model, seed=2, begin=100)
    events: list[Event] = list(model.submit(vita.user("Hello"), params))
    result = model.submit(vita.user("Hello"), params).result()
    assert isinstance(events[0], Started) and isinstance(events[-1], Done)
    assert "".join(e.text for e in events if isinstance(e, TextDelta)) == result.text
    assert "".join(e.text for e in events if isinstance(e, ReasoningDelta)) == result.reasoning != ""
    kinds = [type(e) for e in events if isinstance(e, (TextDelta, ReasoningDelta))]
    assert kinds == sorted(kinds, key=lambda kind: kind is TextDelta), "the reasoning comes first here"
    assert Result.collect(events) == result or Result.collect(events).reasoning == result.reasoning


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_at_its_bound_the_reasoning_ends_and_the_answer_follows(model: vita.Vita, limit: int) -> None:
    tokens = tokens_of(model)
    params = SamplingParams(
        max_tokens=5, max_reasoning_tokens=limit, ignore_eos=True, logit_bias={tokens.begin: 100, tokens.end: -100}
    )
    result = model.submit(vita.user("Hello"), params).result()
    assert result.token_ids[0] == tokens.begin and result.token_ids[limit + 1] == tokens.end
    assert tokens.begin not in result.token_ids[limit + 2 :], "an answer has one reasoning"
    assert len(result.token_ids) == limit + 2 + 5 and result.reasoning_tokens == limit + 2
    assert result.finish_reason == "length"


def test_a_bound_of_zero_forbids_it(model: vita.Vita) -> None:
    tokens = tokens_of(model)
    params = SamplingParams(max_tokens=6, max_reasoning_tokens=0, ignore_eos=True, logit_bias={tokens.begin: 100})
    result = model.submit(vita.user("Hello"), params).result()
    assert tokens.begin not in result.token_ids and len(result.token_ids) == 6
    assert result.reasoning == "" and result.reasoning_tokens == 0


@pytest.mark.slow
def test_without_a_bound_it_may_fill_the_context(model: vita.Vita) -> None:
    tokens = tokens_of(model)
    bias = {tokens.begin: 100, tokens.end: -100}
    handle = model.submit(
        vita.user("Hello"), SamplingParams(max_tokens=5, max_reasoning_tokens=None, ignore_eos=True, logit_bias=bias)
    )
    hidden = 0
    for event in handle:
        if isinstance(event, Done):
            hidden = event.usage.reasoning_tokens
            assert event.finish_reason == "length" and event.notes
    assert hidden > 3000


def test_a_cancelled_reasoning_leaves_no_text(model: vita.Vita) -> None:
    tokens = tokens_of(model)
    bias = {tokens.begin: 100, tokens.end: -100}
    params = SamplingParams(max_tokens=5, max_reasoning_tokens=None, logit_bias=bias, ignore_eos=True)
    handle = model.submit(vita.user("Hello"), params)
    events = []
    for event in handle:
        events.append(event)
        if isinstance(event, Started):
            handle.cancel()
    done = events[-1]
    assert isinstance(done, Done) and done.finish_reason == "cancelled"
    assert done.usage.reasoning_tokens == len(done.token_ids) and not any(isinstance(e, TextDelta) for e in events)


def test_history_is_free_of_it(model: vita.Vita) -> None:
    params = likely(model, seed=3, begin=100, max_tokens=8, ignore_eos=True)
    greedy = SamplingParams(max_tokens=6, max_reasoning_tokens=0, logprobs=2)
    with model.session() as session:
        first = session.submit(vita.user("Hello"), params).result()
        assert first.reasoning and first.text
        said = [piece for turn in session.turns for piece in turn.pieces]
        assert said[-1] == first.text and first.reasoning not in said
        second = session.submit(vita.user("And?"), greedy).result()
    fresh = model.submit([vita.user("Hello"), vita.assistant(first.text), vita.user("And?")], greedy).result()
    assert second.token_ids == fresh.token_ids
    assert second.usage.prompt_tokens == fresh.usage.prompt_tokens


def test_stop_strings_and_log_probabilities_are_of_the_visible_text(model: vita.Vita) -> None:
    params = likely(model, seed=3, begin=100, max_tokens=8, logprobs=2, ignore_eos=True)
    whole = model.submit(vita.user("Hello"), params).result()
    assert whole.reasoning and whole.text
    visible, _ = parted(whole.token_ids, tokens_of(model))
    assert [token.id for token in whole.logprobs] == visible
    letter = next(c for c in whole.reasoning if c.strip())
    stopped = model.submit(vita.user("Hello"), dataclasses.replace(params, stop=(letter,))).result()
    assert stopped.reasoning == whole.reasoning
    assert stopped.text == whole.text.partition(letter)[0].rstrip()


def test_penalties_do_not_count_it() -> None:
    tokens = ReasoningTokens(4, 5)
    params = SamplingParams(repetition_penalty=2.0, presence_penalty=1.0, max_reasoning_tokens=2)
    row = SamplingState(params, 1.0, tokens)
    for wanted in (4, 1, 5, 2):
        logits = torch.zeros(1, 8)
        logits[0, wanted] = 9.0
        assert sample(logits, [row]).tolist() == [wanted]
    assert row.generated is not None and row.generated.nonzero()[:, 0].tolist() == [2]
    assert row.counts is not None and row.counts.nonzero()[:, 0].tolist() == [2]


def test_the_bound_is_kept_on_the_device() -> None:
    state = ReasoningState(ReasoningTokens(4, 5), 2)
    shown, chosen = [], []
    for wanted in (1, 4, 1, 4, 1, 1, 5, 1):
        token = state.force(torch.tensor(wanted))
        chosen.append(int(token))
        shown.append(bool(state.record(token)))
    assert chosen == [1, 4, 1, 4, 5, 1, 5, 1]
    assert shown == [True, False, False, False, False, True, True, True]
    assert state.mask(torch.zeros(8))[4] == -torch.inf and state.mask(torch.zeros(8))[5] == 0


def test_checkpoints_without_the_tokens_have_none(mini: Path) -> None:
    assert Tokenizer.load(mini / "mini_ckpt").reasoning is None
    text = AnswerText(Tokenizer.load(mini / "mini_ckpt"))
    assert text.push(0).reasoning == "" and not text.push(1).hidden


@pytest.mark.parametrize("value", [-1, 1.5, "many", True])
def test_a_wrong_bound_is_refused(model: vita.Vita, value: object) -> None:
    with pytest.raises(RequestError, match="max_reasoning_tokens"):
        model.submit(vita.user("Hello"), SamplingParams(max_reasoning_tokens=value))  # type: ignore[arg-type]
    assert SamplingParams().max_reasoning_tokens == MAX_REASONING_TOKENS
