"""Matmuls in integers give what the same quantised operands give in float64; kernels equal their PyTorch twins."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from vita.kernels import reference
from vita.kernels.triton import int_gemm, int_gemv
from vita.kernels.triton.activations import quantize_activations
from vita.kernels.triton.epilogue import finish
from vita.kernels.weight import Weight
from vita.quant.int4 import quantize_groups
from vita.quant.int8 import quantize_rows

EPS = 1e-6
FUSED = ["nothing", "norm and bias", "residual", "norm and swiglu", "bias and swiglu"]
# Every epilogue with small sizes; with several blocks, which take longest, the least and the most by default.
SMALL, LARGE = [(1, 40, 128), (2, 70, 192)], [(1, 70, 4224), (16, 40, 640)]
SUMS = [(*sizes, fused) for sizes in SMALL for fused in FUSED]
SUMS += [(*sizes, fused) for sizes in LARGE for fused in ("nothing", "norm and swiglu")]
RARE = [(*sizes, fused) for sizes in LARGE for fused in FUSED if (*sizes, fused) not in SUMS]


def quantized_weight(kind: str, channels: int, width: int, bias: Tensor | None = None) -> Weight:
    floats = torch.randn(channels, width) / width**0.5
    return Weight(*(quantize_rows(floats) if kind == "int8" else quantize_groups(floats)), bias)


def exact_x(x: Tensor, norm_weight: Tensor | None) -> Tensor:
    """What x is after norm and quantisation."""
    quantized = reference.quantize_activations(x, norm_weight, EPS)
    return (quantized.values.unflatten(1, (-1, 64)).double() * quantized.scales.double()[..., None]).flatten(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize(("rows", "width"), [(1, 64), (3, 704), (2, 4160)])
def test_activations_are_quantized_as_by_pytorch(dtype: torch.dtype, norm: bool, rows: int, width: int) -> None:
    torch.manual_seed(width)
    x, norm_weight = torch.randn(rows, width).to(dtype) * 3, (torch.rand(width) + 0.5).to(dtype)
    x[0, :64] = 0
    got = quantize_activations(x, norm_weight if norm else None, EPS)
    wanted = reference.quantize_activations(x, norm_weight if norm else None, EPS)
    assert (got.values[0, :64] == 0).all()
    twice = norm and dtype == torch.bfloat16  # the interpreter rounds to bfloat16 in its own way, here twice
    assert (got.values.int() - wanted.values.int()).abs().max() <= (2 if twice else 1)
    assert twice or (got.values != wanted.values).float().mean() < 0.01, "a value on the border may go to either side"
    torch.testing.assert_close(got.scales, wanted.scales, atol=1e-6, rtol=2e-2 if norm else 1e-6)
    assert torch.equal(got.sums, got.values.unflatten(1, (-1, 64)).sum(-1, dtype=torch.int32))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_inf_become_nan_in_their_row_alone(bad: float) -> None:
    x = torch.ones(3, 192, dtype=torch.bfloat16)
    x[1, 70] = bad
    weight, out = quantized_weight("int4", 8, 192), torch.zeros(3, 8, dtype=torch.bfloat16)
    int_gemm.linear(x, weight, out)
    assert torch.isnan(out[1]).all() and torch.isfinite(out[[0, 2]]).all()


@pytest.mark.parametrize("kind", ["int8", "int4"])
@pytest.mark.parametrize(
    ("rows", "channels", "width", "fused"), [*SUMS, *(pytest.param(*case, marks=pytest.mark.slow) for case in RARE)]
)
def test_the_integer_sums_are_exact(kind: str, rows: int, channels: int, width: int, fused: str) -> None:
    torch.manual_seed(rows + width)
    swiglu = "swiglu" in fused
    total = channels * (2 if swiglu else 1)
    weight = quantized_weight(kind, total, width, torch.randn(total) if "bias" in fused else None)
    x = torch.randn(rows, width)
    norm_weight = torch.rand(width) + 0.5 if "norm" in fused else None
    residual = torch.randn(rows, channels) if fused == "residual" else None
    out = torch.full((rows, channels), torch.nan)
    linear = int_gemv.linear if rows == 1 else int_gemm.linear
    linear(x, weight, out, norm_weight=norm_weight, eps=EPS, residual=residual, swiglu=swiglu)
    wanted = exact_x(x, norm_weight) @ reference.dequantize(weight).double().t()
    wanted = wanted if weight.bias is None else wanted + weight.bias.double()
    if swiglu:
        wanted = torch.nn.functional.silu(wanted[:, :channels]) * wanted[:, channels:]
    wanted = wanted if residual is None else wanted + residual.double()
    tolerance = 2e-2 if norm_weight is not None else 1e-5  # an input on the border may be rounded to either side
    torch.testing.assert_close(out.double(), wanted, atol=tolerance, rtol=1e-4)
    near = torch.full_like(out, torch.nan)
    reference.linear(x, weight, near, norm_weight=norm_weight, eps=EPS, residual=residual, swiglu=swiglu)
    assert float((out - near).norm() / near.norm()) < 0.02, "quantising x costs little"


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_row_gets_the_same_sums_in_any_batch(kind: str) -> None:
    weight, x = quantized_weight(kind, 70, 640), torch.randn(16, 640).bfloat16()
    batch = torch.zeros(16, 70, dtype=torch.bfloat16)
    int_gemm.linear(x, weight, batch)
    for rows in (x[3:5], x[9:14]):
        out = torch.zeros(len(rows), 70, dtype=torch.bfloat16)
        int_gemm.linear(rows.contiguous(), weight, out)
        start = 3 if len(rows) == 2 else 9
        assert torch.equal(out, batch[start : start + len(rows)])
    alone = torch.zeros(1, 70, dtype=torch.bfloat16)
    int_gemv.linear(x[:1], weight, alone)
    torch.testing.assert_close(alone, batch[:1], atol=1e-2, rtol=1e-2)


def test_narrow_matmuls_are_split_along_their_inputs_and_summed() -> None:
    weight, x, residual = quantized_weight("int4", 33, 64 * 9), torch.randn(3, 64 * 9), torch.randn(3, 33)
    wanted = residual.double() + exact_x(x, None) @ reference.dequantize(weight).double().t()
    int_gemm.linear(x, weight, residual, residual=residual)
    torch.testing.assert_close(residual.double(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("swiglu", [False, True])
def test_the_epilogue_equals_pytorch(swiglu: bool) -> None:
    sums, bias, residual = torch.randn(3, 5, 1400), torch.randn(1400), torch.randn(5, 700 if swiglu else 1400)
    out = torch.full_like(residual, torch.nan)
    finish(sums, out, bias=bias, residual=residual, swiglu=swiglu)
    wanted = sums.sum(0) + bias
    if swiglu:
        wanted = torch.nn.functional.silu(wanted[:, :700]) * wanted[:, 700:]
    torch.testing.assert_close(out, wanted + residual, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["float", "int8", "int4"])
def test_the_pytorch_twin_gives_the_float64_result(kind: str) -> None:
    x, bias = torch.randn(4, 128), torch.randn(60)
    weight = Weight(torch.randn(60, 128), None, bias) if kind == "float" else quantized_weight(kind, 60, 128, bias)
    norm_weight, residual, out = torch.rand(128) + 0.5, torch.randn(4, 30), torch.zeros(4, 30)
    reference.linear(x, weight, out, norm_weight=norm_weight, eps=EPS, residual=residual, swiglu=True)
    normed = x.double() * torch.rsqrt(x.double().pow(2).mean(-1, keepdim=True) + EPS) * norm_weight.double()
    y = normed @ reference.dequantize(weight).double().t() + bias.double()
    wanted = torch.nn.functional.silu(y[:, :30]) * y[:, 30:] + residual.double()
    torch.testing.assert_close(out.double(), wanted, atol=1e-4, rtol=1e-4)


def test_float32_activations_are_not_quantized_and_odd_widths_are_refused() -> None:
    weight = quantized_weight("int8", 8, 128)
    assert int_gemv.supports(weight, torch.bfloat16) and not int_gemv.supports(weight, torch.float32)
    assert not int_gemv.supports(quantized_weight("int8", 8, 100), torch.bfloat16)
    assert not int_gemv.supports(Weight(torch.randn(8, 128), None, None), torch.bfloat16)
