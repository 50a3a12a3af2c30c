"""Sampling: parameters do what they say, alone and in a batch, and wrong ones are one sentence."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vita
from vita.engine.sampler import SamplingState, batch_logprobs, check_params, log_probabilities, sample
from vita.errors import RequestError
from vita.types import SamplingParams

LOGITS = torch.log(torch.tensor([0.5, 0.25, 0.15, 0.08, 0.02]))


class Sampler:
    """The tokens of one sequence."""

    def __init__(self, params: SamplingParams, default_penalty: float) -> None:
        self.state = SamplingState(params, default_penalty)

    def __call__(self, logits: torch.Tensor) -> int:
        return int(sample(logits[None], [self.state])[0])


def draws(count: int = 400, **params: float) -> Counter[int]:
    sampler = Sampler(SamplingParams(temperature=params.pop("temperature", 1.0), seed=1, **params), 1.0)  # type: ignore[arg-type]
    return Counter(sampler(LOGITS) for _ in range(count))


def test_greedy_takes_the_likeliest() -> None:
    assert Sampler(SamplingParams(), 1.0)(LOGITS) == 0


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
        sampler = Sampler(SamplingParams(temperature=1.0, seed=seed), 1.0)
        return [sampler(LOGITS) for _ in range(50)]

    assert run(7) == run(7) != run(8)


def test_the_repetition_penalty_is_the_users_or_the_checkpoints() -> None:
    close = torch.tensor([2.0, 1.9, -1.0])
    for params, default in ((SamplingParams(repetition_penalty=1.2), 1.0), (SamplingParams(), 1.2)):
        sampler = Sampler(params, default)
        assert [sampler(close), sampler(close)] == [0, 1]
    assert [Sampler(SamplingParams(repetition_penalty=1.0), 1.2)(close) for _ in range(2)] == [0, 0]


def test_the_frequency_penalty_counts_and_the_presence_penalty_does_not() -> None:
    scores = torch.tensor([2.0, 1.45, 0.5])
    assert [Sampler(SamplingParams(), 1.0)(scores) for _ in range(2)] == [0, 0]
    frequency = Sampler(SamplingParams(frequency_penalty=0.5), 1.0)
    assert [frequency(scores) for _ in range(5)] == [0, 0, 1, 0, 1]  # 2.0, 1.5, 1.0 against 1.45, 0.95
    presence = Sampler(SamplingParams(presence_penalty=0.5), 1.0)
    assert [presence(scores) for _ in range(4)] == [0, 0, 0, 0]  # taken off once: 1.5 against 1.45
    negative = Sampler(SamplingParams(presence_penalty=-2.0), 1.0)
    assert [negative(torch.tensor([1.0, 0.9])), negative(torch.tensor([0.0, 1.9]))] == [0, 0]


def test_logit_bias_bans_and_forces_tokens() -> None:
    assert Sampler(SamplingParams(logit_bias={0: -100.0}), 1.0)(LOGITS) == 1
    forced = SamplingParams(logit_bias={np.int64(4): 100}, temperature=1.0, seed=1)  # type: ignore[dict-item]
    check_params(forced)
    assert {Sampler(forced, 1.0)(LOGITS) for _ in range(20)} == {4}
    assert SamplingParams(logit_bias={3: 1.0}) == SamplingParams(logit_bias=((3, 1.0),))


def test_a_bias_outside_the_vocabulary_is_refused(mini_model: vita.Vita) -> None:
    size = mini_model.engine.model.tokenizer.size
    said = f"logit_bias: token {size} is not in the vocabulary of {size}"
    with pytest.raises(RequestError, match=said):
        mini_model.ask("Hello", params=SamplingParams(logit_bias={size: 1.0}))


def test_log_probabilities_are_of_the_unscaled_distribution() -> None:
    value, top = log_probabilities(LOGITS * 1.0, 1, 2)
    assert math.isclose(value, math.log(0.25), rel_tol=1e-5)
    assert [i for i, _ in top] == [0, 1] and math.isclose(math.exp(top[0][1]), 0.5, rel_tol=1e-5)


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"max_tokens": 0}, "max_tokens: must be 1 or more, not 0"),
        ({"temperature": -1.0}, "temperature: must be between 0 and 10"),
        ({"temperature": float("nan")}, "temperature: must be between 0 and 10, not nan"),
        ({"temperature": float("inf")}, "temperature: must be between 0 and 10, not inf"),
        ({"top_p": 0.0}, "top_p: must be over 0 and at most 1"),
        ({"top_p": -0.0}, "top_p: must be over 0 and at most 1"),
        ({"top_p": float("nan")}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 2.0}, "min_p"),
        ({"min_p": float("nan")}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty"),
        ({"logprobs": -1}, "logprobs"),
        ({"seed": 2**63}, "seed: must be an integer of 64 bits, not 9223372036854775808"),
        ({"seed": 10**5000}, "seed: must be an integer of 64 bits, not an integer of thousands of digits"),
        ({"temperature": 10**400}, "temperature: must be between 0 and 10, not 1000"),
        ({"n": 0}, "n: must be between 1 and 16, not 0"),
        ({"n": 17}, "n: must be between 1 and 16, not 17"),
        ({"stop": ("",)}, "stop: must not hold an empty string"),
        ({"stop": ""}, "stop: must not hold an empty string"),
        ({"frequency_penalty": 2.1}, "frequency_penalty: must be between -2 and 2"),
        ({"presence_penalty": float("nan")}, "presence_penalty: must be between -2 and 2"),
        ({"logit_bias": {1: 101.0}}, "logit_bias: must be between -100 and 100 for each token"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias: must be a mapping from token ids"),
        ({"logit_bias": {"1": 1.0}}, "logit_bias: must be an integer, not '1'"),
        ({"logit_bias": 5}, "logit_bias: must be a mapping"),
        ({"logit_bias": dict.fromkeys(range(1025), 1.0)}, "logit_bias: must hold at most 1024 tokens, not 1025"),
        ({"stop": ["a", ""]}, "stop: must not hold an empty string"),
    ],
)
def test_impossible_parameters_are_refused(params: dict[str, object], said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        check_params(SamplingParams(**params))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


NOT_NUMBERS = [None, "5", [1], (1,), {}, 1j, True, False, b"1", torch.tensor(1), np.array([1]), np.bool_(True)]
INTEGERS = ["max_tokens", "top_k", "seed", "logprobs", "n"]
NUMBERS = ["temperature", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty"]
NONE_IS_FINE = {"max_tokens", "seed", "repetition_penalty"}


@pytest.mark.parametrize("name", INTEGERS + NUMBERS)
@pytest.mark.parametrize("wrong", [*NOT_NUMBERS, 1.5, float("nan"), float("inf")], ids=repr)
def test_a_parameter_of_another_type_is_one_sentence_with_its_name(name: str, wrong: object) -> None:
    params = SamplingParams(**{name: wrong})  # type: ignore[arg-type]
    if (wrong is None and name in NONE_IS_FINE) or (name == "repetition_penalty" and wrong == 1.5):
        check_params(params)
        return
    if name in ("temperature", "frequency_penalty", "presence_penalty") and wrong == 1.5:
        check_params(params)
        return
    with pytest.raises(RequestError, match=rf"^{name}: must be ") as caught:
        check_params(params)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")


@pytest.mark.parametrize("wrong", [0, 1, "yes", None, 1.0, np.bool_(True)], ids=repr)
def test_ignore_eos_is_a_bool(wrong: object) -> None:
    check_params(SamplingParams(ignore_eos=True))
    with pytest.raises(RequestError, match=r"^ignore_eos: must be True or False, not "):
        check_params(SamplingParams(ignore_eos=wrong))  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [None, 5, 1.5, True, b"numbers", {"a": 1}, ["a", 5], [None], ("a", b"b")], ids=repr)
def test_stop_is_a_string_or_strings(wrong: object) -> None:
    with pytest.raises(RequestError, match=r"^stop: must be a string or a list of strings, not "):
        check_params(SamplingParams(stop=wrong))  # type: ignore[arg-type]


def test_one_string_is_one_stop_string() -> None:
    assert SamplingParams(stop="numbers").stop == ("numbers",)
    assert SamplingParams(stop=["a", "b"]).stop == SamplingParams(stop=("a", "b")).stop == ("a", "b")
    assert SamplingParams(stop=(s for s in "ab")).stop == ("a", "b")  # type: ignore[arg-type]
    assert hash(SamplingParams(stop=["a"])) == hash(SamplingParams(stop="a"))
    for params in (SamplingParams(stop="numbers"), SamplingParams(stop=["a"]), SamplingParams(stop=())):
        check_params(params)


@pytest.mark.parametrize("number", [np.int64(3), np.uint8(3), np.int16(3)], ids=repr)
def test_numpy_integers_are_integers(number: int) -> None:
    params = SamplingParams(max_tokens=number, top_k=number, seed=number, logprobs=number, n=number)
    check_params(params)
    assert params == SamplingParams(max_tokens=3, top_k=3, seed=3, logprobs=3, n=3)
    assert type(params.max_tokens) is int


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.5), np.float16(0.5), Fraction(1, 2)], ids=repr)
def test_numpy_floats_are_numbers(number: float) -> None:
    params = SamplingParams(temperature=number, top_p=number, min_p=number, repetition_penalty=number)
    check_params(params)
    assert params == SamplingParams(temperature=0.5, top_p=0.5, min_p=0.5, repetition_penalty=0.5)
    assert type(params.temperature) is float


def test_whole_floats_are_no_integers_and_integers_are_numbers() -> None:
    check_params(SamplingParams(temperature=1, top_p=1, min_p=0, repetition_penalty=1))
    with pytest.raises(RequestError, match=r"^max_tokens: must be an integer, not 5\.0"):
        check_params(SamplingParams(max_tokens=5.0))  # type: ignore[arg-type]


TINY = [1e-7, 1e-8, 1e-38, 1e-45, 1e-46, 7e-46, 1e-300, 5e-324]


@pytest.mark.parametrize("value", TINY)
def test_numbers_below_float32_are_greedy(value: float) -> None:
    for params in ({"temperature": value}, {"temperature": 1.0, "top_p": value}):
        check_params(SamplingParams(**params))  # type: ignore[arg-type]
        assert set(draws(50, **params)) == {0}
    sampler = Sampler(SamplingParams(temperature=1.0, top_p=value, min_p=value, seed=0), 1.0)
    flat = torch.zeros(5)
    assert {sampler(flat) for _ in range(50)} == {0}, "of equals the first is kept"


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4, 1e30])
def test_the_smallest_temperatures_that_are_not_greedy_are_no_nan(scale: float) -> None:
    for temperature in (1e-6, 1e-5, 1e-3):
        sampler = Sampler(SamplingParams(temperature=temperature, seed=0), 1.0)
        chosen = {sampler(LOGITS * scale) for _ in range(20)}
        assert chosen <= set(range(5)) and (scale < 1 or chosen == {0})


def test_tiny_numbers_give_the_greedy_answer(mini_model: vita.Vita) -> None:
    greedy = mini_model.ask("Hello", params=SamplingParams(max_tokens=8, logprobs=1))
    for params in ({"temperature": 1e-46}, {"temperature": 5e-324}, {"temperature": 1.0, "top_p": 1e-46}):
        result = mini_model.ask("Hello", params=SamplingParams(max_tokens=8, logprobs=1, **params))  # type: ignore[arg-type]
        assert result.token_ids == greedy.token_ids
        assert all(math.isfinite(token.logprob) for token in result.logprobs)


def test_a_stop_of_one_string_ends_an_answer(mini_model: vita.Vita) -> None:
    whole = mini_model.ask("Hello", params=SamplingParams(max_tokens=24)).text
    word = whole.split()[2]
    one, listed = (mini_model.ask("Hello", params=SamplingParams(max_tokens=24, stop=s)) for s in (word, [word]))
    assert one.text == listed.text == whole[: whole.find(word)].rstrip() and one.finish_reason == "stop"


PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 1e-9, 0.3, 1.0, 5.0]),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 1e-46]),
    top_k=st.sampled_from([0, 1, 3, 40, 10_000]),
    min_p=st.sampled_from([0.0, 0.05, 1.0]),
    repetition_penalty=st.sampled_from([None, 1.0, 1.3, 0.8]),
    frequency_penalty=st.sampled_from([0.0, 0.0, 0.3, 2.0, -1.1]),
    presence_penalty=st.sampled_from([0.0, 0.0, 0.7, -2.0]),
    logit_bias=st.sampled_from([{}, {}, {1: 3.3}, {0: -100.0, 1: 0.7}]),
    seed=st.integers(-(2**63), 2**63 - 1),
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(PARAMS, min_size=1, max_size=7), st.sampled_from([2, 5, 883, 1031, 4099]), st.integers(0, 99),
    st.sampled_from([torch.float32, torch.bfloat16]),
)  # fmt: skip
def test_a_row_gets_the_same_tokens_alone_and_in_a_batch(
    params: list[SamplingParams], vocab: int, seed: int, dtype: torch.dtype
) -> None:
    steps = torch.randn(4, len(params), vocab, generator=torch.Generator().manual_seed(seed)).mul(3).to(dtype)
    batch = [SamplingState(p, 1.1) for p in params]
    together = torch.stack([sample(logits, batch) for logits in steps])  # [steps, B]
    assert together.dtype == torch.int64
    for k, p in enumerate(params):
        alone = Sampler(p, 1.1)
        assert [alone(logits[k]) for logits in steps] == together[:, k].tolist()


VOCABULARIES = st.tuples(
    st.sampled_from([40, 1500, 5000]), st.sampled_from([0.0, 0.3, 2.0, 6.0]), st.floats(1e-4, 0.9999),
    st.sampled_from([torch.float32, torch.bfloat16]), st.integers(0, 99),
)  # fmt: skip


def assert_top_p_keeps_the_smallest_set(vocab: int, spread: float, top_p: float, dtype: torch.dtype, seed: int) -> None:
    """bfloat16 logits have many equal values: of those the lower id comes first."""
    logits = (torch.randn(vocab, generator=torch.Generator().manual_seed(seed)) * spread).to(dtype)
    probabilities = logits.double().softmax(-1).tolist()
    order = sorted(range(vocab), key=lambda token: (-float(logits[token]), token))
    reached, allowed = 0.0, set()
    for token in order:
        if reached >= top_p + 1e-6:
            break
        reached += probabilities[token]
        allowed.add(token)
    sampler = Sampler(SamplingParams(temperature=1.0, top_p=top_p, seed=seed), 1.0)
    counts = Counter(sampler(logits) for _ in range(60))
    assert set(counts) <= allowed
    if len(allowed) > 1 and probabilities[order[0]] < 0.5 * top_p:
        assert len(counts) > 1


@settings(max_examples=12, deadline=None)
@given(VOCABULARIES)
def test_top_p_keeps_the_smallest_set_in_any_vocabulary(drawn: tuple[int, float, float, torch.dtype, int]) -> None:
    assert_top_p_keeps_the_smallest_set(*drawn)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(VOCABULARIES)
def test_top_p_keeps_the_smallest_set_in_40_vocabularies(drawn: tuple[int, float, float, torch.dtype, int]) -> None:
    assert_top_p_keeps_the_smallest_set(*drawn)


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_broken_logits_give_some_id_of_the_vocabulary(broken: float) -> None:
    """A model in float16 may overflow; the engine must go on."""
    for fill in (torch.full((2, 2000), broken), torch.cat([torch.zeros(2, 1999), torch.full((2, 1), broken)], 1)):
        for params in (SamplingParams(), SamplingParams(temperature=1.0, seed=0, top_p=0.5, top_k=9, min_p=0.1)):
            rows = [SamplingState(params, 1.2) for _ in range(2)]
            for _ in range(3):
                assert ((sample(fill, rows) >= 0) & (sample(fill, rows) < 2000)).all()


def test_logits_are_not_changed() -> None:
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(0))
    before = logits.clone()
    params = SamplingParams(temperature=1.0, top_k=3, top_p=0.5, min_p=0.1, repetition_penalty=2.0, seed=0)
    rows = [SamplingState(params, 1.0), SamplingState(SamplingParams(repetition_penalty=2.0), 1.0)]
    for _ in range(3):
        sample(logits, rows)
    assert torch.equal(logits, before)


def test_log_probabilities_of_a_batch_are_each_rows_own() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    tokens = sample(logits, [SamplingState(SamplingParams(), 1.0) for _ in range(3)])
    found = batch_logprobs(logits, tokens, 4)
    for k, token in enumerate(tokens.tolist()):
        value, top = log_probabilities(logits[k], token, 4)
        assert value == float(found.chosen[k]) == top[0][1]
        assert [i for i, _ in top] == found.top_ids[k].tolist() and [v for _, v in top] == found.top_values[k].tolist()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="SKIPPED LOUDLY: no CUDA device")
def test_on_a_gpu_nothing_waits_for_the_device_and_a_row_is_the_same_alone() -> None:
    device = torch.device("cuda")
    made = [
        SamplingParams(temperature=1.0, top_p=0.9, seed=1, repetition_penalty=1.2), SamplingParams(),
        SamplingParams(temperature=0.7, top_k=40, seed=2), SamplingParams(temperature=1.3, min_p=0.02, seed=3),
        SamplingParams(repetition_penalty=1.3, frequency_penalty=0.7), SamplingParams(presence_penalty=1.1),
        SamplingParams(logit_bias={7: 5.0, 8: -100.0}, frequency_penalty=0.1),
        SamplingParams(temperature=2.0, top_k=9, top_p=0.8, seed=4),
    ]  # fmt: skip
    for vocab in (883, 151_665):
        steps = torch.randn(8, len(made), vocab, device=device) * 3
        rows = [SamplingState(p, 1.0) for p in made]
        sample(steps[0], [SamplingState(p, 1.0) for p in made])  # libraries load
        torch.cuda.set_sync_debug_mode("error")
        try:
            chosen = [sample(logits, rows) for logits in steps]
            batch_logprobs(steps[0], chosen[0], 5)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        together = torch.stack(chosen)
        for k, p in enumerate(made):
            alone = Sampler(p, 1.0, device)
            assert [alone(logits[k]) for logits in steps] == together[:, k].tolist()
