"""An int8 KV cache: half the memory, nearly the same logits, and otherwise the behaviour of the plain cache."""

from __future__ import annotations

import pytest
import torch
from benchmarks.make_checkpoint import RELEASED, USED_VOCAB
from hypothesis import given
from hypothesis import strategies as st

import vita
from vita.config import DecoderConfig
from vita.errors import RequestError
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache
from vita.model.vita import VitaModel
from vita.planning.memory_plan import Placement, predict_memory
from vita.types import SamplingParams

CONFIG = DecoderConfig(48, 96, 3, 6, 2, 50)
CPU = torch.device("cpu")


def quantized_cache(capacity: int, dtype: torch.dtype = torch.float32, batch: int = 1) -> KVCache:
    return KVCache(CONFIG, capacity, batch=batch, dtype=dtype, device=CPU, quantized=True)


@given(st.integers(0, 2**31), st.sampled_from([1e-3, 1.0, 50.0]))
def test_the_error_is_at_most_half_a_quantization_step(seed: int, size: float) -> None:
    made = quantized_cache(4)
    k, v = torch.randn(2, 1, 2, 4, 8, generator=torch.Generator().manual_seed(seed)) * size
    k[..., 1, :] = 0
    keys, values = made.write(1, k, v)
    for out, written in ((keys, k), (values, v)):
        assert ((out - written).abs() <= written.abs().amax(-1, keepdim=True) / 127 * 0.51).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cached_step_nearly_equals_the_uncached_one(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    decoder, embeds = Decoder(CONFIG, 50).to(dtype).eval(), torch.randn(1, 9, 48).to(dtype)
    with torch.inference_mode():
        wanted = decoder.logits(decoder(embeds))[0, -1].float()
        cache = quantized_cache(12, dtype)
        for piece in embeds.split([6, 1, 1, 1], dim=1):
            hidden = decoder(piece, cache)
        got = decoder.logits(hidden)[0, -1].float()
        similarity = torch.nn.functional.cosine_similarity(got, wanted, dim=0)
    assert cache.length == 9 and similarity > 0.999


def test_a_copy_continues_like_the_original() -> None:
    torch.manual_seed(0)
    decoder, embeds = Decoder(CONFIG, 50).eval(), torch.randn(1, 7, 48)
    with torch.inference_mode():
        cache = quantized_cache(8)
        decoder(embeds[:, :6], cache)
        other = cache.copy_prefix(6, 20)
        assert torch.equal(decoder(embeds[:, 6:], cache), decoder(embeds[:, 6:], other))
    per_position = KVCache.bytes_per_position(CONFIG, torch.float32, quantized=True)
    assert other.capacity == 20 and other.nbytes == 20 * per_position


def test_it_takes_little_more_than_half_of_bfloat16() -> None:
    config = RELEASED.decoder
    plain, small = (KVCache.bytes_per_position(config, torch.bfloat16, quantized=q) for q in (False, True))
    assert small < 0.51 * plain
    model = VitaModel.on_meta(RELEASED, USED_VOCAB)
    predicted = [
        predict_memory(
            model, Placement(device=CPU, dtype=torch.bfloat16, mapped=True, quantized_kv_cache=q), "int4", 32_768
        )
        for q in (False, True)
    ]
    assert predicted[1]["kv cache"] < 0.51 * predicted[0]["kv cache"] == 0.51 * plain * 32_768


def test_the_embedded_model_answers_as_well_with_it() -> None:
    asked = vita.user("Who are you?")
    said = []
    for kv_cache in ("auto", "int8"):
        model = vita.load(device="cpu", kv_cache=kv_cache)
        chat = model.chat()
        turns = [vita.Result.collect(chat.send(asked, SamplingParams(max_tokens=40))) for _ in range(2)]
        assert turns[1].usage.reused_tokens > 0
        said.append([turn.text for turn in turns])
    assert said[0] == said[1]


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^kv_cache: unknown format 'int2'; use auto or int8"):
        vita.load(device="cpu", kv_cache="int2")
