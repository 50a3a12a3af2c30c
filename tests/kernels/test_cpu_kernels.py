"""Every branch of the C kernels gives the results of PyTorch, and none writes outside its workspace."""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.kernels.cpu_builds import (
    BF16_BUILDS,
    BUILDS,
    INT4_BUILDS,
    INT8_BUILDS,
    GuardedKernels,
    builds,
    cases,
    compile_builds,
)
from torch import Tensor
from torch.nn import functional

from vita.config import DecoderConfig
from vita.kernels.cpu.bindings import GROUP_SIZE, Kernels
from vita.kernels.cpu.block_table import BlockTable
from vita.layers.attention import causal_mask
from vita.layers.rope import apply_rope, rope_tables
from vita.model.kv_cache import KVCache
from vita.quant.int4 import quantize_groups, unpack
from vita.quant.int8 import quantize_rows

WITH_ALL = [name for name in BUILDS if "other blocks" not in name]
ANY_BUILD = pytest.mark.parametrize("kernels", builds(WITH_ALL), indirect=True)
INT4_BUILD = pytest.mark.parametrize("kernels", builds(INT4_BUILDS), indirect=True)
INT8_BUILD = pytest.mark.parametrize("kernels", builds(INT8_BUILDS), indirect=True)
BF16_BUILD = pytest.mark.parametrize("kernels", builds(BF16_BUILDS), indirect=True)


@pytest.fixture(autouse=True, scope="module")
def two_threads() -> Iterator[None]:
    """So that what threads share is tested too; `./test.sh` gives a process one."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def libraries(request: pytest.FixtureRequest) -> dict[str, Path]:
    """The builds that the collected tests ask for, kept in pytest's cache: to compile all of them takes 20 s."""
    run = [item for item in request.session.items if item.get_closest_marker("skip") is None]
    asked = {str(item.callspec.params["kernels"]) for item in run
             if hasattr(item, "callspec") and "kernels" in item.callspec.params}  # fmt: skip
    folder = request.config.cache.mkdir("kernels")
    return compile_builds([name for name in BUILDS if name in asked], folder)


@pytest.fixture
def kernels(request: pytest.FixtureRequest, libraries: dict[str, Path]) -> Iterator[GuardedKernels]:
    if not libraries:
        pytest.skip("NO COMPILER: the kernels cannot be built here")
    if request.param not in libraries:
        pytest.skip(f"NOT THIS PROCESSOR: it cannot run the {request.param} build")
    built = GuardedKernels(libraries[request.param])
    yield built
    built.check_guards()


def required(out: Tensor | None) -> Tensor:
    assert out is not None
    return out


def offset(tensor: Tensor, by: int) -> Tensor:
    """A copy at an address `by` bytes after a multiple of 64, as in a memory-mapped file."""
    memory = torch.zeros(tensor.nbytes + 128, dtype=torch.uint8)
    start = -memory.data_ptr() % 64 + by
    return memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)


# 15 rows are 8 + 4 + 2 + 1. 23 groups are 16 + 4 + 2 + 1. 15 rows of 45 groups are larger than L1.
@ANY_BUILD
@pytest.mark.parametrize(
    ("rows", "groups"),
    cases([(1, 1), (1, 23), (2, 2), (15, 23), (15, 45)], [1, 2, 5, 8, 13], [1, 2, 17, 33, 61]),
)
def test_gemm_int4_equals_the_product_with_dequantized_weights(kernels: Kernels, rows: int, groups: int) -> None:
    torch.manual_seed(rows * 100 + groups)
    packed, scale = quantize_groups(torch.randn(21, groups * GROUP_SIZE))
    weight, x, bias = unpack(packed, scale), torch.randn(rows, groups * GROUP_SIZE), torch.randn(21)
    exact = x @ weight.float().t()
    out = kernels.gemm_int4(x, packed, scale, None)
    assert float((out - exact).norm() / exact.norm()) < 0.012, "x is quantised to eight bits"
    torch.testing.assert_close(kernels.gemm_int4(x, packed, scale, bias), out + bias)
    half = kernels.gemm_int4(x.bfloat16(), packed, scale, bias.bfloat16())
    upcast = kernels.gemm_int4(x.bfloat16().float(), packed, scale, bias.bfloat16().float())
    assert half.dtype == torch.bfloat16 and torch.equal(half, upcast.bfloat16())
    dequantized = torch.empty_like(weight)
    kernels.int4_dequantize(packed, scale, dequantized)
    assert torch.equal(dequantized, weight)


# A tile has 6 rows (4 in "other blocks"), a block 32 or 16 channels, a vector 16 groups.
SHAPES = cases([(1, 1, 32), (13, 2, 21), (40, 17, 70)], [1, 6, 13, 40], [1, 2, 17, 33], [32, 21, 70, 100])


@INT4_BUILD
@pytest.mark.parametrize(("rows", "groups", "channels"), SHAPES)
def test_gemm_dynamic_int8_of_int4_weights_equals_gemm_int4(
    kernels: Kernels, rows: int, groups: int, channels: int
) -> None:
    torch.manual_seed(rows * 100 + groups)
    packed, scale = quantize_groups(torch.randn(channels, groups * GROUP_SIZE))
    x, bias = torch.randn(rows, groups * GROUP_SIZE), torch.randn(channels)
    x[0] = 0
    if rows > 1:
        x[1, 3] = float("nan")
    out = required(kernels.gemm_dynamic_int8(x, packed, scale, bias))
    torch.testing.assert_close(out, kernels.gemm_int4(x, packed, scale, bias), equal_nan=True, atol=1e-4, rtol=1e-4)
    half = required(kernels.gemm_dynamic_int8(x.bfloat16(), packed, scale, bias.bfloat16()))
    upcast = required(kernels.gemm_dynamic_int8(x.bfloat16().float(), packed, scale, bias.bfloat16().float()))
    torch.testing.assert_close(half, upcast.bfloat16(), equal_nan=True, atol=0, rtol=0)


@INT8_BUILD
@pytest.mark.parametrize(("rows", "groups", "channels"), SHAPES)
def test_gemm_dynamic_int8_of_int8_weights_equals_the_product(
    kernels: Kernels, rows: int, groups: int, channels: int
) -> None:
    torch.manual_seed(rows * 100 + groups)
    integers, scale = quantize_rows(torch.randn(channels, groups * GROUP_SIZE))
    x, bias = torch.randn(rows, groups * GROUP_SIZE) * 10, torch.randn(channels)
    x[-1, 5] = 4000  # only its group is quantised coarsely, which is little beside what the value contributes
    out = required(kernels.gemm_dynamic_int8(x, integers, scale, None))
    exact = x @ (integers.float() * scale.float()[:, None]).t()
    error = (out - exact).norm(dim=1) / exact.norm(dim=1)
    assert float(error[-1]) < 0.03 and not (error[:-1] > 0.012).any(), "x is quantised to eight bits"
    torch.testing.assert_close(kernels.gemm_dynamic_int8(x, integers, scale, bias), out + bias)
    upcast = required(kernels.gemm_dynamic_int8(x.bfloat16().float(), integers, scale, bias.bfloat16().float()))
    half = required(kernels.gemm_dynamic_int8(x.bfloat16(), integers, scale, bias.bfloat16()))
    assert torch.equal(half, upcast.bfloat16())
    x[0, 3] = float("nan")
    spoilt = required(kernels.gemm_dynamic_int8(x, integers, scale, None))
    assert spoilt[0].isnan().all() and not spoilt[1:].isnan().any()


@ANY_BUILD
def test_groups_of_subnormal_values_become_zero(kernels: Kernels) -> None:
    packed, scale = quantize_groups(torch.randn(20, 2 * GROUP_SIZE))
    x = torch.full((2, 2 * GROUP_SIZE), 1e-38)
    x[0, 3], x[1, GROUP_SIZE:] = 1e-40, 1.0
    out = kernels.gemm_int4(x, packed, scale, None)
    assert (out[0] == 0).all()
    alone = unpack(packed, scale)[:, GROUP_SIZE:].float().sum(1)
    torch.testing.assert_close(out[1], alone, atol=0.1, rtol=0.01)  # unpacked weights are rounded to bfloat16


@ANY_BUILD
def test_gemm_dynamic_int8_refuses_a_width_that_is_no_multiple_of_a_group(kernels: Kernels) -> None:
    integers, scale = quantize_rows(torch.randn(5, 70))
    assert kernels.gemm_dynamic_int8(torch.randn(20, 70), integers, scale, None) is None


# Tiles have 6 or 4 queries, blocks 48 queries and 256 or 128 keys.
@BF16_BUILD
@pytest.mark.parametrize(
    ("queries", "keys", "causal", "width"),
    cases(
        [(37, 37, True, 64), (11, 300, True, 128), (100, 520, False, 128), (300, 300, True, 64)],
        [2, 7, 100], [100, 520, 600], [False, True], [64, 128],
    ),
)  # fmt: skip
def test_flash_attention_equals_pytorch(kernels: Kernels, queries: int, keys: int, causal: bool, width: int) -> None:
    """Inputs are strided views; six query heads share three KV heads."""
    torch.manual_seed(queries)
    q = (torch.randn(2, queries, 6, width) * 3).bfloat16().transpose(1, 2)
    k, v = torch.randn(2, 2, 3, keys + 5, width).bfloat16()[:, :, :, :keys].unbind(0)
    out = kernels.flash_attention(q, k, v, causal, 0.2)
    if out is None:
        pytest.skip("AMX, OR NO AVX-512 BF16: PyTorch's attention is used here")
    mask = causal_mask(queries, keys - queries, q.device) if causal else None
    exact = functional.scaled_dot_product_attention(
        q.float(), k.float(), v.float(), attn_mask=mask, scale=0.2, enable_gqa=True
    )
    torch.testing.assert_close(out.float(), exact, atol=0.02, rtol=0.02)
    v[0, 0, 0] = float("nan")
    spoilt = required(kernels.flash_attention(q, k, v, causal, 0.2))
    assert spoilt[0, :2].isnan().all() and not spoilt[0, 2:].isnan().any()


@ANY_BUILD
@pytest.mark.parametrize("count", [1, 16, 100, 70_001])
def test_silu_mul_equals_the_two_operations(kernels: Kernels, count: int) -> None:
    torch.manual_seed(count)
    gate, up = (torch.randn(2, count) * 20).bfloat16().unbind(0)
    gate[0] = float("nan") if count == 16 else -300.0
    exact = functional.silu(gate) * up
    assert kernels.silu_mul(gate, up)
    torch.testing.assert_close(gate.float(), exact.float(), equal_nan=True, atol=1e-6, rtol=2**-7)


# Widths end before the first aligned address (40), are whole cache lines (64), or neither.
@ANY_BUILD
@pytest.mark.parametrize(
    ("rows", "width", "by"),
    cases([(1, 40, 63), (1, 1027, 3), (2, 64, 8), (15, 200, 0), (15, 1027, 63)],
          [1, 2, 5, 8], [40, 64, 200, 1027], [0, 3, 8, 63]),
)  # fmt: skip
def test_gemm_int8_equals_the_product_wherever_weights_are_stored(
    kernels: Kernels, rows: int, width: int, by: int
) -> None:
    torch.manual_seed(rows)
    integers, scale = quantize_rows(torch.randn(50, width))
    integers = offset(integers, by)
    x, bias = torch.randn(rows, width), torch.randn(50)
    exact = x @ (integers.float() * scale.float()[:, None]).t()
    out = required(kernels.gemm_int8(x, integers, scale, None))
    torch.testing.assert_close(out, exact, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(kernels.gemm_int8(x, integers, scale, bias), out + bias, atol=1e-5, rtol=1e-5)
    half = required(kernels.gemm_int8(x.bfloat16(), integers, scale, bias.bfloat16()))
    upcast = required(kernels.gemm_int8(x.bfloat16().float(), integers, scale, bias.bfloat16().float()))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), upcast, atol=1e-3, rtol=2**-8)
    dequantized = torch.empty(integers.shape, dtype=torch.bfloat16)
    kernels.int8_dequantize(integers, scale, dequantized)
    assert torch.equal(dequantized, integers.bfloat16() * scale[:, None])


# 2080 is more than one slice of K for 8 rows or more.
@ANY_BUILD
@pytest.mark.parametrize("width", [64, 1027, 2080, pytest.param(3584, marks=pytest.mark.slow)])
def test_a_row_of_gemm_int8_does_not_depend_on_the_other_rows(kernels: Kernels, width: int) -> None:
    torch.manual_seed(width)
    integers, scale = quantize_rows(torch.randn(50, width))
    x, integers = torch.randn(16, width).bfloat16(), offset(integers, 7)
    alone = torch.cat([required(kernels.gemm_int8(row[None], integers, scale, None)) for row in x])
    for rows in (2, 5, 8, 15, 16):
        together = required(kernels.gemm_int8(x[:rows], integers, scale, None))
        assert torch.equal(together, alone[:rows]), "other rows changed a result"


@ANY_BUILD
@pytest.mark.parametrize(
    ("width", "by"), cases([(20, 2), (64, 0), (1027, 62), (2080, 8)], [20, 64, 200, 1027, 3584], [0, 2, 8, 62])
)
def test_gemm_bf16_equals_the_product_and_rows_do_not_depend_on_each_other(
    kernels: Kernels, width: int, by: int
) -> None:
    torch.manual_seed(width)
    x, bias = torch.randn(16, width).bfloat16(), torch.randn(50).bfloat16()
    weight = offset(torch.randn(50, width).bfloat16(), by)
    exact = x.float() @ weight.float().t() + bias.float()
    alone = required(kernels.gemm_bf16(x[:1], weight, bias))
    torch.testing.assert_close(alone.float(), exact[:1], atol=4e-3, rtol=2**-7)
    out = kernels.gemm_bf16(x, weight, bias)
    if out is None:  # these instructions have a kernel for one row only
        assert kernels.gemm_bf16(x[:2], weight, bias) is None
        return
    torch.testing.assert_close(out.float(), exact, atol=4e-3, rtol=2**-7)
    for rows in (2, 5, 8, 15):
        assert torch.equal(required(kernels.gemm_bf16(x[:rows], weight, bias)), out[:rows]), "rows changed a result"


# Nine heads share a KV head: more than one block of heads. 256 is the largest head.
@BF16_BUILD
@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "width"),
    [(7, 1, 64), (14, 2, 128), (18, 2, 96), (2, 1, 256), pytest.param(28, 4, 128, marks=pytest.mark.slow)],
)
def test_decode_attention_equals_pytorch_and_requests_do_not_depend_on_each_other(
    kernels: Kernels, heads: int, kv_heads: int, width: int, quantized: bool
) -> None:
    """The kernel extends caches and attends as `KVCache` does with PyTorch operations."""
    torch.manual_seed(heads)
    lengths, layer = [0, 5, 255, 256, 300], 1
    config = DecoderConfig(heads * width, 64, 2, heads, kv_heads, 50)
    q = (torch.randn(len(lengths), heads, 1, width) * 3).bfloat16()
    k, v = torch.randn(2, len(lengths), kv_heads, 1, width).bfloat16().unbind(0)
    caches = []
    for n in lengths:
        caches.append(KVCache(config, n + 3, dtype=torch.bfloat16, device=torch.device("cpu"), quantized=quantized))
        for tensor in (caches[-1].keys, caches[-1].values, caches[-1].scales):
            _ = None if tensor is None else tensor.zero_()
        for at in range(2):
            caches[-1].write(at, *torch.randn(2, 1, kv_heads, n, width).bfloat16().unbind(0))
        caches[-1].length = n
    expected = copy.deepcopy(caches)

    def attend(which: slice) -> Tensor | None:
        parts = ((c.keys, c.values, c.scales, c.length) for c in caches[which])
        return kernels.decode_attention(q[which], k[which], v[which], BlockTable(*zip(*parts, strict=True)), layer)

    together = attend(slice(None))
    if together is None:
        pytest.skip("NO AVX-512 BF16: the attention of the float32 kernels is used here")
    for r, cache in enumerate(expected):
        one = slice(r, r + 1)
        assert torch.equal(required(attend(one))[0], together[r]), "other requests changed a result"
        keys, values = cache.write(layer, k[one], v[one])
        if cache.scales is not None:  # as stored; what `write` returns is rounded to bfloat16 again
            stored = torch.stack([cache.keys, cache.values]).float() * cache.scales.float()
            keys, values = stored[:, layer, :, :, : keys.shape[2]].unbind(0)
        exact = functional.scaled_dot_product_attention(q[one].float(), keys.float(), values.float(), enable_gqa=True)
        torch.testing.assert_close(together[one].float(), exact, atol=5e-3, rtol=2**-7)
        pairs = (caches[r].keys, cache.keys), (caches[r].values, cache.values), (caches[r].scales, cache.scales)
        assert all(a is b is None or torch.equal(a, b) for a, b in pairs), "writes one position and no other"
    v[1, 0, 0, 0] = float("nan")
    spoilt = required(attend(slice(None))).isnan()
    seen = heads // kv_heads * (width if quantized else 1)
    assert spoilt[1, : heads // kv_heads].any(-1).all() and int(spoilt.sum()) == seen, "NaN is hidden, or spreads"
    caches[1].length = caches[1].capacity
    with pytest.raises(ValueError, match="full"):
        attend(slice(None))


@BF16_BUILD
def test_decode_attention_refuses_what_it_does_not_support(kernels: Kernels) -> None:
    """C would read and write past the end of the tensors."""
    q, k = torch.randn(1, 4, 1, 64).bfloat16(), torch.randn(1, 2, 1, 64).bfloat16()
    plain = torch.zeros(2, 1, 2, 8, 64, dtype=torch.bfloat16)
    scales = torch.ones(2, 2, 1, 2, 8, 1)
    batched = plain.repeat(1, 2, 1, 1, 1)
    for keys, scale in ((plain.float(), None), (batched, None), (plain.to(torch.int8), scales), (plain.half(), None)):
        assert kernels.decode_attention(q, k, k, BlockTable([keys], [keys], [scale], [3]), 0) is None
    good = BlockTable([plain], [plain.clone()], [None], [3])
    two, n = k.expand(2, -1, -1, -1), k.expand(-1, -1, 2, -1)
    assert kernels.decode_attention(q.expand(2, -1, -1, -1), two, two, good, 0) is None, "two requests, one cache"
    assert kernels.decode_attention(q.expand(-1, -1, 2, -1), n, n, good, 0) is None, "two positions"
    assert kernels.decode_attention(torch.randn(1, 5, 1, 64).bfloat16(), k, k, good, 0) is None, "5 heads for 2"
    wide = torch.zeros(2, 1, 2, 8, 288, dtype=torch.bfloat16)
    q, k = torch.randn(1, 4, 1, 288).bfloat16(), torch.randn(1, 2, 1, 288).bfloat16()
    assert kernels.decode_attention(q, k, k, BlockTable([wide], [wide], [None], [3]), 0) is None, "head too large"


@ANY_BUILD
def test_no_rows_do_not_crash(kernels: Kernels) -> None:
    x, weight = torch.zeros(0, 64, dtype=torch.bfloat16), torch.ones(8, 64)
    integers, scale = quantize_rows(weight)
    assert kernels.gemm_bf16(x, weight.bfloat16(), None) is None
    assert kernels.gemm_int8(x, integers, scale, None) is None
    assert kernels.gemm_int4(x, *quantize_groups(weight), None).shape == (0, 8)


def test_the_workspace_does_not_depend_on_the_default_dtype_or_device(libraries: dict[str, Path]) -> None:
    file = next(iter(libraries.values()), None)
    if file is None:
        pytest.skip("NO COMPILER: the kernels cannot be built here")
    kernels = Kernels(ctypes.CDLL(str(file)))
    integers, scale = quantize_rows(torch.randn(8, 64))
    x = torch.randn(3, 64)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            out = kernels.gemm_int8(x, integers, scale, None)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(out, x @ (integers.float() * scale.float()[:, None]).t(), atol=1e-3, rtol=1e-4)


@ANY_BUILD
@pytest.mark.parametrize(("batch", "angles"), [(1, 1), (3, 1), (3, 3)])
def test_rope_equals_the_seven_operations(kernels: Kernels, batch: int, angles: int) -> None:
    torch.manual_seed(batch)
    x = torch.randn(batch, 19, 3, 64).bfloat16()
    cos, sin = rope_tables(torch.randint(0, 5000, (angles, 19)), 64, 1e6, torch.bfloat16)
    with torch.enable_grad():  # PyTorch's operations
        exact = apply_rope(x, (cos, sin))
    assert kernels.rope(x, cos, sin)
    assert torch.equal(x, exact)
    odd = torch.randn(1, 2, 3, 48).bfloat16()
    before = odd.clone()
    assert not kernels.rope(odd, *rope_tables(torch.arange(2)[None], 48, 1e6, torch.bfloat16)) and torch.equal(
        odd, before
    )


@ANY_BUILD
@pytest.mark.parametrize("width", [64, 200, pytest.param(3584, marks=pytest.mark.slow)])
def test_rms_norm_equals_the_eight_operations(kernels: Kernels, width: int) -> None:
    torch.manual_seed(width)
    x, weight = (torch.randn(9, width) * 40).bfloat16(), torch.randn(width).bfloat16()
    upcast = x.float()
    exact = (upcast * torch.rsqrt(upcast.pow(2).mean(-1, keepdim=True) + 1e-6)).bfloat16() * weight
    out = kernels.rms_norm(x, weight, 1e-6)
    # The mean is summed in another order, so a few values round to the other neighbour.
    assert float((out != exact).float().mean()) < 0.01
    torch.testing.assert_close(out.float(), exact.float(), atol=0, rtol=2**-7)
