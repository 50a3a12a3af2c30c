"""Prefill by fused kernels, recorded or not, gives what the decoder's own operations give."""

from __future__ import annotations

import functools
import gc
import weakref

import pytest
import torch
from tests.kernels.gpu.test_fused_decode import CONFIG, CPU, build, decoder_step, dequantized
from torch import Tensor

from vita.checkpoint.load import with_padding
from vita.config import DecoderConfig
from vita.engine.cuda_graphs import CudaGraphDecode
from vita.engine.prefill_graphs import CudaGraphPrefill
from vita.kernels import reference
from vita.kernels.matmul import KINDS, REFERENCE, Backend, Bound, MatmulChooser
from vita.kernels.triton.decode_attention import AttentionSizes
from vita.kernels.triton.prefill_attention import append_kv, prefill_attention, rope_qkv
from vita.kernels.weight import Weight
from vita.layers.attention import attend
from vita.layers.rope import apply_rope, rope_tables
from vita.model.decoder import Decoder
from vita.model.fused_prefill import prefill_table
from vita.model.fused_weights import FusedWeights, padded_rows
from vita.model.kv_cache import KVCache, KVCacheRagged
from vita.planning.flops import weight_bytes
from vita.quant.linear import QuantizedLinear

LENGTHS = (8, 16)  # few, since the interpreter takes milliseconds a program


def rows(n: int, seed: int = 0) -> Tensor:
    return torch.randn(1, n, CONFIG.hidden_size, generator=torch.Generator().manual_seed(seed))


def new_cache(capacity: int, quantized: bool = False) -> KVCache:
    cache = KVCache(CONFIG, capacity, dtype=torch.float32, device=CPU, quantized=quantized)
    cache.keys.fill_(7)
    cache.values.fill_(7)
    return cache


def graphs(decoder: Decoder, quantized: bool = False) -> CudaGraphPrefill:
    weights = FusedWeights(decoder, splits=2)
    return CudaGraphPrefill(weights, quantized_kv_cache=quantized, lengths=LENGTHS)


@functools.cache
def fused_floats() -> tuple[Decoder, FusedWeights]:
    """A decoder and its fused weights, built once: the trials of its matmuls take seconds in the interpreter."""
    decoder = build(None)
    return decoder, FusedWeights(decoder, splits=2)


def last(prefill: CudaGraphPrefill, embeds: Tensor, cache: KVCache | KVCacheRagged) -> Tensor:
    with torch.inference_mode():
        return list(prefill.hidden_states(embeds, cache))[-1]


@pytest.mark.parametrize(
    ("past", "count", "padded", "quantized"),
    [
        (0, 5, 40, False), (70, 33, 40, False), (3, 40, 40, False), (130, 1, 16, False),
        (70, 33, 40, True), (130, 1, 16, True),
        pytest.param(0, 5, 40, True, marks=pytest.mark.slow), pytest.param(3, 40, 40, True, marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_the_kernels_append_and_attend_to_real_rows_alone(past: int, count: int, padded: int, quantized: bool) -> None:
    torch.manual_seed(past)
    head_dim, kv_heads, num_heads, layers = 32, 2, 6, 2
    config = DecoderConfig(num_heads * head_dim, 64, layers, num_heads, kv_heads, 50)
    cache = KVCache(config, past + count + 3, dtype=torch.float32, device=CPU, quantized=quantized)
    cache.keys.fill_(7)
    cache.values.fill_(7)
    for layer in range(layers):
        cache.write(layer, torch.randn(1, kv_heads, past, head_dim), torch.randn(1, kv_heads, past, head_dim))
    cache.length = past
    twin = cache.copy_prefix(past, cache.capacity)
    sizes = AttentionSizes(num_heads, kv_heads, head_dim, 1)
    table = torch.tensor(prefill_table(twin, count))
    positions = past + torch.arange(padded)[None]
    tables = rope_tables(positions, head_dim, config.rope_theta, torch.float32)
    twin.keys[:, :, :, past:] = twin.values[:, :, :, past:] = 7
    for layer in range(layers):
        qkv = torch.randn(padded, (num_heads + 2 * kv_heads) * head_dim)
        q, k, v = rope_qkv(qkv, *(t.flatten(0, 2).contiguous() for t in tables), sizes)
        append_kv(k, v, table, layers, layer, quantized=quantized)
        got = prefill_attention(q, table, layers, layer, sizes, quantized=quantized)
        wq, wk, wv = qkv.view(1, padded, -1, head_dim).split([num_heads, kv_heads, kv_heads], dim=2)
        wq, wk = apply_rope(wq, tables).transpose(1, 2), apply_rope(wk, tables).transpose(1, 2)
        torch.testing.assert_close(q, wq)
        torch.testing.assert_close(k, wk)
        torch.testing.assert_close(v, wv.transpose(1, 2))
        wanted = cache.attend(attend, layer, wq[:, :, :count], wk[:, :, :count], wv.transpose(1, 2)[:, :, :count], None)
        wanted = wanted.transpose(1, 2).reshape(count, -1)
        torch.testing.assert_close(got[:count], wanted, atol=1e-4 if quantized else 1e-5, rtol=1e-4)
        assert (got[count:] == 0).all()
    torch.testing.assert_close(twin.keys, cache.keys, atol=1 if quantized else 1e-5, rtol=1e-5)
    assert (twin.keys[:, :, :, past + count :] == 7).all(), "padding is not stored"
    assert (twin.values[:, :, :, past + count :] == 7).all()


@pytest.mark.parametrize(
    ("past", "n", "quantized"),
    [
        pytest.param(0, 5, False, id="padded"),
        pytest.param(0, 16, True, id="full, int8 cache", marks=pytest.mark.slow),
        pytest.param(9, 3, False, id="behind"),
        pytest.param(9, 3, True, id="behind, int8 cache"),
        pytest.param(4, 21, False, id="long", marks=pytest.mark.slow),
        pytest.param(0, 17, True, id="long, int8 cache", marks=pytest.mark.slow),
    ],
)
def test_prefill_equals_the_decoders(past: int, n: int, quantized: bool) -> None:
    decoder, weights = fused_floats()
    cache, twin = new_cache(past + n + 2, quantized), new_cache(past + n + 2, quantized)
    if past:
        decoder(rows(past, 1), cache)
        decoder(rows(past, 1), twin)
    wanted = decoder(rows(n), cache)
    prefill = CudaGraphPrefill(weights, quantized_kv_cache=quantized, lengths=LENGTHS)
    got = last(prefill, rows(n), twin)
    torch.testing.assert_close(got, wanted, atol=2e-3 if quantized else 1e-4, rtol=1e-3)
    assert twin.length == cache.length == past + n
    torch.testing.assert_close(twin.keys, cache.keys, atol=1 if quantized else 1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_prefill_with_quantized_weights(scheme: str) -> None:
    decoder = build(scheme)
    wanted = dequantized(decoder)(rows(12), new_cache(14))
    got = last(graphs(decoder), rows(12), new_cache(14))
    torch.testing.assert_close(got, wanted, atol=2e-2 if scheme == "int4" else 1e-3, rtol=1e-2)


@pytest.mark.slow
def test_several_prompts_at_once_equal_each_alone() -> None:
    decoder = build(None)
    prefill, counts = graphs(decoder), (5, 11)
    caches = [new_cache(20) for _ in counts]
    joint = last(prefill, torch.cat([rows(n, n) for n in counts], dim=1), KVCacheRagged(caches, counts))
    for n, part, cache in zip(counts, joint.split(counts, dim=1), caches, strict=True):
        alone = new_cache(20)
        torch.testing.assert_close(part, last(prefill, rows(n, n), alone), atol=1e-4, rtol=1e-3)
        assert cache.length == n
        torch.testing.assert_close(cache.keys, alone.keys, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 20))])
def test_the_head_of_any_number_of_rows(count: int) -> None:
    (decoder, weights), hidden = fused_floats(), torch.randn(1, count, CONFIG.hidden_size)
    prefill = CudaGraphPrefill(weights, quantized_kv_cache=False, lengths=LENGTHS)
    with torch.inference_mode():
        torch.testing.assert_close(prefill.logits(hidden), decoder.logits(hidden), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_decoder_prefills_by_what_it_is_given_and_decodes_behind_it() -> None:
    decoder, plain = build(None), build(None)
    steps = CudaGraphDecode(decoder, quantized_kv_cache=False, splits=2)
    decoder.fast_prefill = CudaGraphPrefill(steps.weights, quantized_kv_cache=False, lengths=LENGTHS)
    cache, twin = new_cache(30), new_cache(30)
    with torch.inference_mode():
        for n in (7, 20):  # a replay, then fused kernels behind it
            logits = decoder.logits(decoder(rows(n, n), cache)[:, -1:])
            wanted = plain.logits(plain(rows(n, n), twin)[:, -1:])
            torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-3)
        token = wanted[0, 0].argmax()[None]
        torch.testing.assert_close(steps(token, [cache]), decoder_step(plain, token, [twin]), atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_full_cache_is_refused_before_anything_is_written() -> None:
    cache = new_cache(6)
    with pytest.raises(ValueError, match="full"):
        last(graphs(build(None)), rows(7), cache)
    assert cache.length == 0 and (cache.keys == 7).all()


@pytest.mark.slow
def test_a_converting_backend_frees_the_stored_weights_and_every_path_computes_by_its_copy() -> None:
    decoder, plain = build("int8"), build("int8")
    size = weight_bytes(decoder)

    def bind(weight: Weight) -> Bound:
        return Bound(reference.linear, Weight(weight.values.clone(), weight.scale, weight.bias))

    library = Backend("library", lambda weight, dtype: weight.scale is not None, bind)
    usual = {kind: [REFERENCE] for kind in KINDS}
    weights = FusedWeights(decoder, splits=2, chooser=MatmulChooser(usual, [library], torch.float32))
    converted = [m for n, m in decoder.named_modules() if isinstance(m, QuantizedLinear) and n != "head"]
    assert len(converted) == 14 and all(m.weight.is_meta and m.scale.is_meta for m in converted)
    assert not decoder.head.weight.is_meta and weight_bytes(decoder) == size
    with torch.inference_mode():
        wanted = plain(rows(9), new_cache(12))
        torch.testing.assert_close(decoder(rows(9), new_cache(12)), wanted, atol=1e-3, rtol=1e-3)
        prefill = CudaGraphPrefill(weights, quantized_kv_cache=False, lengths=LENGTHS)
        torch.testing.assert_close(last(prefill, rows(9), new_cache(12)), wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_the_heads_padding_is_used_where_it_was_reserved() -> None:
    decoder, hidden = build(None), torch.randn(1, 3, CONFIG.hidden_size)
    with torch.inference_mode():
        wanted = decoder.logits(hidden)
        assert FusedWeights(decoder, splits=2).head_channels == 50, "nothing was reserved"
        decoder.head.weight = torch.nn.Parameter(with_padding(decoder.head.weight, CPU, torch.float32), False)
        assert torch.equal(decoder.logits(hidden), wanted)
        prefill = graphs(decoder)
        assert prefill._weights.head_channels == 64 and (padded_rows(decoder.head.weight)[50:] == 0).all()
        torch.testing.assert_close(prefill.logits(hidden), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_a_decoder_that_is_dropped_is_freed_at_once() -> None:
    """A reference cycle would keep its GPU memory until Python's garbage collector runs."""
    decoder = build(None)
    steps = CudaGraphDecode(decoder, quantized_kv_cache=False, splits=2)
    decoder.fast_prefill = CudaGraphPrefill(steps.weights, quantized_kv_cache=False, lengths=LENGTHS[:1])
    alive = weakref.ref(decoder)
    gc.collect()
    gc.disable()
    try:
        del decoder, steps
        assert alive() is None
    finally:
        gc.enable()
