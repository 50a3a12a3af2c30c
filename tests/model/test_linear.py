"""Both routes of the linear layer give the same result, and the faster one for the machine is chosen."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vita.kernels.cpu.bindings import kernels
from vita.layers import linear
from vita.layers.linear import Linear, choose_route, set_route, upcast_linear
from vita.runtime.cpu_features import CpuFeatures


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(1, 300, 700), (9, 1500, 1400)], ids=["one block", "three blocks"])
@pytest.mark.parametrize("biased", [True, False])
def test_the_upcast_route_gives_the_exact_result(dtype: torch.dtype, shape: tuple[int, int, int], biased: bool) -> None:
    torch.manual_seed(0)
    rows, width, out = shape
    x, weight = torch.randn(2, rows, width).to(dtype), torch.randn(out, width).to(dtype)
    bias = torch.randn(out).to(dtype) if biased else None
    exact = nn.functional.linear(x.float(), weight.float(), None if bias is None else bias.float()).to(dtype)
    got = upcast_linear(x, weight, bias)
    assert got.dtype == dtype and got.shape == (2, rows, out)
    torch.testing.assert_close(got, exact, atol=0.02, rtol=0.01)  # values up to 40, summed in another order


def test_routes_agree_and_are_set_for_every_layer() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Linear(64, 64), nn.ReLU(), Linear(64, 8)).to(torch.bfloat16)
    x = torch.randn(20, 64, dtype=torch.bfloat16)
    native = net(x)
    set_route(net, "upcast")
    assert [m.route for m in net if isinstance(m, Linear)] == ["upcast", "upcast"]
    torch.testing.assert_close(net(x), native, atol=0.05, rtol=0.05)


def test_float32_and_gpus_take_the_native_route() -> None:
    assert choose_route(torch.device("cpu"), torch.float32)[0] == "native"
    assert choose_route(torch.device("cuda"), torch.bfloat16)[0] == "native"
    route, reason = choose_route(torch.device("cpu"), torch.bfloat16)
    assert "CPU" in reason
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert route == "upcast"


@pytest.mark.parametrize(("speedup", "wanted"), [(0.5, "native"), (1.2, "native"), (1.9, "upcast")])
def test_the_faster_route_is_taken(speedup: float, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Intel CPUs without AMX float32 is nearly twice as fast as bfloat16, on others half as fast."""
    features = CpuFeatures(SimpleNamespace(mkldnn=SimpleNamespace(_is_mkldnn_bf16_supported=lambda: True)))
    monkeypatch.setattr(linear, "float32_speedup", lambda dtype: speedup)
    assert choose_route(torch.device("cpu"), torch.bfloat16, features)[0] == wanted


def test_the_speedup_is_measured_once() -> None:
    first = linear.float32_speedup(torch.bfloat16)
    assert first > 0 and linear.float32_speedup(torch.bfloat16) == first


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_the_upcast_route_gives_the_result_of_the_native_one(rows: int) -> None:
    layer, x = Linear(96, 40).to(torch.bfloat16).requires_grad_(False), torch.randn(rows, 96).bfloat16()
    with torch.no_grad():
        native = layer(x)
        set_route(layer, "upcast")
        torch.testing.assert_close(layer(x), native, atol=0.02, rtol=0.02)


def test_a_slice_of_rows_does_not_copy_the_weights() -> None:
    """The head takes the last position of a prompt; as a batched matmul, PyTorch would copy a gigabyte of weights."""
    layer, hidden = Linear(16, 400, bias=False).requires_grad_(False), torch.randn(1, 9, 16)
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            if "clone" in str(func) or "copy" in str(func) or "bmm" in str(func):
                sizes.append(max(a.numel() for a in args if isinstance(a, torch.Tensor)))
            return out

    with Watch(), torch.no_grad():
        out = layer(hidden[:, -1:])
    assert out.shape == (1, 1, 400) and max(sizes, default=0) < layer.weight.numel()
    torch.testing.assert_close(out[0], hidden[0, -1:] @ layer.weight.t())


@pytest.mark.parametrize("width", [128, 3584, 4097, 77], ids=["multiple of 128", "released", "odd", "short"])
@pytest.mark.parametrize("biased", [True, False])
def test_one_row_of_bfloat16_is_exact(width: int, biased: bool) -> None:
    torch.manual_seed(0)
    if kernels() is None:
        pytest.skip("NO COMPILER: the native kernel for one row is not built, PyTorch's is used")
    layer = Linear(width, 129, bias=biased).to(torch.bfloat16).requires_grad_(False)
    if biased:
        layer.bias.fill_(300.0)  # a large bias, as Qwen2's keys have, must be added before the sum is rounded
    x = torch.randn(1, 1, width, dtype=torch.bfloat16)
    bias = None if layer.bias is None else layer.bias.float()
    exact = nn.functional.linear(x.float(), layer.weight.float(), bias)
    with torch.inference_mode():
        got = layer(x)
    assert got.shape == (1, 1, 129) and got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), exact, atol=1e-3, rtol=2**-8)


def test_nan_propagates() -> None:
    layer = Linear(256, 8, bias=False).to(torch.bfloat16).requires_grad_(False)
    x = torch.zeros(1, 256, dtype=torch.bfloat16)
    x[0, 100] = torch.nan
    with torch.inference_mode():
        assert bool(layer(x).isnan().all())


def test_one_row_has_gradients() -> None:
    layer = Linear(32, 8).to(torch.bfloat16)
    layer(torch.randn(1, 32, dtype=torch.bfloat16)).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fused_activation_equals_a_separate_one(activation: Any, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = Linear(96, 64).to(dtype).requires_grad_(False)
    x = torch.randn(2, 9, 96).to(dtype) * 3
    sums = nn.functional.linear(x.float(), layer.weight.float(), layer.bias.float())
    exact = getattr(nn.functional, activation)(sums)
    with torch.inference_mode():
        got = layer.with_activation(x, activation)
    assert got.dtype == dtype and got.shape == (2, 9, 64)
    torch.testing.assert_close(got.float(), exact, atol=2e-3, rtol=2**-7)
