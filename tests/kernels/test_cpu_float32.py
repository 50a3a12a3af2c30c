"""Attention of a float32 decode step: PyTorch's numbers, each request's own whatever the others are."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.kernels.compilers import find_compiler
from tests.kernels.float32_builds import OTHER_FLAGS, float32_build
from torch import Tensor

from vita.config import DecoderConfig
from vita.kernels.cpu import bindings
from vita.kernels.cpu.block_table import BlockTable
from vita.kernels.cpu.float32 import Float32Kernels, float32_kernels, load_float32_kernels
from vita.layers.attention import attend
from vita.layers.rope import apply_rope, rope_tables
from vita.model.kv_cache import KVCache, KVCacheBatch

LAYERS, CAPACITY = 2, 700
LENGTHS = (0, 1, 15, 254, 255, 256, 511, 600)  # splits are 256 positions long

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")


@pytest.fixture(scope="module")
def kernels() -> Float32Kernels:
    found = load_float32_kernels()
    assert found is not None
    return found


def caches_of(lengths: Sequence[int], kv_heads: int, d: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each request; what is not filled is NaN and must not be read."""
    dice = torch.Generator().manual_seed(seed)
    made = []
    for length in lengths:
        pair = [torch.randn(LAYERS, 1, kv_heads, CAPACITY, d, generator=dice) for _ in range(2)]
        for tensor in pair:
            tensor[..., length:, :] = math.nan
        made.append((pair[0], pair[1]))
    return made


def table_of(caches: Sequence[tuple[Tensor, Tensor]], lengths: Sequence[int]) -> BlockTable:
    return BlockTable([k for k, _ in caches], [v for _, v in caches], [None] * len(caches), lengths)


SHAPES = [(6, 3, 32), (2, 2, 16), (12, 1, 64), (4, 2, 12), (20, 2, 250), (28, 4, 128)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "kv_heads", "d"), SHAPES)
def test_a_step_is_pytorchs(kernels: Float32Kernels, heads: int, kv_heads: int, d: int, dtype: torch.dtype) -> None:
    caches = [(keys.to(dtype), values.to(dtype)) for keys, values in caches_of(LENGTHS, kv_heads, d)]
    q, k, v = (torch.randn(len(LENGTHS), n, 1, d).to(dtype) for n in (heads, kv_heads, kv_heads))
    out = kernels.decode_attention(q, k, v, table_of(caches, LENGTHS), 1)
    assert out is not None and out.shape == q.shape and out.dtype == dtype
    for r, (length, (keys, values)) in enumerate(zip(LENGTHS, caches, strict=True)):
        assert torch.equal(keys[1, 0, :, length], k[r, :, 0]) and torch.equal(values[1, 0, :, length], v[r, :, 0])
        assert keys[0, ..., length:, :].isnan().all(), "another layer was written"
        seen = keys[1, :, :, : length + 1].double(), values[1, :, :, : length + 1].double()
        wanted = attend(q[r : r + 1].double(), *seen)
        tolerance = 2e-6 if dtype == torch.float32 else 2**-8  # computed in float32, rounded to bfloat16
        torch.testing.assert_close(out[r : r + 1].double(), wanted, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_is_the_same_to_the_bit_alone_and_with_others(kernels: Float32Kernels, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        lengths = LENGTHS * 4  # enough for several threads
        q, k, v = (torch.randn(len(lengths), n, 1, 32) for n in (6, 3, 3))
        shared = caches_of(lengths, 3, 32)
        together = kernels.decode_attention(q, k, v, table_of(shared, lengths), 0)
        assert together is not None
        caches = caches_of(lengths, 3, 32)
        for r, length in enumerate(lengths):
            one = slice(r, r + 1)
            alone = kernels.decode_attention(q[one], k[one], v[one], table_of(caches[one], [length]), 0)
            assert alone is not None and torch.equal(alone, together[one])
    finally:
        torch.set_num_threads(before)


def test_large_scores_and_nan(kernels: Float32Kernels) -> None:
    caches = caches_of((300, 300, 300), 1, 32)
    q, k, v = (torch.randn(3, n, 1, 32) for n in (2, 1, 1))
    q[0] *= 1e4  # one position takes all of the weight
    caches[1][0][0, 0, 0, 3, 0] = math.nan  # of one key
    out = kernels.decode_attention(q, k, v, table_of(caches, (300, 300, 300)), 0)
    assert out is not None and out[1].isnan().all() and out[[0, 2]].isfinite().all()
    wanted = attend(q[:1], caches[0][0][0, :, :, :301], caches[0][1][0, :, :, :301])
    torch.testing.assert_close(out[:1], wanted, atol=1e-4, rtol=1e-4)


def test_a_block_table_keeps_its_caches_alive() -> None:
    caches = caches_of((300,), 1, 32)
    alive = [weakref.ref(tensor) for tensor in caches[0]]
    table = table_of(caches, (300,))
    del caches
    gc.collect()
    assert all(ref() is not None for ref in alive), "a kernel would write to freed memory"
    del table
    gc.collect()
    assert all(ref() is None for ref in alive)


def test_the_workspace_is_on_the_cpu_whatever_the_default_device(kernels: Float32Kernels) -> None:
    q, k, v = (torch.randn(1, n, 1, 32) for n in (2, 1, 1))
    table = table_of(caches_of((300,), 1, 32), (300,))
    wanted = kernels.decode_attention(q, k, v, table, 0)
    with torch.device("meta"):
        found = kernels.decode_attention(q, k, v, table, 0)
    assert wanted is not None and found is not None and torch.equal(found, wanted)


def test_what_it_does_not_know_is_left_to_pytorch(kernels: Float32Kernels) -> None:
    caches = caches_of((3,), 3, 32)
    q, k = torch.randn(1, 6, 1, 32), torch.randn(1, 3, 1, 32)
    table = table_of(caches, (3,))
    assert kernels.decode_attention(q, k, k, table, 0) is not None
    assert kernels.decode_attention(q[:, :5], k, k, table, 0) is None, "heads that are not shared alike"
    assert kernels.decode_attention(torch.randn(1, 6, 2, 32), k, k, table, 0) is None, "two positions"
    half = [(keys.bfloat16(), values.bfloat16()) for keys, values in caches]
    assert kernels.decode_attention(q, k, k, table_of(half, (3,)), 0) is None, "caches of another dtype than q"
    mixed = [(keys.bfloat16(), values) for keys, values in caches]
    assert kernels.decode_attention(q.bfloat16(), k.bfloat16(), k.bfloat16(), table_of(mixed, (3,)), 0) is None
    scales = torch.ones(2, LAYERS, 1, 3, CAPACITY, 1)
    integers = [keys.nan_to_num().to(torch.int8) for keys, _ in caches]
    assert kernels.decode_attention(q, k, k, BlockTable(integers, integers, [scales], [3]), 0) is None
    with pytest.raises(ValueError, match="full"):
        table_of(caches, (CAPACITY,))
    assert float32_kernels(q.bfloat16(), q) is None
    with torch.inference_mode():
        assert float32_kernels(q, k) is kernels
    assert torch.is_grad_enabled() and float32_kernels(q, k) is None


@pytest.mark.parametrize(("rows", "n"), [(1, 192), (3, 7), (70, 3584)])
def test_rms_norm_is_pytorchs(kernels: Float32Kernels, rows: int, n: int) -> None:
    x, weight = torch.randn(rows, n) * 3, torch.randn(n)
    wanted = torch.nn.functional.rms_norm(x.double(), (n,), weight.double(), 1e-6)
    torch.testing.assert_close(kernels.rms_norm(x, weight, 1e-6).double(), wanted, atol=2e-6, rtol=2e-6)
    assert torch.equal(kernels.rms_norm(x, weight, 1e-6)[:1], kernels.rms_norm(x[:1], weight, 1e-6)), "a row alone"


@pytest.mark.parametrize(("batch", "n", "d"), [(1, 1, 32), (16, 1, 32), (2, 70, 128), (1, 5, 6)])
def test_rope_is_pytorchs(kernels: Float32Kernels, batch: int, n: int, d: int) -> None:
    positions = torch.randint(0, 4000, (batch, n))
    tables = rope_tables(positions, d, 1e6, torch.float32)
    x = torch.randn(batch, n, 3, d)
    assert torch.is_grad_enabled()
    wanted = apply_rope(x, tables)  # no kernel while gradients are on
    turned = x.clone()
    assert kernels.rope(turned, *tables)
    torch.testing.assert_close(turned, wanted, atol=1e-6, rtol=1e-6)
    assert not kernels.rope(torch.randn(batch, n, 3, 2 * d)[..., :d], *tables), "not contiguous"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_batch_of_caches_attends_with_it(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """`KVCacheBatch` gives the numbers of one cache after another, which is what it does without a compiler."""
    monkeypatch.setattr("vita.model.kv_cache.bf16_kernels", lambda q, k: None)  # what has bfloat16 instructions
    lengths = (5, 300)
    q, k, v = (torch.randn(2, n, 1, 32).to(dtype) for n in (6, 3, 3))

    def step() -> Tensor:
        torch.manual_seed(5)
        caches = []
        for length in lengths:
            config = DecoderConfig(192, 64, LAYERS, 6, 3, 10)
            cache = KVCache(config, CAPACITY, dtype=dtype, device=torch.device("cpu"))
            cache.keys[...], cache.values[...] = torch.randn_like(cache.keys), torch.randn_like(cache.values)
            cache.length = length
            caches.append(cache)
        return KVCacheBatch(caches).attend(attend, 0, q, k, v, None)

    native = step()
    monkeypatch.setattr("vita.model.kv_cache.attention_kernels", lambda q, k: None)
    tolerance = 2e-6 if dtype == torch.float32 else 2**-7
    torch.testing.assert_close(native, step(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("flags", OTHER_FLAGS)
def test_other_processors_have_it_too(tmp_path: Path, flags: tuple[str, ...]) -> None:
    kernels = float32_build(tmp_path, flags)
    for dtype in (torch.float32, torch.bfloat16):
        test_a_step_is_pytorchs(kernels, 6, 3, 32, dtype)
        test_a_step_is_pytorchs(kernels, 4, 2, 12, dtype)


@pytest.mark.parametrize("has_instructions", [False, True])
def test_a_model_in_bfloat16_loads_them_where_they_attend(
    monkeypatch: pytest.MonkeyPatch, has_instructions: bool
) -> None:
    """Before the first request, which would wait for a compiler."""
    loaded: list[int] = []
    if bindings.kernels() is None:
        pytest.skip("SKIPPED LOUDLY: no native kernels here")
    monkeypatch.setattr(bindings.Kernels, "has_decode_attention", has_instructions)
    monkeypatch.setattr(bindings, "load_float32_kernels", lambda: loaded.append(1))
    bindings.prepare_kernels(torch.device("cpu"), torch.bfloat16, "int4")
    assert bool(loaded) is not has_instructions
