"""The linear layer: choose how `x · Wᵀ + b` is computed for a device and dtype.

On a CPU without bf16/fp16 instructions, PyTorch's half-precision GEMM is a scalar loop, about a hundred times slower
than float32 (docs/log.md). With such instructions but without AMX, as in many virtual machines on Intel
processors, it can be half as fast as float32. There, more than a few rows take the "upcast" route: weights stay in half
precision in memory, and one block of them at a time is cast to float32 and multiplied by the float32 GEMM.

One row of bfloat16 (decoding), and a few rows where the native kernel supports them, go through the native kernel,
which runs at memory bandwidth.
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
from vita.kernels.weight import channel_blocks
from vita.runtime.cpu_features import CpuFeatures, cpu_features

Route = Literal["native", "upcast"]
Activation = Literal["gelu", "relu"]


@runtime_checkable
class Routed(Protocol):
    """A linear layer whose route can be set."""

    route: Route


# With the upcast route, up to this many rows still take the half-precision kernel: a matrix-vector loop, faster there.
NATIVE_ROWS = 4
# Rows, in_features and out_features of the GEMM that `float32_speedup` times, and the number of runs.
PROBE_SHAPE, PROBE_RUNS = (256, 2048, 1024), 4
MIN_UPCAST_SPEEDUP = 1.4  # of the float32 GEMM: the cast costs time, and the choice must not depend on noise
UPCAST_BLOCK = 8 << 20  # weights cast at a time; smaller blocks make narrow, slow GEMMs where rows are long


class Linear(nn.Linear):
    """`nn.Linear` with a route that is set once, while loading (see `choose_route`)."""

    route: Route = "native"

    def reset_parameters(self) -> None:
        """Initialise the weights, except on the meta device, where this is half the time to build a model."""
        if not self.weight.is_meta:
            super().reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`, in the input's dtype."""
        # Flatten to rows: for a slice such as [:, -1:] PyTorch would use a batched matmul, which copies all weights.
        rows = input.reshape(-1, self.in_features)
        native = bf16_kernels(rows, self.weight) if self.weight.is_contiguous() else None
        out = None if native is None else native.gemm_bf16(rows, self.weight, self.bias)
        if out is None:
            upcast = self.route == "upcast" and len(rows) > NATIVE_ROWS
            out = (upcast_linear if upcast else functional.linear)(rows, self.weight, self.bias)
        return out.view(*input.shape[:-1], self.out_features)

    def with_activation(self, input: Tensor, activation: Activation) -> Tensor:
        """`forward`, then the activation; in bfloat16 on a CPU one fused kernel, applied to the float32 sums."""
        separate = input.device.type != "cpu" or self.route != "native" or torch.is_grad_enabled()
        if separate or self.weight.dtype != torch.bfloat16:
            return apply_activation(self(input), activation)
        rows = input.reshape(-1, self.in_features)
        out = torch_ops().linear_activation(rows, self.weight, self.bias, activation)
        if out is None:
            return apply_activation(self(input), activation)
        return out.view(*input.shape[:-1], self.out_features)


def apply_activation(x: Tensor, activation: Activation) -> Tensor:
    """Apply an activation by name; GELU is the exact (erf) one."""
    return functional.gelu(x) if activation == "gelu" else functional.relu(x)


def upcast_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`x · Wᵀ + b` in float32 with half-precision weights, a block of output channels at a time.

    Args:
        x: `[..., in]`, any float dtype.
        weight: `[out, in]`, bfloat16 or float16.
        bias: `[out]` or None.

    Returns:
        `[..., out]` in the dtype of `x`.
    """
    rows = x.reshape(-1, x.shape[-1]).float()  # [rows, in]
    out = torch.empty(rows.shape[0], weight.shape[0], dtype=x.dtype)
    for part in channel_blocks(weight.shape[0], weight.shape[1], UPCAST_BLOCK):
        block = weight[part].float()  # [channels, in]
        sums = rows @ block.t()  # [rows, channels]
        if bias is not None:
            sums += bias[part].float()
        out[:, part] = sums
    return out.reshape(*x.shape[:-1], weight.shape[0])


def choose_route(device: torch.device, dtype: torch.dtype, features: CpuFeatures | None = None) -> tuple[Route, str]:
    """The route for this machine, and the reason as a phrase for the log."""
    if device.type != "cpu" or dtype == torch.float32:
        return "native", f"{device.type} has a fast {dtype} GEMM"
    if not (features or cpu_features()).has_gemm(dtype):
        return "upcast", f"this CPU has no {dtype} GEMM: weights are cast to float32 block by block"
    speedup = float32_speedup(dtype)
    if speedup > MIN_UPCAST_SPEEDUP:
        return (
            "upcast",
            f"this CPU has a float32 GEMM {speedup:.1f} times as fast as {dtype}: weights are cast to it",
        )
    return "native", f"this CPU has a fast {dtype} GEMM"


@lru_cache(maxsize=2)
def float32_speedup(dtype: torch.dtype) -> float:
    """Speed of the float32 GEMM relative to the one in `dtype`; measured once a process, in about 50 ms."""

    def seconds(probed: torch.dtype) -> float:
        rows, width, channels = PROBE_SHAPE
        x, weight = torch.full((rows, width), 0.5).to(probed), torch.full((channels, width), 0.5).to(probed)
        shortest = float("inf")
        for _ in range(PROBE_RUNS):
            start = time.perf_counter()
            functional.linear(x, weight)
            shortest = min(shortest, time.perf_counter() - start)
        return shortest

    with torch.inference_mode():
        return seconds(dtype) / seconds(torch.float32)


def set_route(module: nn.Module, route: Route) -> None:
    """Set the route of every layer inside `module` that has one."""
    for layer in module.modules():
        if isinstance(layer, Routed):
            layer.route = route
