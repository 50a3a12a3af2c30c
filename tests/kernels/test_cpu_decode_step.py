"""A decode step by one native call against the decoder's own operations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.kernels.compilers import find_compiler
from tests.kernels.decoders import random_decoder
from tests.kernels.float32_builds import OTHER_FLAGS, float32_build
from torch import nn

from vita.config import DecoderConfig
from vita.engine.decode import EagerDecode, choose_decode_runner, step_bytes
from vita.model import native_decode
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache
from vita.model.native_decode import NativeDecode, choose_native_decode
from vita.planning.flops import weight_bytes
from vita.quant.scheme import quantize_modules

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")
CAPACITY = 1100
LENGTHS = (0, 1, 15, 255, 256, 600)
SHAPES = {
    "embedded": DecoderConfig(192, 512, 2, 6, 3, 97, rope_theta=1e6, attention_bias=True),
    "speech": DecoderConfig(128, 320, 2, 2, 2, 70, rope_theta=1e4, head_bias=True),
    "odd": DecoderConfig(60, 37, 3, 3, 1, 11, rope_theta=1e4),
}


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def decoder_of(config: DecoderConfig, weights: str) -> Decoder:
    """Random weights: "float32", "bfloat16" (float32 values that are exact in it), "int8"."""
    scheme = "int8" if weights == "int8" else None
    return random_decoder(config, scheme, lambda values: values.bfloat16().float() if weights == "bfloat16" else values)


def caches_of(config: DecoderConfig, lengths: tuple[int, ...], seed: int = 0) -> list[KVCache]:
    """Filled with noise up to their lengths; what is behind is NaN and must not be read."""
    dice, caches = torch.Generator().manual_seed(seed), []
    for length in lengths:
        cache = KVCache(config, CAPACITY, dtype=torch.float32, device=torch.device("cpu"))
        for tensor in (cache.keys, cache.values):
            tensor.normal_(generator=dice)
            tensor[..., length:, :] = torch.nan
        cache.length = length
        caches.append(cache)
    return caches


def native(decoder: Decoder) -> NativeDecode:
    found = choose_native_decode(decoder)
    assert found is not None
    return found


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("shape", SHAPES)
def test_steps_are_those_of_the_decoder(shape: str, weights: str) -> None:
    config = SHAPES[shape]
    decoder = decoder_of(config, weights)
    plain, step = EagerDecode(decoder), native(decoder)
    caches, others = caches_of(config, LENGTHS), caches_of(config, LENGTHS)
    for turn in range(3):
        tokens = torch.arange(len(LENGTHS)) + turn
        torch.testing.assert_close(step(tokens, caches), plain(tokens, others), atol=2e-4, rtol=2e-4)
    for cache, other in zip(caches, others, strict=True):
        assert cache.length == other.length
        torch.testing.assert_close(cache.keys, other.keys, atol=2e-4, rtol=2e-4, equal_nan=True)
        torch.testing.assert_close(cache.values, other.values, atol=2e-4, rtol=2e-4, equal_nan=True)


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_a_decoder_in_bfloat16_is_computed_in_float32(weights: str) -> None:
    config = replace(SHAPES["embedded"], head_bias=True)
    exact = decoder_of(config, weights)
    for tensor in exact.parameters():
        tensor.copy_(tensor.bfloat16())
    half = decoder_of(config, weights).to(torch.bfloat16)
    step, plain, tokens = native(half), EagerDecode(exact), torch.arange(len(LENGTHS))
    found, wanted = step(tokens, caches_of(config, LENGTHS)), plain(tokens, caches_of(config, LENGTHS))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=2e-4)
    in_float32 = EagerDecode(half)  # prefill in bfloat16 into a cache of float32
    cache = caches_of(config, (9,))[0]
    (row,) = in_float32(tokens[:1], [cache])
    torch.testing.assert_close(row.float(), plain(tokens[:1], caches_of(config, (9,)))[0], atol=0.3, rtol=0.1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
def test_a_row_is_the_same_to_the_bit_in_every_batch(weights: str, threads: int) -> None:
    config = replace(SHAPES["embedded"], hidden_size=384, num_heads=6)  # large enough for threads
    decoder, before = decoder_of(config, weights), torch.get_num_threads()
    step, lengths = native(decoder), (LENGTHS * 3)[:16]
    tokens = torch.arange(len(lengths))
    torch.set_num_threads(threads)
    try:
        together = step(tokens, caches_of(config, lengths))
        for count in (1, 3, 4, 7):
            some = step(tokens[:count], caches_of(config, lengths)[:count])
            assert torch.equal(some, together[:count])
    finally:
        torch.set_num_threads(before)


def test_rotary_tables_grow_with_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_decode, "ROPE_POSITIONS", 4)
    config = SHAPES["embedded"]
    decoder = decoder_of(config, "float32")
    step, plain = native(decoder), EagerDecode(decoder)
    for lengths in ((2,), (3, 9), (1,)):
        tokens = torch.arange(len(lengths))
        found, wanted = step(tokens, caches_of(config, lengths)), plain(tokens, caches_of(config, lengths))
        torch.testing.assert_close(found, wanted, atol=2e-4, rtol=2e-4)


def test_a_full_cache_is_an_error_and_no_cache_is_advanced() -> None:
    config = SHAPES["odd"]
    caches = caches_of(config, (5, CAPACITY))
    with pytest.raises(ValueError, match="full"):
        native(decoder_of(config, "float32"))(torch.tensor([1, 2]), caches)
    assert [cache.length for cache in caches] == [5, CAPACITY]


def test_a_small_decoder_in_float32_takes_it() -> None:
    decoder = decoder_of(SHAPES["embedded"], "float32")
    assert isinstance(choose_decode_runner(decoder, quantized_kv_cache=False), NativeDecode)
    assert isinstance(choose_decode_runner(decoder, quantized_kv_cache=True), EagerDecode)


def test_the_bytes_of_a_step_are_those_it_reads() -> None:
    exact, half = (decoder_of(SHAPES["embedded"], weights) for weights in ("float32", "bfloat16"))
    whole = step_bytes(EagerDecode(exact), exact)
    assert step_bytes(native(exact), exact) == whole == weight_bytes(exact)
    assert 0.5 * whole <= step_bytes(native(half), half) < 0.52 * whole


def test_what_it_does_not_know_is_left_to_the_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(decoder: Decoder) -> NativeDecode | None:
        return choose_native_decode(decoder)

    config = SHAPES["embedded"]
    assert chosen(decoder_of(config, "float32").to(torch.float16)) is None
    four = decoder_of(config, "float32")
    quantize_modules(four, "int4")
    assert chosen(four) is None
    streamed = decoder_of(config, "float32")
    streamed.layers[-1].register_forward_hook(lambda *_: None)
    assert chosen(streamed) is None
    adapted = decoder_of(config, "float32")
    adapted.head = nn.Linear(config.hidden_size, config.vocab_size)  # type: ignore[assignment]
    assert chosen(adapted) is None
    monkeypatch.setattr(native_decode, "MAX_BYTES", 1_000)
    assert chosen(decoder_of(config, "float32")) is None
    monkeypatch.undo()
    monkeypatch.setattr(native_decode, "load_float32_kernels", lambda: None)
    assert chosen(decoder_of(config, "float32")) is None


@pytest.mark.parametrize("flags", OTHER_FLAGS)
def test_other_processors_have_it_too(tmp_path: Path, flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = float32_build(tmp_path, flags)
    monkeypatch.setattr(native_decode, "load_float32_kernels", lambda: kernels)
    for weights in ("float32", "bfloat16", "int8"):
        test_steps_are_those_of_the_decoder("odd", weights)
        test_steps_are_those_of_the_decoder("embedded", weights)
