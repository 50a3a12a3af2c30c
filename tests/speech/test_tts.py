"""The speech decoder: both-ways prefix, sampling, and rows of a batch that equal themselves alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.speech.checkpoints import CODES, CPU, ODIM, tiny_speech, write_speech

from vita.engine.decode import EagerDecode
from vita.errors import RequestError
from vita.speech.checkpoint import load_speech
from vita.speech.tts import SpeechDecoder, SpeechSampling, SpeechSequence

GREEDY = SpeechSampling(top_k=1, max_tokens=40)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> SpeechDecoder:
    return tiny_speech(tmp_path_factory.mktemp("speech")).decoder


def rows(n: int) -> torch.Tensor:
    return torch.randn(1, n, 24, generator=torch.Generator().manual_seed(n))


def begin(decoder: SpeechDecoder, n: int, options: SpeechSampling) -> SpeechSequence:
    cache = decoder.new_cache(n + 1 + options.max_tokens)
    for _ in decoder.fill_prefix(rows(n), cache):
        pass
    return decoder.start(cache, options, options.state())


@torch.inference_mode()
def test_rows_of_a_batch_equal_themselves_alone(decoder: SpeechDecoder) -> None:
    decode = EagerDecode(decoder.decoder)
    options = [
        GREEDY,
        SpeechSampling(seed=3, max_tokens=30),
        SpeechSampling(top_k=1, window=5, penalty=1.5, max_tokens=20),
    ]
    alone = [decoder.generate(decode, rows(n), o) for n, o in zip((3, 8, 20), options, strict=True)]
    batch = [begin(decoder, n, o) for n, o in zip((3, 8, 20), options, strict=True)]
    while left := [row for row in batch if not row.ended]:
        decoder.step(decode, left)
    assert [row.tokens for row in batch] == alone
    assert all(len(set(tokens)) > 3 for tokens in alone)


@torch.inference_mode()
def test_the_text_is_attended_both_ways(decoder: SpeechDecoder) -> None:
    first, second = rows(6), rows(6).clone()
    second[:, -1] += 1.0
    *_, a = decoder.pre_network.hidden_states(first)
    *_, b = decoder.pre_network.hidden_states(second)
    assert float((a - b)[0, 0].abs().max()) > 1e-4, "the first row sees the last one"
    caches = [decoder.new_cache(10), decoder.new_cache(10)]
    for hidden, cache in zip((first, second), caches, strict=True):
        for _ in decoder.fill_prefix(hidden, cache):
            pass
    assert [cache.length for cache in caches] == [7, 7]
    last = decoder.config.decoder.num_layers - 1
    assert float((caches[0].keys[last] - caches[1].keys[last])[0, :, 0].abs().max()) > 1e-4


def test_a_seed_repeats_and_another_differs(decoder: SpeechDecoder) -> None:
    decode = EagerDecode(decoder.decoder)

    def tokens(seed: int) -> list[int]:
        return decoder.generate(decode, rows(5), SpeechSampling(top_k=8, seed=seed, max_tokens=40))

    assert tokens(1) == tokens(1)
    assert len({tuple(tokens(seed)) for seed in range(5)}) > 1


def test_top_k_draws_only_from_the_most_probable(decoder: SpeechDecoder) -> None:
    logits = torch.linspace(-1, 1, ODIM + 4).repeat(500, 1)
    options = SpeechSampling(top_k=2, seed=1, max_tokens=2)
    state = options.state()
    sequences = [SpeechSequence(decoder.new_cache(2), options, state, 0) for _ in range(500)]
    decoder.step(lambda tokens, caches: logits, sequences)
    drawn = {row.newest for row in sequences}
    # The best id is the padding's, which is not excluded; the end token is the second.
    assert drawn == {ODIM + 2, ODIM + 3}
    assert all(row.ended and not row.tokens for row in sequences if row.newest == ODIM + 2)


def test_the_penalty_divides_once_for_every_occurrence_and_negative_logits_too(decoder: SpeechDecoder) -> None:
    options = SpeechSampling(top_k=1, window=3, penalty=2.0)
    row = SpeechSequence(decoder.new_cache(2), options, options.state(), 0, tokens=[5, 7, 7, 9])
    logits = torch.full((1, ODIM + 4), -100.0)
    logits[0, 7], logits[0, 9], logits[0, 5], logits[0, 1] = 8.0, -3.0, 3.0, 1.9
    adjusted = decoder._adjust(logits, [row])
    assert adjusted[0, [5, 7, 9, 1]].tolist() == pytest.approx([3.0, 2.0, -1.5, 1.9])


def test_ids_that_the_codec_does_not_know_are_never_chosen(tmp_path: Path) -> None:
    decoder = tiny_speech(tmp_path, codec={"n_codes": ODIM, "global_tokens": [1, 2, 3, 4]}).decoder
    logits = torch.zeros(1, ODIM + 4)
    logits[0, ODIM:] = 50.0
    logits[0, 3] = 10.0
    adjusted = decoder._adjust(logits, [begin(decoder, 2, GREEDY)])
    assert adjusted[0].topk(2).indices.tolist() == [decoder.config.end_id, 3], "the end token stays"
    assert CODES > ODIM


def test_a_text_ends_at_the_limit(decoder: SpeechDecoder) -> None:
    tokens = decoder.generate(EagerDecode(decoder.decoder), rows(2), SpeechSampling(top_k=1, max_tokens=4))
    assert len(tokens) <= 4


WRONG = {
    "top_k": (0, 1.5),
    "window": (-1,),
    "max_tokens": (0,),
    "seed": (2**64, "x"),
    "penalty": (0.0, float("nan"), 1e9),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_values_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(RequestError, match="repetition_penalty" if name == "penalty" else name):
        SpeechSampling(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_half_precision_and_int8_stay_near(tmp_path: Path, decoder: SpeechDecoder, quantize: str | None) -> None:
    write_speech(tmp_path)
    other = load_speech(tmp_path, device=CPU, dtype=torch.bfloat16, quantize=quantize).decoder  # type: ignore[arg-type]
    logits = []
    with torch.inference_mode():
        for model in (decoder, other):
            cache = model.new_cache(40)
            for _ in model.fill_prefix(rows(9), cache):
                pass
            logits.append(EagerDecode(model.decoder)(torch.tensor([model.config.start_id]), [cache]).float())
    spread = float(logits[0].std())
    assert float((logits[0] - logits[1]).abs().max()) < 0.15 * spread
