"""Sampling: parameters do what they say, alone and in a batch, and wrong ones are one sentence."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from vita.engine.sampler import Sampler, check_params, log_probabilities
from vita.errors import RequestError
from vita.types import SamplingParams

CPU = torch.device("cpu")
LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.08, 0.02]))


def draws(count: int = 400, **params: float) -> Counter[int]:
    sampler = Sampler(SamplingParams(temperature=params.pop("temperature", 1.0), seed=1, **params), 1.0, CPU)  # type: ignore[arg-type]
    return Counter(sampler(LOGITS) for _ in range(count))


def test_greedy_takes_the_likeliest() -> None:
    assert Sampler(SamplingParams(), 1.0, CPU)(LOGITS) == 0


def test_top_k_top_p_and_min_p_cut_the_tail() -> None:
    assert set(draws()) == {0, 1, 2, 3, 4}
    assert set(draws(top_k=2)) == {0, 1}
    assert set(draws(top_p=0.75)) == {0, 1}  # the smallest set that reaches 0.75
    assert set(draws(top_p=0.76)) == {0, 1, 2}
    assert set(draws(min_p=0.2)) == {0, 1, 2}
    assert set(draws(top_p=1e-6)) == {0}


def test_temperature_sharpens_and_flattens() -> None:
    assert draws(temperature=0.2)[0] > 380
    assert draws(temperature=5.0)[4] > 40


def test_draws_follow_the_probabilities() -> None:
    counts = draws(4000)
    for token, probability in enumerate(LOGITS.exp().tolist()):
        assert abs(counts[token] / 4000 - probability) < 4 * math.sqrt(probability / 4000)


def test_a_seed_repeats_and_another_differs() -> None:
    def run(seed: int) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), 1.0, CPU)
        return [sampler(LOGITS) for _ in range(50)]

    assert run(7) == run(7) != run(8)


def test_the_repetition_penalty_is_the_users_or_the_checkpoints() -> None:
    close = torch.tensor([2.0, 1.9, -1.0])
    for params, default in ((SamplingParams(repetition_penalty=1.2), 1.0), (SamplingParams(), 1.2)):
        sampler = Sampler(params, default, CPU)
        assert [sampler(close), sampler(close)] == [0, 1]
    assert [Sampler(SamplingParams(repetition_penalty=1.0), 1.2, CPU)(close) for _ in range(2)] == [0, 0]


def test_log_probabilities_are_of_the_unscaled_distribution() -> None:
    value, top = log_probabilities(LOGITS * 1.0, 1, 2)
    assert math.isclose(value, math.log(0.25), rel_tol=1e-5)
    assert [i for i, _ in top] == [0, 1] and math.isclose(math.exp(top[0][1]), 0.5, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"max_tokens": 0}, "max_tokens: must be 1 or more, not 0"),
        ({"temperature": -1.0}, "temperature: must be between 0 and 10"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0.0}, "top_p: must be over 0 and at most 1"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2.0}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"logprobs": -1}, "logprobs"),
        ({"stop": ("",)}, "stop: must not hold an empty string"),
    ],
)
def test_impossible_parameters_are_refused(params: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_params(SamplingParams(**params))  # type: ignore[arg-type]
