"""Few rows times a weight, in every format, with what is joined to it: the number that float64 gives."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vita.kernels.triton.linear import GROUP_SIZE, product
from vita.kernels.weight import Weight
from vita.quant.int4 import quantize_groups, unpack
from vita.quant.int8 import quantize_rows

EPS = 1e-6


def weight(kind: str, channels: int, width: int, bias: Tensor | None) -> tuple[Weight, Tensor]:
    """A random weight, and what it stands for in float64."""
    whole = torch.randn(channels, width) / width**0.5
    if kind == "whole":
        return Weight(whole, None, bias), whole.double()
    values, scale = quantize_rows(whole) if kind == "int8" else quantize_groups(whole)
    if kind == "int8":
        return Weight(values, scale, bias), values.double() * scale.double()[:, None]
    ones = unpack(values, torch.ones_like(scale)).double()  # whole numbers, exactly
    wide = ones * scale.double().repeat_interleave(GROUP_SIZE, dim=1)
    return Weight(values, scale, bias), wide


def normalised(x: Tensor, gain: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * gain


@pytest.mark.parametrize("kind", ["whole", "int8", "int4"])
@pytest.mark.parametrize(("rows", "channels", "width"), [(1, 40, 128), (1, 70, 1216), (3, 70, 192), (16, 40, 320)])
@pytest.mark.parametrize("joined", ["nothing", "norm and bias", "residual", "norm and gate"])
def test_a_product_is_the_product(kind: str, rows: int, channels: int, width: int, joined: str) -> None:
    torch.manual_seed(rows + width)
    gate, norm = "gate" in joined, "norm" in joined
    out_of = channels * (2 if gate else 1)
    bias = torch.randn(out_of) if "bias" in joined else None
    w, wide = weight(kind, out_of, width, bias)
    x, gain = torch.randn(rows, width), torch.rand(width) + 0.5
    add = torch.randn(rows, channels) if joined == "residual" else None
    out = torch.full((rows, channels), torch.nan)
    product(x, w, out, gain=gain if norm else None, eps=EPS, add=add, gate=gate)
    wanted = (normalised(x.double(), gain.double()) if norm else x.double()) @ wide.t()
    wanted = wanted if bias is None else wanted + bias.double()
    if gate:
        wanted = functional.silu(wanted[:, :channels]) * wanted[:, channels:]
    wanted = wanted if add is None else wanted + add.double()
    torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=1e-4)


def test_a_sum_may_go_where_its_summand_is() -> None:
    x, add = torch.randn(2, 64), torch.randn(2, 33)
    w, wide = weight("whole", 33, 64, None)
    wanted = add + x @ wide.float().t()
    product(x, w, add, add=add)
    torch.testing.assert_close(add, wanted, atol=1e-5, rtol=1e-4)


def test_halves_are_summed_in_float32() -> None:
    """4,096 summands of one: a float16 sum stops at 2,048."""
    w = Weight(torch.ones(16, 4096, dtype=torch.float16), None, None)
    out = torch.zeros(1, 16, dtype=torch.float16)
    product(torch.ones(1, 4096, dtype=torch.float16), w, out)
    assert (out == 4096).all()
