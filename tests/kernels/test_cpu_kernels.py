"""The C kernels on processors other than this one: every branch of the source gives the same products."""

from __future__ import annotations

import copy
import platform
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from vita.config import DecoderConfig
from vita.kernels.cpu.bindings import GROUP, PROGRAM, BlockTable, Kernels
from vita.kernels.cpu.compile import compile_program, find_compiler
from vita.layers.attention import causal_mask
from vita.layers.rope import apply_rope, rope_tables
from vita.model.kv_cache import KVCache
from vita.quant.int4 import quantize_groups, unpack
from vita.quant.int8 import quantize_rows

COMPILER = find_compiler()
X86 = platform.machine() in ("x86_64", "AMD64")
BRANCHES = {
    "this processor": ("-march=native",),
    "AVX-512 without products of halves": ("-march=icelake-server",),
    "AVX2 and products of whole numbers": ("-mavx2", "-mfma", "-mavxvnni"),
    "AVX2": ("-mavx2", "-mfma"),
    "plain C": (),
}


def flags_of_cpu() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""


# Of kernels that other branches do not have.
NATIVE = pytest.mark.parametrize("own", ["this processor"], indirect=True)
WHOLE_8 = pytest.mark.parametrize("own", list(BRANCHES)[:3], indirect=True)
WHOLE_4 = pytest.mark.parametrize("own", list(BRANCHES)[:4], indirect=True)


@pytest.fixture(scope="module", params=list(BRANCHES))
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    if COMPILER is None:
        pytest.skip("NO COMPILER: the kernels cannot be built here")
    if "AVX2" in request.param and not (X86 and torch.cpu._is_avx2_supported()):
        pytest.skip("NO AVX2: this processor cannot run that branch")
    if "AVX2 and" in request.param and "avx_vnni" not in flags_of_cpu():
        pytest.skip("NO AVX-VNNI: this processor cannot run that branch")
    if "AVX-512" in request.param and not (
        X86 and torch.cpu._is_avx512_supported() and "avx512_vnni" in flags_of_cpu()
    ):
        pytest.skip("NO AVX-512: this processor cannot run that branch")
    import ctypes

    flags = ("-O2", *BRANCHES[request.param], "-fopenmp", "-fPIC", "-shared")
    target = tmp_path_factory.mktemp("kernels") / "kernels.so"
    target.write_bytes(compile_program(COMPILER, replace(PROGRAM, flags=flags)))
    return Kernels(ctypes.CDLL(str(target)))


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 13])
@pytest.mark.parametrize("groups", [1, 2, 17, 33, 61])
def test_four_bits(own: Kernels, rows: int, groups: int) -> None:
    torch.manual_seed(rows * 100 + groups)
    packed, scale = quantize_groups(torch.randn(21, groups * GROUP))
    wide, x, bias = unpack(packed, scale), torch.randn(rows, groups * GROUP), torch.randn(21)
    exact = x @ wide.float().t()
    mine = own.int4_product(x, packed, scale, None)
    assert float((mine - exact).norm() / exact.norm()) < 0.012, "x is rounded to eight bits"
    torch.testing.assert_close(own.int4_product(x, packed, scale, bias), mine + bias)
    half = own.int4_product(x.bfloat16(), packed, scale, bias.bfloat16())
    again = own.int4_product(x.bfloat16().float(), packed, scale, bias.bfloat16().float())
    assert half.dtype == torch.bfloat16 and torch.equal(half, again.bfloat16())
    room = torch.empty_like(wide)
    own.int4_dequantize(packed, scale, room)
    assert torch.equal(room, wide)


@WHOLE_4
@pytest.mark.parametrize("rows", [1, 6, 13, 40])
@pytest.mark.parametrize(("groups", "channels"), [(1, 32), (2, 21), (17, 70), (33, 100)])
def test_many_rows_of_four_bits_are_what_few_are(own: Kernels, rows: int, groups: int, channels: int) -> None:
    torch.manual_seed(rows * 100 + groups)
    packed, scale = quantize_groups(torch.randn(channels, groups * GROUP))
    x, bias = torch.randn(rows, groups * GROUP), torch.randn(channels)
    x[0] = 0
    if rows > 1:
        x[1, 3] = float("nan")
    mine = own.many_rows(x, packed, scale, bias)
    if mine is None:
        pytest.skip("NO VNNI OR AVX2, OR AMX: widened weights are multiplied here")
    torch.testing.assert_close(mine, own.int4_product(x, packed, scale, bias), equal_nan=True, atol=1e-4, rtol=1e-4)
    half = own.many_rows(x.bfloat16(), packed, scale, bias.bfloat16())
    again = own.many_rows(x.bfloat16().float(), packed, scale, bias.bfloat16().float())
    assert half is not None and again is not None
    torch.testing.assert_close(half, again.bfloat16(), equal_nan=True, atol=0, rtol=0)


@WHOLE_8
@pytest.mark.parametrize("rows", [1, 6, 13, 40])
@pytest.mark.parametrize(("groups", "channels"), [(1, 32), (2, 21), (17, 70), (33, 100)])
def test_many_rows_of_eight_bits(own: Kernels, rows: int, groups: int, channels: int) -> None:
    torch.manual_seed(rows * 100 + groups)
    whole, scale = quantize_rows(torch.randn(channels, groups * GROUP))
    x, bias = torch.randn(rows, groups * GROUP) * 10, torch.randn(channels)
    x[-1, 5] = 4000  # its group alone is rounded coarsely, which is little beside what it brings
    wide = whole.float() * scale.float()[:, None]
    mine = own.many_rows(x, whole, scale, None)
    if mine is None:
        pytest.skip("NO VNNI OR AVX2, OR AMX: widened weights are multiplied here")
    exact = x @ wide.t()
    off = (mine - exact).norm(dim=1) / exact.norm(dim=1)
    assert float(off[-1]) < 0.03 and not (off[:-1] > 0.012).any(), "x is rounded to eight bits"
    torch.testing.assert_close(own.many_rows(x, whole, scale, bias), mine + bias)
    again = own.many_rows(x.bfloat16().float(), whole, scale, bias.bfloat16().float())
    half = own.many_rows(x.bfloat16(), whole, scale, bias.bfloat16())
    assert half is not None and again is not None and torch.equal(half, again.bfloat16())
    x[0, 3] = float("nan")
    spoilt = own.many_rows(x, whole, scale, None)
    assert spoilt is not None and spoilt[0].isnan().all() and not spoilt[1:].isnan().any()


def test_what_is_next_to_nothing_is_nothing(own: Kernels) -> None:
    packed, scale = quantize_groups(torch.randn(20, 2 * GROUP))
    x = torch.full((2, 2 * GROUP), 1e-38)
    x[0, 3], x[1, GROUP:] = 1e-40, 1.0
    out = own.int4_product(x, packed, scale, None)
    assert (out[0] == 0).all()
    alone = unpack(packed, scale)[:, GROUP:].float().sum(1)
    torch.testing.assert_close(out[1], alone, atol=0.1, rtol=0.01)  # unpacked ones are rounded to bfloat16


@NATIVE
def test_a_width_that_is_no_multiple_of_a_group_is_left_to_others(own: Kernels) -> None:
    whole, scale = quantize_rows(torch.randn(5, 70))
    assert own.many_rows(torch.randn(20, 70), whole, scale, None) is None


@NATIVE
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize(("queries", "keys", "causal"), [
    (2, 2, True), (37, 37, True), (100, 100, False), (11, 300, True), (7, 520, False), (600, 600, True),
])  # fmt: skip
def test_attention_is_pytorchs(own: Kernels, width: int, queries: int, keys: int, causal: bool) -> None:
    """Also through strides, with keys shared by heads, and scores of any size."""
    torch.manual_seed(queries)
    q = (torch.randn(2, queries, 6, width) * 3).bfloat16().transpose(1, 2)
    k, v = torch.randn(2, 2, 3, keys + 5, width).bfloat16()[:, :, :, :keys].unbind(0)
    mine = own.attention(q, k, v, causal, 0.2)
    if mine is None:
        pytest.skip("NO AVX-512 BF16, OR AMX: PyTorch's own attention is used here")
    mask = causal_mask(queries, keys - queries, q.device) if causal else None
    exact = functional.scaled_dot_product_attention(
        q.float(), k.float(), v.float(), attn_mask=mask, scale=0.2, enable_gqa=True
    )
    torch.testing.assert_close(mine.float(), exact, atol=0.02, rtol=0.02)
    v[0, 0, 0] = float("nan")
    spoilt = own.attention(q, k, v, causal, 0.2)
    assert spoilt is not None and spoilt[0, :2].isnan().all() and not spoilt[0, 2:].isnan().any()


@NATIVE
@pytest.mark.parametrize("count", [1, 16, 100, 70_001])
def test_the_gate_is_the_two_operations(own: Kernels, count: int) -> None:
    torch.manual_seed(count)
    gate, up = (torch.randn(2, count) * 20).bfloat16().unbind(0)
    gate[0] = float("nan") if count == 16 else -300.0
    exact = functional.silu(gate) * up
    if not own.silu_mul(gate, up):
        pytest.skip("NO AVX-512: PyTorch's own operations are used here")
    torch.testing.assert_close(gate.float(), exact.float(), equal_nan=True, atol=1e-6, rtol=2**-7)


def moved(tensor: torch.Tensor, by: int) -> torch.Tensor:
    """The same at an address that many bytes after a multiple of 64, as in a mapped file."""
    memory = torch.zeros(tensor.nbytes + 128, dtype=torch.uint8)
    start = -memory.data_ptr() % 64 + by
    return memory[start : start + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize("by", [0, 3, 8, 63])
@pytest.mark.parametrize("rows", [1, 2, 5, 8])
@pytest.mark.parametrize("width", [40, 64, 200, 1027])
def test_eight_bits(own: Kernels, rows: int, width: int, by: int) -> None:
    torch.manual_seed(rows)
    whole, scale = quantize_rows(torch.randn(50, width))
    whole = moved(whole, by)
    x = torch.randn(rows, width)
    exact = x @ (whole.float() * scale.float()[:, None]).t()
    mine, bias = required(own.int8_product(x, whole, scale, None)), torch.randn(50)
    torch.testing.assert_close(mine, exact, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(own.int8_product(x, whole, scale, bias), mine + bias, atol=1e-5, rtol=1e-5)
    half = required(own.int8_product(x.bfloat16(), whole, scale, bias.bfloat16()))
    again = required(own.int8_product(x.bfloat16().float(), whole, scale, bias.bfloat16().float()))
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), again, atol=1e-3, rtol=2**-8)
    room = torch.empty(whole.shape, dtype=torch.bfloat16)
    own.int8_dequantize(whole, scale, room)
    assert torch.equal(room, whole.bfloat16() * scale[:, None])


@pytest.mark.parametrize("width", [64, 1027, 3584])
def test_rows_of_eight_bits_are_the_same_in_any_company(own: Kernels, width: int) -> None:
    torch.manual_seed(width)
    whole, scale = quantize_rows(torch.randn(50, width))
    x, whole = torch.randn(16, width).bfloat16(), moved(whole, 7)
    alone = torch.cat([required(own.int8_product(row[None], whole, scale, None)) for row in x])
    for rows in (2, 5, 8, 15, 16):
        together = required(own.int8_product(x[:rows], whole, scale, None))
        assert torch.equal(together, alone[:rows]), "company changed an answer"


@pytest.mark.parametrize("by", [0, 2, 8, 62])
@pytest.mark.parametrize("width", [20, 64, 200, 1027, 3584])
def test_rows_of_bfloat16_are_right_in_any_company(own: Kernels, width: int, by: int) -> None:
    torch.manual_seed(width)
    x, bias = torch.randn(16, width).bfloat16(), torch.randn(50).bfloat16()
    weight = moved(torch.randn(50, width).bfloat16(), by)
    exact = x.float() @ weight.float().t() + bias.float()
    alone = required(own.bf16_product(x[:1], weight, bias))
    torch.testing.assert_close(alone.float(), exact[:1], atol=4e-3, rtol=2**-7)
    most = own.bf16_product(x, weight, bias)
    if most is None:  # this branch is for one row, PyTorch multiplies several
        return
    torch.testing.assert_close(most.float(), exact, atol=4e-3, rtol=2**-7)
    for rows in (2, 5, 8, 15):
        assert torch.equal(required(own.bf16_product(x[:rows], weight, bias)), most[:rows]), "company changed an answer"


def required(out: torch.Tensor | None) -> torch.Tensor:
    assert out is not None
    return out


@NATIVE
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize(("heads", "groups", "width"), [(7, 1, 64), (28, 4, 128), (4, 4, 32), (18, 2, 96)])
def test_attention_of_a_step_is_pytorchs_and_company_does_not_matter(
    own: Kernels, heads: int, groups: int, width: int, rounded: bool
) -> None:
    """The kernel extends caches and attends as `KVCache` does with PyTorch's operations."""
    torch.manual_seed(heads)
    lengths, layer = [0, 5, 255, 256, 700], 1
    config = DecoderConfig(heads * width, 64, 2, heads, groups, 50)
    q = (torch.randn(len(lengths), heads, 1, width) * 3).bfloat16()
    k, v = torch.randn(2, len(lengths), groups, 1, width).bfloat16().unbind(0)
    caches = []
    for n in lengths:
        caches.append(KVCache(config, n + 3, dtype=torch.bfloat16, device=torch.device("cpu"), quantized=rounded))
        for part in (caches[-1].keys, caches[-1].values, caches[-1].scales):
            _ = None if part is None else part.zero_()
        for at in range(2):
            caches[-1].write(at, *torch.randn(2, 1, groups, n, width).bfloat16().unbind(0))
        caches[-1].length = n
    wanted = copy.deepcopy(caches)

    def step(which: slice) -> torch.Tensor | None:
        parts = ((c.keys, c.values, c.scales, c.length) for c in caches[which])
        return own.step(q[which], k[which], v[which], BlockTable(*zip(*parts, strict=True)), layer)

    together = step(slice(None))
    if together is None:
        pytest.skip("NO AVX-512 BF16: PyTorch's own attention is used here")
    for r, cache in enumerate(wanted):
        it = slice(r, r + 1)
        assert torch.equal(required(step(it))[0], together[r]), "company changed an answer"
        keys, values = cache.write(layer, k[it], v[it])
        if cache.scales is not None:  # what is stored, without the rounding that handing it out takes
            whole = torch.stack([cache.keys, cache.values]).float() * cache.scales.float()
            keys, values = whole[:, layer, :, :, : keys.shape[2]].unbind(0)
        exact = functional.scaled_dot_product_attention(q[it].float(), keys.float(), values.float(), enable_gqa=True)
        torch.testing.assert_close(together[it].float(), exact, atol=5e-3, rtol=2**-7)
        parts = (caches[r].keys, cache.keys), (caches[r].values, cache.values), (caches[r].scales, cache.scales)
        assert all(mine is theirs is None or torch.equal(mine, theirs) for mine, theirs in parts), (
            "one position, no other"
        )
    v[1, 0, 0, 0] = float("nan")
    spoilt = required(step(slice(None))).isnan()
    seen = heads // groups * (width if rounded else 1)
    assert spoilt[1, : heads // groups].any(-1).all() and int(spoilt.sum()) == seen, "hidden, or spread"
    caches[1].length = caches[1].capacity
    with pytest.raises(ValueError, match="full"):
        step(slice(None))


def test_what_a_step_does_not_know_is_left_to_pytorch(own: Kernels) -> None:
    """C would read and write past the end of what it is handed."""
    q, k = torch.randn(1, 4, 1, 64).bfloat16(), torch.randn(1, 2, 1, 64).bfloat16()
    plain = torch.zeros(2, 1, 2, 8, 64, dtype=torch.bfloat16)
    scales = torch.ones(2, 2, 1, 2, 8, 1)
    twice = plain.repeat(1, 2, 1, 1, 1)
    for keys, scale in ((plain.float(), None), (twice, None), (plain.to(torch.int8), scales), (plain.half(), None)):
        assert own.step(q, k, k, BlockTable([keys], [keys], [scale], [3]), 0) is None
    good = BlockTable([plain], [plain.clone()], [None], [3])
    several, odd = q.expand(2, -1, -1, -1), torch.randn(1, 5, 1, 64).bfloat16()
    assert own.step(several, k.expand(2, -1, -1, -1), k.expand(2, -1, -1, -1), good, 0) is None
    assert own.step(q.expand(-1, -1, 2, -1), k.expand(-1, -1, 2, -1), k.expand(-1, -1, 2, -1), good, 0) is None
    assert own.step(odd, k, k, good, 0) is None


def test_no_rows_are_no_crash(own: Kernels) -> None:
    none, weight = torch.zeros(0, 64, dtype=torch.bfloat16), torch.ones(8, 64)
    whole, scale = quantize_rows(weight)
    assert own.bf16_product(none, weight.bfloat16(), None) is None
    assert own.int8_product(none, whole, scale, None) is None


def test_scratch_memory_does_not_depend_on_the_callers_default(own: Kernels) -> None:
    whole, scale = quantize_rows(torch.randn(8, 64))
    x = torch.randn(3, 64)
    torch.set_default_dtype(torch.bfloat16)
    try:
        mine = own.int8_product(x, whole, scale, None)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(mine, x @ (whole.float() * scale.float()[:, None]).t(), atol=1e-3, rtol=1e-4)


@NATIVE
@pytest.mark.parametrize(("batch", "angled"), [(1, 1), (3, 1), (3, 3)])
def test_rotary_positions_are_the_seven_operations(own: Kernels, batch: int, angled: int) -> None:
    torch.manual_seed(batch)
    x = torch.randn(batch, 19, 3, 64).bfloat16()
    cos, sin = rope_tables(torch.randint(0, 5000, (angled, 19)), 64, 1e6, torch.bfloat16)
    with torch.enable_grad():  # PyTorch's operations
        exact = apply_rope(x, (cos, sin))
    if not own.rope(x, cos, sin):
        pytest.skip("NO AVX-512: PyTorch's own operations are used here")
    assert torch.equal(x, exact)


@pytest.mark.parametrize("width", [64, 200, 3584])
def test_rms_norm_is_the_eight_operations(own: Kernels, width: int) -> None:
    torch.manual_seed(width)
    x, weight = (torch.randn(3, width) * 40).bfloat16(), torch.randn(width).bfloat16()
    float_ = x.float()
    exact = (float_ * torch.rsqrt(float_.pow(2).mean(-1, keepdim=True) + 1e-6)).bfloat16() * weight
    mine = own.rms_norm(x, weight, 1e-6)
    # The mean is summed in another order: now and then a value lies on the other side of a rounding border.
    assert float((mine != exact).float().mean()) < 0.01
    torch.testing.assert_close(mine.float(), exact.float(), atol=0, rtol=2**-7)
