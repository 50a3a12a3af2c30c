"""No matmul is cut at an odd width: GEMM libraries fall back to unaligned kernels, several times slower.

On an H200 194 of 215 ms of int4 prefill went to such a kernel (blocks of 4,681 and 885 channels).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vita.kernels.weight import BLOCK_CHANNELS, channel_blocks
from vita.layers.linear import Linear, upcast_linear
from vita.quant import int4, int8
from vita.quant.int4 import Int4Linear
from vita.quant.int8 import Int8Linear
from vita.quant.linear import QuantizedLinear

aten = torch.ops.aten
META = torch.device("meta")  # takes the path of every device but the CPU, without memory
RELEASED = [(3584, 3584), (3584, 512), (3584, 18944), (18944, 3584), (3584, 151665)]  # in_features, out_features


@given(st.integers(1, 200_000), st.integers(1, 20_000), st.integers(1, 1 << 27))
def test_blocks_start_and_end_at_multiples_of_64(channels: int, in_features: int, limit: int) -> None:
    blocks = list(channel_blocks(channels, in_features, limit))
    assert [b.start for b in blocks] == [0, *(b.stop for b in blocks[:-1])] and blocks[-1].stop == channels
    assert all(b.start % BLOCK_CHANNELS == 0 for b in blocks)
    assert all((b.stop - b.start) * in_features <= max(limit, BLOCK_CHANNELS * in_features) for b in blocks)


class Widths(TorchDispatchMode):
    """Output channels of every matmul."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (aten.mm, aten.addmm, aten.linear, aten.matmul):
            self.found.append(out.shape[-1])
        return out


def check(widths: list[int], channels: int) -> None:
    assert sum(widths) == channels
    assert all(width % BLOCK_CHANNELS == 0 for width in widths[:-1]), widths


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
@pytest.mark.parametrize(("in_features", "channels"), RELEASED)
def test_quantized_layers_of_the_released_model_on_a_gpu(
    kind: type[QuantizedLinear], in_features: int, channels: int
) -> None:
    with META:
        layer = kind(in_features, channels).to(torch.bfloat16)
        x = torch.empty(1, 40, in_features, dtype=torch.bfloat16)
    with Widths() as widths, torch.inference_mode():
        assert layer(x).shape == (1, 40, channels)
    check(widths.found, channels)
    if channels < 100_000:
        assert len(widths.found) == 1, "a weight is dequantised at once, and its sums are not copied"


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_quantized_layers_on_a_cpu(kind: type[QuantizedLinear], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "kernels", lambda: None)
    monkeypatch.setattr(int4, "kernels", lambda: None)
    in_features, channels = 18944, 1001
    layer = kind(in_features, channels, bias=False)
    with Widths() as widths, torch.inference_mode():
        layer(torch.ones(17, in_features))
    check(widths.found, channels)
    assert len(widths.found) > 1


def test_the_upcast_route() -> None:
    layer = Linear(18944, 1001, bias=False).to(torch.bfloat16)
    with Widths() as widths, torch.inference_mode():
        upcast_linear(torch.ones(5, 18944, dtype=torch.bfloat16), layer.weight, None)
    check(widths.found, 1001)
    assert len(widths.found) > 1


def test_blocks_on_another_device_give_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "kernels", lambda: None)
    layer, x = Int8Linear(128, 200), torch.randn(20, 128)
    layer.weight, layer.scale = int8.quantize_rows(torch.randn(200, 128))
    layer.bias = nn.Parameter(torch.randn(200))
    wanted = layer(x)
    for limit in (128 * 64, 128 * 1000):
        monkeypatch.setattr("vita.quant.linear.DEQUANTIZE_BLOCK", limit)
        torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("quantize", [int8.quantize_rows, int4.quantize_groups])
def test_weights_quantised_in_larger_blocks_are_the_same(quantize: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU quantises more at a time than a CPU."""
    weight = torch.randn(37, 192)
    wanted = quantize(weight)
    monkeypatch.setattr("vita.quant.linear.QUANTIZE_BLOCK", 4096)
    assert all(torch.equal(a, b) for a, b in zip(quantize(weight), wanted, strict=True))
    with META:
        values, scale = quantize(torch.empty(18944, 3584))
    assert values.shape[0] == scale.shape[0] == 18944


@pytest.mark.parametrize("kind", [Int8Linear, Int4Linear])
def test_blocks_are_dequantised_beside_the_weights_whatever_the_default_device(kind: type[QuantizedLinear]) -> None:
    layer = kind(64, 3)
    layer.weight.random_(0, 120)
    wanted = layer.dequantize_block(slice(1, 3), torch.bfloat16)
    with META:
        found = layer.dequantize_block(slice(1, 3), torch.bfloat16)
    assert torch.equal(found, wanted)
