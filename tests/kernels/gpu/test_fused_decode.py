"""A fused decode step equals the decoder's step, for any mix of requests and every format of weights and caches."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor

from vita.config import DecoderConfig
from vita.engine.cuda_graphs import CudaGraphDecode
from vita.kernels.triton.decode_attention import AttentionSizes, allocate_workspace, decode_attention
from vita.layers.attention import attend
from vita.layers.rope import apply_rope, rope_tables
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache, KVCacheBatch
from vita.quant.linear import QuantizedLinear
from vita.quant.scheme import quantize_modules, quantize_weight

CPU = torch.device("cpu")
CONFIG = DecoderConfig(64, 128, 2, 2, 1, 50)
SPLITS = 2  # few, since the interpreter takes milliseconds a program


def build(scheme: str | None) -> Decoder:
    """A random decoder, quantised if a scheme is given."""
    torch.manual_seed(3)
    decoder = Decoder(CONFIG, 50).eval().requires_grad_(False)
    for name, norm in decoder.named_parameters():
        if "norm" in name:
            norm.uniform_(0.5, 1.5)
    if scheme is not None:
        old = {name: value.clone() for name, value in decoder.state_dict().items()}
        for path in quantize_modules(decoder, scheme):  # type: ignore[arg-type]
            layer = decoder.get_submodule(path)
            layer.weight, layer.scale = quantize_weight(old[f"{path}.weight"], layer.weight.dtype)
            if layer.bias is not None:
                layer.bias = torch.nn.Parameter(old[f"{path}.bias"], requires_grad=False)
    return decoder


@functools.cache
def float_steps() -> tuple[Decoder, CudaGraphDecode]:
    """A decoder and its fused steps, built once: the trials of its matmuls take seconds in the interpreter."""
    decoder = build(None)
    return decoder, CudaGraphDecode(decoder, quantized_kv_cache=False, splits=SPLITS)


def prompts(decoder: Decoder, lengths: tuple[int, ...], quantized: bool = False) -> list[KVCache]:
    caches = [KVCache(CONFIG, n + 8, dtype=torch.float32, device=CPU, quantized=quantized) for n in lengths]
    for cache, n in zip(caches, lengths, strict=True):
        decoder(torch.randn(1, n, CONFIG.hidden_size, generator=torch.Generator().manual_seed(n)), cache)
    return caches


def decoder_step(decoder: Decoder, tokens: Tensor, caches: list[KVCache]) -> Tensor:
    return decoder.logits(decoder(decoder.embed_tokens(tokens)[:, None], KVCacheBatch(caches)))[:, 0]


# Attention to caches of floats is a part of the fused step in float32 below.
@pytest.mark.parametrize("quantized", [pytest.param(False, marks=pytest.mark.slow), True])
def test_attention_appends_and_attends_to_caches_of_any_length(quantized: bool) -> None:
    lengths, head_dim, kv_heads, num_heads = (0, 1, 64, 131, 300), 32, 2, 14
    config = DecoderConfig(num_heads * head_dim, 64, 2, num_heads, kv_heads, 50)
    caches = [KVCache(config, n + 1, dtype=torch.float32, device=CPU, quantized=quantized) for n in lengths]
    for cache, n in zip(caches, lengths, strict=True):
        for layer in range(2):
            cache.write(layer, torch.randn(1, kv_heads, n, head_dim), torch.randn(1, kv_heads, n, head_dim))
        cache.length = n
    twins = [cache.copy_prefix(cache.length, cache.capacity) for cache in caches]
    sizes = AttentionSizes(num_heads, kv_heads, head_dim, splits=4)
    scales = [0 if t.scales is None else t.scales.data_ptr() for t in twins]
    rows = [
        [t.keys.data_ptr(), t.values.data_ptr(), s, t.capacity, t.length, 1] for t, s in zip(twins, scales, strict=True)
    ]
    positions = torch.tensor(lengths)[:, None]
    cos, sin = (t.flatten(1) for t in rope_tables(positions, head_dim, config.rope_theta, torch.float32))
    for layer in range(2):
        qkv = torch.randn(len(lengths), (num_heads + 2 * kv_heads) * head_dim)
        workspace = allocate_workspace(len(lengths), sizes, CPU).fill_(torch.nan)
        got = torch.full((len(lengths), num_heads * head_dim), torch.nan)
        decode_attention(qkv, torch.tensor(rows), 2, layer, cos, sin, sizes, workspace, got, quantized=quantized)
        for row, cache, twin in zip(range(len(lengths)), caches, twins, strict=True):
            tables = rope_tables(torch.tensor([[cache.length]]), head_dim, config.rope_theta, torch.float32)
            q, k, v = qkv[row].view(1, 1, -1, head_dim).split([num_heads, kv_heads, kv_heads], dim=2)
            q, k = apply_rope(q, tables).transpose(1, 2), apply_rope(k, tables).transpose(1, 2)
            wanted = cache.attend(attend, layer, q, k, v.transpose(1, 2), None).transpose(1, 2).reshape(-1)
            torch.testing.assert_close(got[row], wanted, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(twin.keys[layer], cache.keys[layer], atol=1 if quantized else 1e-5, rtol=1e-5)
            assert torch.equal(twin.values[layer], cache.values[layer])


@pytest.mark.parametrize(
    ("scheme", "quantized"),
    [
        (None, False),
        pytest.param("int4", True, marks=pytest.mark.slow),
        pytest.param(None, True, marks=pytest.mark.slow),
        pytest.param("int8", False, marks=pytest.mark.slow),
    ],
)
def test_a_fused_step_equals_the_decoders_step(scheme: str | None, quantized: bool) -> None:
    if scheme is None and not quantized:
        decoder, steps = float_steps()
    else:
        decoder = build(scheme)
        steps = CudaGraphDecode(decoder, quantized_kv_cache=quantized, splits=SPLITS)
    if scheme == "int4":  # on a CPU the decoder also quantises x; compare with the dequantised weights instead
        decoder = dequantized(build(scheme))
    for lengths in ((9,), (3, 70, 1)):
        caches = prompts(decoder, lengths, quantized)
        twins = [cache.copy_prefix(cache.length, cache.capacity) for cache in caches]
        tokens = torch.arange(1, len(lengths) + 1)
        for _ in range(2):  # the second one begins with lengths that the first has advanced on the device
            wanted, got = decoder_step(decoder, tokens, twins), steps(tokens, caches)
            torch.testing.assert_close(got, wanted, atol=1e-2 if scheme == "int4" else 1e-4, rtol=1e-3)
            tokens = wanted.argmax(-1)
        assert [c.length for c in caches] == [n + 2 for n in lengths]


def dequantized(decoder: Decoder) -> Decoder:
    """The same model with its quantised weights as floats."""
    out = build(None)
    for path, layer in decoder.named_modules():
        if isinstance(layer, QuantizedLinear):
            out.get_submodule(path).weight.copy_(layer.dequantize_block(slice(0, layer.out_features), torch.float32))
    return out


@pytest.mark.slow
def test_fused_weights_are_held_once_and_prefill_as_before() -> None:
    decoder, x = build("int4"), torch.randn(1, 20, CONFIG.hidden_size)
    wanted = decoder(x)
    CudaGraphDecode(decoder, quantized_kv_cache=False, splits=SPLITS)
    assert torch.equal(decoder(x), wanted)
    attn = decoder.layers[0].attn
    storages = {layer.weight.untyped_storage().data_ptr() for layer in (attn.q, attn.k, attn.v)}
    assert len(storages) == 1


@pytest.mark.slow
def test_sequences_that_join_and_leave_get_the_ids_they_get_alone() -> None:
    decoder = build(None)
    counts = (2, 4, 3)
    steps = [[0], [0, 1], [1, 2], [2, 1], [1, 2]]  # who takes part; sequence 0 leaves, 2 joins, two change places

    decode = CudaGraphDecode(decoder, quantized_kv_cache=False, splits=SPLITS)

    def answers(schedule: list[list[int]]) -> list[list[int]]:
        caches = [prompts(decoder, (5 + 9 * k,))[0] for k in range(len(counts))]
        ids: list[list[int]] = [[] for _ in counts]
        with torch.inference_mode():
            for present in schedule:
                tokens = torch.tensor([ids[k][-1] if ids[k] else k for k in present])
                for k, row in zip(present, decode(tokens, [caches[k] for k in present]), strict=True):
                    ids[k].append(int(row.argmax()))
        return ids

    alone = [answers([[k]] * count)[k] for k, count in enumerate(counts)]
    assert answers(steps) == alone


@pytest.mark.slow
def test_a_cache_that_was_reset_continues_from_its_new_length() -> None:
    """A step advances the lengths on the device, so a reset on the host must be copied there."""
    decoder = build(None)
    steps, cache = CudaGraphDecode(decoder, quantized_kv_cache=False, splits=SPLITS), prompts(decoder, (6,))[0]
    first = steps(torch.tensor([7]), [cache])
    steps(torch.tensor([8]), [cache])
    cache.reset(6)
    assert torch.equal(steps(torch.tensor([7]), [cache]), first)


def test_a_full_cache_is_refused_before_anything_is_written() -> None:
    decoder, steps = float_steps()
    cache = prompts(decoder, (6,))[0]
    cache.length = cache.capacity
    with pytest.raises(ValueError, match="full"):
        steps(torch.tensor([7]), [cache])
