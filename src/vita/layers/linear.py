"""The one linear layer of the house.

Owns how `x · Wᵀ + b` is computed for a given device and dtype. Does not know which model it stands in.

PyTorch's half-precision GEMM on a CPU without bf16/fp16 instructions runs a plain scalar loop, about a hundred
times slower than float32 (docs/benchmarks.md). There, many rows take the "upcast" route: weights stay in half
precision in memory, and one block of them at a time is widened to float32 and multiplied by the fast kernel.
One row of bfloat16 (decoding), or a few where PyTorch has no tiles for them, go through our own kernel, which is bound
by memory everywhere.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from vita.kernels.build import half_kernels

Route = Literal["native", "upcast"]
Activation = Literal["gelu", "relu"]


@runtime_checkable
class Routed(Protocol):
    """A layer that multiplies, and can be told how."""

    route: Route


# Up to this many rows the native half-precision kernel (a matrix-vector loop) wins on CPUs without bf16 GEMM.
NATIVE_ROWS = 4
# Weights widened at a time: 4 MiB of float32 stays in the cache between being written and being multiplied.
UPCAST_BLOCK = 1 << 20


class Linear(nn.Linear):
    """`nn.Linear` with a route chosen once, while loading (see `choose_route`)."""

    route: Route = "native"

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in_features]` to `[..., out_features]`, in the input's dtype."""
        if self.route == "upcast" and input.numel() > NATIVE_ROWS * self.in_features:
            return upcast_linear(input, self.weight, self.bias)
        # Always as rows: PyTorch multiplies a slice such as [:, -1:] as a batch, and copies all weights for that.
        rows = input.reshape(-1, self.in_features)
        own = half_kernels(rows, self.weight) if self.weight.is_contiguous() else None
        out = None if own is None else own.bf16_product(rows, self.weight, self.bias)
        if out is None:
            out = functional.linear(rows, self.weight, self.bias)
        return out.view(*input.shape[:-1], self.out_features)

    def activated(self, input: Tensor, activation: Activation) -> Tensor:
        """As `forward`, then the activation: in one kernel, on sums not yet rounded, where there is one."""
        plain = input.device.type != "cpu" or self.route != "native" or torch.is_grad_enabled()
        if plain or self.weight.dtype != torch.bfloat16:
            return activated(self(input), activation)
        rows = input.reshape(-1, self.in_features)
        form = "none" if activation == "gelu" else ""  # which GELU: the exact one
        out = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, activation, [], form)
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


def choose_route(device: torch.device, dtype: torch.dtype) -> tuple[Route, str]:
    """The route for this machine and the reason, to be logged once."""
    if device.type != "cpu" or dtype == torch.float32:
        return "native", f"{device.type} has a fast {dtype} GEMM"
    if dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "native", "this CPU multiplies bfloat16 itself"
    if dtype == torch.float16 and torch.ops.mkldnn._is_mkldnn_fp16_supported():
        return "native", "this CPU multiplies float16 itself"
    return "upcast", f"this CPU has no {dtype} GEMM: weights are widened to float32 block by block"


def set_route(module: nn.Module, route: Route) -> None:
    """Give every layer inside `module` that has one the same route."""
    for layer in module.modules():
        if isinstance(layer, Routed):
            layer.route = route
