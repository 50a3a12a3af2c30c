"""A fused decode step is the decoder's own step: any mix of requests, every format of weights and caches."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from vita.config import DecoderConfig
from vita.engine.batch import Batcher
from vita.engine.cuda_graphs import CudaGraphDecode
from vita.kernels.triton.decode_attention import Heads, attend_step, room
from vita.layers.attention import attend
from vita.layers.rope import rotary, rotate
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache, KVCacheBatch
from vita.quant.scheme import quantize_modules, quantize_weight

CPU = torch.device("cpu")
CONFIG = DecoderConfig(64, 128, 2, 2, 1, 50)
SPLITS = 2  # the interpreter takes milliseconds a program


def build(scheme: str | None) -> Decoder:
    """A random decoder, its linear layers rounded if so asked."""
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


def prompts(decoder: Decoder, lengths: tuple[int, ...], rounded: bool = False) -> list[KVCache]:
    caches = [KVCache(CONFIG, n + 8, dtype=torch.float32, device=CPU, quantized=rounded) for n in lengths]
    for cache, n in zip(caches, lengths, strict=True):
        decoder(torch.randn(1, n, CONFIG.hidden_size, generator=torch.Generator().manual_seed(n)), cache)
    return caches


def plain_step(decoder: Decoder, tokens: Tensor, caches: list[KVCache]) -> Tensor:
    return decoder.logits(decoder(decoder.embed_tokens(tokens)[:, None], KVCacheBatch(caches)))[:, 0]


@pytest.mark.parametrize("rounded", [False, True])
def test_attention_of_any_lengths_appends_and_sees_all(rounded: bool) -> None:
    lengths, width, groups, count = (0, 1, 64, 131, 300), 32, 2, 14
    config = DecoderConfig(count * width, 64, 2, count, groups, 50)
    caches = [KVCache(config, n + 1, dtype=torch.float32, device=CPU, quantized=rounded) for n in lengths]
    for cache, n in zip(caches, lengths, strict=True):
        for layer in range(2):
            cache.write(layer, torch.randn(1, groups, n, width), torch.randn(1, groups, n, width))
        cache.length = n
    twins = [cache.copy_prefix(cache.length, cache.capacity) for cache in caches]
    heads = Heads(count, groups, width, splits=4)
    scales = [0 if t.scales is None else t.scales.data_ptr() for t in twins]
    rows = [
        [t.keys.data_ptr(), t.values.data_ptr(), s, t.capacity, t.length, 1] for t, s in zip(twins, scales, strict=True)
    ]
    cos, sin = (a.flatten(1) for a in rotary(torch.tensor(lengths)[:, None], width, config.rope_theta, torch.float32))
    for layer in range(2):
        qkv = torch.randn(len(lengths), (count + 2 * groups) * width)
        parts = room(len(lengths), heads, CPU).fill_(torch.nan)
        got = torch.full((len(lengths), count * width), torch.nan)
        attend_step(qkv, torch.tensor(rows), 2, layer, cos, sin, heads, parts, got, rounded=rounded)
        for row, cache, twin in zip(range(len(lengths)), caches, twins, strict=True):
            angles = rotary(torch.tensor([[cache.length]]), width, config.rope_theta, torch.float32)
            q, k, v = qkv[row].view(1, 1, -1, width).split([count, groups, groups], dim=2)
            q, k = rotate(q, angles).transpose(1, 2), rotate(k, angles).transpose(1, 2)
            wanted = cache.attend(attend, layer, q, k, v.transpose(1, 2), None).transpose(1, 2).reshape(-1)
            torch.testing.assert_close(got[row], wanted, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(twin.keys[layer], cache.keys[layer], atol=1 if rounded else 1e-5, rtol=1e-5)
            assert torch.equal(twin.values[layer], cache.values[layer])


@pytest.mark.parametrize(("scheme", "rounded"), [(None, False), (None, True), ("int8", False), ("int4", True)])
def test_a_fused_step_is_the_decoders_step(scheme: str | None, rounded: bool) -> None:
    decoder = build(scheme)
    if scheme == "int4":  # on a CPU the decoder rounds x as well; what the weights stand for is not in question here
        decoder = widened(decoder)
    steps = CudaGraphDecode(decoder if scheme != "int4" else build(scheme), quantized_kv_cache=rounded, splits=SPLITS)
    for lengths in ((9,), (3, 70, 1)):
        caches = prompts(decoder, lengths, rounded)
        twins = [cache.copy_prefix(cache.length, cache.capacity) for cache in caches]
        tokens = torch.arange(1, len(lengths) + 1)
        for _ in range(3):
            wanted, got = plain_step(decoder, tokens, twins), steps(tokens, caches)
            torch.testing.assert_close(got, wanted, atol=1e-2 if scheme == "int4" else 1e-4, rtol=1e-3)
            tokens = wanted.argmax(-1)
        assert [c.length for c in caches] == [n + 3 for n in lengths]


def widened(decoder: Decoder) -> Decoder:
    """The same model with its rounded weights as floats."""
    out = build(None)
    for path, layer in decoder.named_modules():
        if hasattr(layer, "block"):
            out.get_submodule(path).weight.copy_(layer.block(slice(0, layer.out_features), torch.float32))
    return out


def test_joined_weights_are_held_once_and_prefill_as_before() -> None:
    decoder, x = build("int4"), torch.randn(1, 20, CONFIG.hidden_size)
    wanted = decoder(x)
    CudaGraphDecode(decoder, quantized_kv_cache=False, splits=SPLITS)
    assert torch.equal(decoder(x), wanted)
    attn = decoder.layers[0].attn
    joined = {layer.weight.untyped_storage().data_ptr() for layer in (attn.q, attn.k, attn.v)}
    assert len(joined) == 1


def test_requests_that_come_and_go_get_what_they_get_alone() -> None:
    decoder = build(None)
    counts = (2, 4, 3)

    def answer(step: Batcher, k: int) -> list[int]:
        cache = prompts(decoder, (5 + 9 * k,))[0]
        token, out = torch.tensor(k), []
        with torch.inference_mode():
            for _ in range(counts[k]):
                token = step.step(token, cache).argmax()
                out.append(int(token))
        step.leave(cache)
        return out

    def new() -> Batcher:
        return Batcher(CudaGraphDecode(decoder, quantized_kv_cache=False, splits=SPLITS), threading.Lock())

    alone = [answer(new(), k) for k in range(len(counts))]
    shared = new()
    with ThreadPoolExecutor(len(counts)) as pool:
        assert list(pool.map(lambda k: answer(shared, k), range(len(counts)))) == alone
    assert shared.rows == sum(counts)


def test_a_cache_that_was_cut_back_goes_on_from_there() -> None:
    """The table on the device counts on by itself; whoever shortens a cache must not be overlooked."""
    decoder = build(None)
    steps, cache = CudaGraphDecode(decoder, quantized_kv_cache=False, splits=SPLITS), prompts(decoder, (6,))[0]
    first = steps(torch.tensor([7]), [cache])
    steps(torch.tensor([8]), [cache])
    cache.reset(6)
    assert torch.equal(steps(torch.tensor([7]), [cache]), first)


def test_a_full_cache_is_refused_before_anything_is_written() -> None:
    decoder = build(None)
    steps, cache = CudaGraphDecode(decoder, quantized_kv_cache=False, splits=SPLITS), prompts(decoder, (6,))[0]
    cache.length = cache.capacity
    with pytest.raises(ValueError, match="full"):
        steps(torch.tensor([7]), [cache])
