"""Keys and values in eight bits: half the memory, nearly the same logits, and every law of the plain cache."""

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


def rounded(capacity: int, dtype: torch.dtype = torch.float32, batch: int = 1) -> KVCache:
    return KVCache(CONFIG, capacity, batch=batch, dtype=dtype, device=CPU, quantized=True)


@given(st.integers(0, 2**31), st.sampled_from([1e-3, 1.0, 50.0]))
def test_what_comes_out_is_off_by_half_a_step_at_most(seed: int, size: float) -> None:
    made = rounded(4)
    k, v = torch.randn(2, 1, 2, 4, 8, generator=torch.Generator().manual_seed(seed)) * size
    k[..., 1, :] = 0
    keys, values = made.write(1, k, v)
    for out, into in ((keys, k), (values, v)):
        assert ((out - into).abs() <= into.abs().amax(-1, keepdim=True) / 127 * 0.51).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cached_step_is_nearly_the_whole_computation(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    decoder, embeds = Decoder(CONFIG, 50).to(dtype).eval(), torch.randn(1, 9, 48).to(dtype)
    with torch.inference_mode():
        whole = decoder.logits(decoder(embeds))[0, -1].float()
        cache = rounded(12, dtype)
        for piece in embeds.split([6, 1, 1, 1], dim=1):
            hidden = decoder(piece, cache)
        near = torch.nn.functional.cosine_similarity(decoder.logits(hidden)[0, -1].float(), whole, dim=0)
    assert cache.length == 9 and near > 0.999


def test_a_copy_goes_on_like_the_cache_it_came_from() -> None:
    torch.manual_seed(0)
    decoder, embeds = Decoder(CONFIG, 50).eval(), torch.randn(1, 7, 48)
    with torch.inference_mode():
        cache = rounded(8)
        decoder(embeds[:, :6], cache)
        other = cache.copy_prefix(6, 20)
        assert torch.equal(decoder(embeds[:, 6:], cache), decoder(embeds[:, 6:], other))
    assert other.capacity == 20 and other.nbytes == 20 * KVCache.bytes_per_position(
        CONFIG, torch.float32, quantized=True
    )


def test_it_takes_little_more_than_half() -> None:
    config = RELEASED.decoder
    plain, small = (KVCache.bytes_per_position(config, torch.bfloat16, quantized=r) for r in (False, True))
    assert small < 0.51 * plain
    model = VitaModel.on_meta(RELEASED, USED_VOCAB)
    parts = [
        predict_memory(
            model, Placement(device=CPU, dtype=torch.bfloat16, mapped=True, quantized_kv_cache=r), "int4", 32_768
        )
        for r in (False, True)
    ]
    assert parts[1]["kv cache"] < 0.51 * parts[0]["kv cache"] == 0.51 * plain * 32_768


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


def test_another_format_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^kv_cache: unknown format 'int2'; use auto or int8"):
        vita.load(device="cpu", kv_cache="int2")
