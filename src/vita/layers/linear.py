"""The one linear layer of the house.

Owns how `x · Wᵀ + b` is computed for a given device and dtype. Does not know which model it stands in.

PyTorch's half-precision GEMM on a CPU without bf16/fp16 instructions runs a plain scalar loop, about a hundred
times slower than float32 (docs/benchmarks.md), and where such instructions stand without AMX, as in many virtual
machines on Intel's processors, it can be half as fast. There, many rows take the "upcast" route: weights stay in half
precision in memory, and one block of them at a time is widened to float32 and multiplied by the faster kernel.
One row of bfloat16 (decoding), or a few where PyTorch has no tiles for them, go through our own kernel, which is bound
by memory everywhere.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vita.kernels.cpu.bindings import bf16_kernels
from vita.kernels.torch_ops import torch_ops
from vita.runtime.cpu_features import CpuFeatures, cpu_features

Route = Literal["native", "upcast"]
Activation = Literal["gelu", "relu"]


@runtime_checkable
class Routed(Protocol):
    """A layer that multiplies, and can be told how."""

    route: Route


# Up to this many rows the native half-precision kernel (a matrix-vector loop) wins on CPUs without bf16 GEMM.
NATIVE_ROWS = 4
# Rows, width and channels of the product that `float32_gain` measures, and how often.
PROBE, PROBES = (256, 2048, 1024), 4
MIN_UPCAST_GAIN = 1.4  # times as fast a float32 product must be: widening costs something, and must not hang on noise
# Weights widened at a time: fewer make narrow products, which are slow where rows are long.
UPCAST_BLOCK = 8 << 20


class Linear(nn.Linear):
    """`nn.Linear` with a route chosen once, while loading (see `choose_route`)."""

    route: Route = "native"

    def reset_parameters(self) -> None:
        """First values, which on the meta device are none; asking for them would be half of building a model."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`, in the input's dtype."""
        # Always as rows: PyTorch multiplies a slice such as [:, -1:] as a batch, and copies all weights for that.
        rows = input.reshape(-1, self.in_features)
        own = bf16_kernels(rows, self.weight) if self.weight.is_contiguous() else None
        out = None if own is None else own.gemm_bf16(rows, self.weight, self.bias)
        if out is None:
            wide = self.route == "upcast" and len(rows) > NATIVE_ROWS
            out = (upcast_linear if wide else functional.linear)(rows, self.weight, self.bias)
        return out.view(*input.shape[:-1], self.out_features)

    def activated(self, input: Tensor, activation: Activation) -> Tensor:
        """As `forward`, then the activation: in one kernel, on sums not yet rounded, where there is one."""
        plain = input.device.type != "cpu" or self.route != "native" or torch.is_grad_enabled()
        if plain or self.weight.dtype != torch.bfloat16:
            return activated(self(input), activation)
        rows = input.reshape(-1, self.in_features)
        out = torch_ops().linear_activation(rows, self.weight, self.bias, activation)
        if out is None:
            return activated(self(input), activation)
        return out.view(*input.shape[:-1], self.out_features)


def activated(x: Tensor, activation: Activation) -> Tensor:
    """The activation by name; GELU is the exact one."""
    return functional.gelu(x) if activation == "gelu" else functional.relu(x)


def upcast_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Half-precision weights multiplied in float32, a block of output channels at a time.

    Args:
        x: `[..., in]`, any float dtype.
        weight: `[out, in]`, bfloat16 or float16.
        bias: `[out]` or None.

    Returns:
        `[..., out]` in the dtype of `x`.
    """
    rows = x.reshape(-1, x.shape[-1]).float()  # [rows, in]
    out = torch.empty(rows.shape[0], weight.shape[0], dtype=x.dtype)
    step = max(1, UPCAST_BLOCK // weight.shape[1])
    for start in range(0, weight.shape[0], step):
        block = weight[start : start + step].float()  # [step, in]
        product = rows @ block.t()
        if bias is not None:
            product += bias[start : start + step].float()
        out[:, start : start + step] = product
    return out.reshape(*x.shape[:-1], weight.shape[0])


def choose_route(device: torch.device, dtype: torch.dtype, features: CpuFeatures | None = None) -> tuple[Route, str]:
    """The route for this machine and the reason, to be logged once."""
    if device.type != "cpu" or dtype == torch.float32:
        return "native", f"{device.type} has a fast {dtype} GEMM"
    if not (features or cpu_features()).has_gemm(dtype):
        return "upcast", f"this CPU has no {dtype} GEMM: weights are widened to float32 block by block"
    gain = float32_gain(dtype)
    if gain > MIN_UPCAST_GAIN:
        return "upcast", f"this CPU multiplies float32 {gain:.1f} times as fast as {dtype}: weights are widened"
    return "native", f"this CPU multiplies {dtype} itself"


@lru_cache(maxsize=2)
def float32_gain(dtype: torch.dtype) -> float:
    """How many times as fast as in `dtype` a matrix product is in float32 here; measured once, in about 50 ms."""

    def seconds(form: torch.dtype) -> float:
        x, weight = torch.full((PROBE[0], PROBE[1]), 0.5).to(form), torch.full((PROBE[2], PROBE[1]), 0.5).to(form)
        shortest = float("inf")
        for _ in range(PROBES):
            start = time.perf_counter()
            functional.linear(x, weight)
            shortest = min(shortest, time.perf_counter() - start)
        return shortest

    with torch.inference_mode():
        return seconds(dtype) / seconds(torch.float32)


def set_route(module: nn.Module, route: Route) -> None:
    """Give every layer inside `module` that has one the same route."""
    for layer in module.modules():
        if isinstance(layer, Routed):
            layer.route = route
