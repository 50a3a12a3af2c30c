"""The fused linear kernel gives the float64 result, in every weight format and with every fused operation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from vita.kernels.cpu.bindings import GROUP_SIZE
from vita.kernels.triton import linear as module
from vita.kernels.triton.linear import linear
from vita.kernels.weight import Weight
from vita.quant.int4 import quantize_groups, unpack
from vita.quant.int8 import quantize_rows

EPS = 1e-6


def weight(kind: str, channels: int, width: int, bias: Tensor | None) -> tuple[Weight, Tensor]:
    """A random weight, and its exact values in float64."""
    floats = torch.randn(channels, width) / width**0.5
    if kind == "float":
        return Weight(floats, None, bias), floats.double()
    values, scale = quantize_rows(floats) if kind == "int8" else quantize_groups(floats)
    if kind == "int8":
        return Weight(values, scale, bias), values.double() * scale.double()[:, None]
    integers = unpack(values, torch.ones_like(scale)).double()  # exact
    exact = integers * scale.double().repeat_interleave(GROUP_SIZE, dim=1)
    return Weight(values, scale, bias), exact


def rms_norm(x: Tensor, norm_weight: Tensor) -> Tensor:
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * norm_weight


@pytest.mark.parametrize("kind", ["float", "int8", "int4"])
@pytest.mark.parametrize(("rows", "channels", "width"), [(1, 40, 128), (1, 70, 1216), (3, 70, 192), (16, 40, 320)])
@pytest.mark.parametrize("fused", ["nothing", "norm and bias", "residual", "norm and swiglu"])
def test_the_fused_kernel_gives_the_float64_result(kind: str, rows: int, channels: int, width: int, fused: str) -> None:
    torch.manual_seed(rows + width)
    swiglu, norm = "swiglu" in fused, "norm" in fused
    weight_channels = channels * (2 if swiglu else 1)
    bias = torch.randn(weight_channels) if "bias" in fused else None
    w, exact = weight(kind, weight_channels, width, bias)
    x, norm_weight = torch.randn(rows, width), torch.rand(width) + 0.5
    residual = torch.randn(rows, channels) if fused == "residual" else None
    out = torch.full((rows, channels), torch.nan)
    linear(x, w, out, norm_weight=norm_weight if norm else None, eps=EPS, residual=residual, swiglu=swiglu)
    wanted = (rms_norm(x.double(), norm_weight.double()) if norm else x.double()) @ exact.t()
    wanted = wanted if bias is None else wanted + bias.double()
    if swiglu:
        wanted = functional.silu(wanted[:, :channels]) * wanted[:, channels:]
    wanted = wanted if residual is None else wanted + residual.double()
    torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=1e-4)


def test_the_output_may_be_the_residual() -> None:
    x, residual = torch.randn(2, 64), torch.randn(2, 33)
    w, exact = weight("float", 33, 64, None)
    wanted = residual + x @ exact.float().t()
    linear(x, w, residual, residual=residual)
    torch.testing.assert_close(residual, wanted, atol=1e-5, rtol=1e-4)


def test_float16_is_summed_in_float32() -> None:
    """A float16 sum of 4,096 ones would stop at 2,048."""
    w = Weight(torch.ones(16, 4096, dtype=torch.float16), None, None)
    out = torch.zeros(1, 16, dtype=torch.float16)
    linear(torch.ones(1, 4096, dtype=torch.float16), w, out)
    assert (out == 4096).all()


def test_the_kernel_is_launched_on_the_device_of_x(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton takes the thread's current device, which is the first one even for a model on the second."""
    current: list[Tensor | None] = [None]
    launched: list[Tensor | None] = []

    @contextmanager
    def device_of(tensor: Tensor) -> Iterator[None]:
        current.append(tensor)
        yield
        current.pop()

    class Kernel:
        def __getitem__(self, grid: tuple[int, ...]) -> Any:
            return lambda *arguments, **options: launched.append(current[-1])

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    monkeypatch.setattr(module, "_linear_kernel", Kernel())
    x = torch.randn(1, 64)
    linear(x, weight("float", 33, 64, None)[0], torch.empty(1, 33))
    assert len(launched) == 1 and launched[0] is x
