"""KV caches: a batched step gives each sequence what it gets alone; ragged prefill equals single prefill."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vita.config import DecoderConfig
from vita.kernels.cpu.bindings import kernels
from vita.model.decoder import Decoder
from vita.model.kv_cache import KVCache, KVCacheBatch, KVCacheRagged
from vita.quant.scheme import quantize_modules, quantize_weight

CONFIG = DecoderConfig(32, 64, 2, 4, 2, 50)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(5)
    return Decoder(CONFIG, 50).eval().requires_grad_(False)


def prompt(decoder: Decoder, length: int) -> KVCache:
    cache = KVCache(CONFIG, length + 20, dtype=torch.float32, device=CPU)
    decoder(torch.randn(1, length, 32, generator=torch.Generator().manual_seed(length)), cache)
    return cache


def test_a_step_together_is_each_step_alone(decoder: Decoder) -> None:
    lengths = (1, 7, 12, 3)
    alone, shared = ([prompt(decoder, n) for n in lengths] for _ in range(2))
    rows = torch.randn(len(lengths), 1, 32)
    for _ in range(3):
        wanted = torch.cat([decoder(row[None], cache) for row, cache in zip(rows, alone, strict=True)])
        got = decoder(rows, KVCacheBatch(shared))
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
        rows = wanted
    assert [c.length for c in shared] == [c.length for c in alone] == [n + 3 for n in lengths]


def test_in_four_bits_company_changes_no_bit_of_an_answer() -> None:
    """Whole numbers are summed exactly, and everything else request by request."""
    if kernels() is None:
        pytest.skip("NO COMPILER: weights are widened, and PyTorch's products depend on the number of rows")
    config = DecoderConfig(128, 256, 2, 4, 2, 90)
    torch.manual_seed(3)
    small = Decoder(config, 90).bfloat16().eval().requires_grad_(False)
    weights = {name: layer.weight for name, layer in small.named_modules() if isinstance(layer, nn.Linear)}
    quantize_modules(small, "int4")
    for name, weight in weights.items():
        layer = small.get_submodule(name)
        layer.weight, layer.scale = quantize_weight(weight.detach(), layer.weight.dtype)
    small.bfloat16()  # the biases of the new layers
    lengths = (3, 40, 1, 17, 9, 25, 2)

    def caches() -> list[KVCache]:
        made = [KVCache(config, n + 4, dtype=torch.bfloat16, device=CPU) for n in lengths]
        for n, cache in zip(lengths, made, strict=True):
            small(torch.randn(1, n, 128, generator=torch.Generator().manual_seed(n)).bfloat16(), cache)
        return made

    with torch.inference_mode():
        alone, shared = caches(), caches()
        rows = torch.randn(len(lengths), 1, 128).bfloat16()
        for _ in range(3):
            wanted = torch.cat(
                [small(row[None], KVCacheBatch([cache])) for row, cache in zip(rows, alone, strict=True)]
            )
            got = small(rows, KVCacheBatch(shared))
            assert torch.equal(got, wanted) and torch.equal(small.logits(got), small.logits(wanted))
            rows = wanted


def test_prompts_prefilled_together_are_each_prefilled_alone(decoder: Decoder) -> None:
    """One of them continues behind positions that are there already."""
    counts, filled = (5, 1, 9), (0, 4, 2)
    parts = [torch.randn(1, n, 32, generator=torch.Generator().manual_seed(n)) for n in counts]

    def caches() -> list[KVCache]:
        made = [KVCache(CONFIG, 20, dtype=torch.float32, device=CPU) for _ in counts]
        for n, cache in zip(filled, made, strict=True):
            if n:
                decoder(torch.randn(1, n, 32, generator=torch.Generator().manual_seed(90 + n)), cache)
        return made

    alone, shared = caches(), caches()
    wanted = torch.cat([decoder(part, cache) for part, cache in zip(parts, alone, strict=True)], dim=1)
    got = decoder(torch.cat(parts, dim=1), KVCacheRagged(shared, counts))
    torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
    for one, other in zip(alone, shared, strict=True):
        assert one.length == other.length
        torch.testing.assert_close(
            one.keys[..., : one.length, :], other.keys[..., : one.length, :], atol=1e-5, rtol=1e-5
        )
