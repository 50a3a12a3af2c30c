"""The fused linear layer in PyTorch operations: what every GPU kernel must give.

Kernels are tried against these functions before they are relied on, and tested against them. They are also the last
choice where no kernel runs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vita.kernels.cpu.bindings import GROUP_SIZE
from vita.kernels.weight import Weight

QMAX = 127  # largest int8 magnitude of a quantised activation


@dataclass(frozen=True)
class QuantizedActivations:
    """Rows quantised to int8 in groups of 64.

    Attributes:
        values: int8 `[rows, in]`.
        scales: float32 `[rows, in / 64]`; NaN where a value of the group is not finite.
        sums: int32 `[rows, in / 64]`: sums of the integers of each group.
    """

    values: Tensor
    scales: Tensor
    sums: Tensor


def rms_norm(x: Tensor, norm_weight: Tensor, eps: float) -> Tensor:
    """RMSNorm over the last dimension, in the dtype of x."""
    floats = x.float()
    floats = floats * torch.rsqrt(floats.pow(2).mean(-1, keepdim=True) + eps)
    return floats.to(x.dtype) * norm_weight


def quantize_activations(x: Tensor, norm_weight: Tensor | None = None, eps: float = 0.0) -> QuantizedActivations:
    """Quantise rows `[rows, in]` to int8, after RMSNorm if a norm weight is given; `in` is a multiple of 64."""
    normed = x if norm_weight is None else rms_norm(x, norm_weight, eps)
    groups = normed.float().unflatten(1, (-1, GROUP_SIZE))  # [rows, groups, 64]
    scales = (groups.abs().amax(-1) + (groups * 0).sum(-1)) / QMAX
    divisor = torch.where(scales > 0, scales, torch.ones_like(scales))
    integers = (groups / divisor[..., None]).round().clamp(-QMAX, QMAX).nan_to_num(0).to(torch.int8)
    return QuantizedActivations(integers.flatten(1), scales, integers.sum(-1, dtype=torch.int32))


def dequantize(weight: Weight) -> Tensor:
    """The weight as float32 `[out, in]`."""
    if weight.scale is None:
        return weight.values.float()
    if weight.values.dtype == torch.int8:
        return weight.values.float() * weight.scale.float()[:, None]
    packed = weight.values.unflatten(1, (-1, GROUP_SIZE // 2))
    integers = torch.cat([packed & 15, packed >> 4], dim=-1).float() - 8  # [out, groups, 64]
    return (integers * weight.scale.float()[..., None]).flatten(1)


def linear(
    x: Tensor, weight: Weight, out: Tensor, *, norm_weight: Tensor | None = None, eps: float = 0.0,
    residual: Tensor | None = None, swiglu: bool = False,
) -> None:  # fmt: skip
    """`norm(x) · Wᵀ + b`, then SwiGLU and the residual sum if given, into `out`, with sums in float32.

    Args:
        x: `[rows, in]`.
        weight: of `out` channels; with `swiglu` of twice as many, gate before up.
        out: `[rows, out]`, in the dtype of x.
        norm_weight: RMSNorm weight `[in]`, applied to x first; None: no norm.
        eps: of the norm.
        residual: `[rows, out]`, added; may be `out` itself.
        swiglu: compute `silu(gate) * up`.
    """
    normed = x if norm_weight is None else rms_norm(x, norm_weight, eps)
    bias = None if weight.bias is None else weight.bias.float()
    sums = functional.linear(normed.float(), dequantize(weight), bias).to(x.dtype)  # rounds where kernels do
    if swiglu:
        gate, up = sums.chunk(2, dim=1)
        sums = functional.silu(gate.float()).to(x.dtype) * up
    out.copy_(sums if residual is None else sums + residual)
