"""A linear layer whose weights are stored in four bits.

Owns the format, the product and the rounding. Does not know which layers of which model are stored so.

A row of weights is cut into groups of 64; a group has one scale and values from -8 to 7. Decoding reads a quarter of
the bytes: rows go through our own kernels (`vita.kernels`), which multiply whole numbers, many rows only where the
processor has nothing faster for widened weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vita.kernels import triton as triton_kernels
from vita.kernels.cpu.bindings import GROUP_SIZE, SUPPORTED_DTYPES, kernels
from vita.quant.linear import QUANTIZE_BLOCK, QuantizedLinear

CANDIDATES = torch.linspace(0.70, 1.0, 13)  # shares of a group's largest value that are tried as its end
HALF = GROUP_SIZE // 2


class Int4Linear(QuantizedLinear):
    """`x · Wᵀ + b` with W in four bits.

    `weight` is uint8 `[out, in / 2]`: byte j of a group holds value j low and value j + 32 high, both plus eight;
    `scale` is bfloat16 `[out, in / 64]`.
    """

    few = 16  # rows up to which each weight row is multiplied as it is read (docs/benchmarks.md)

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        if in_features % GROUP_SIZE:
            raise ValueError(f"{in_features} is no multiple of {GROUP_SIZE}")
        self.register_buffer("weight", torch.zeros(out_features, in_features // 2, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(out_features, in_features // GROUP_SIZE, dtype=torch.bfloat16))

    def product(self, rows: Tensor) -> Tensor | None:
        """Our own kernels."""
        own = kernels() if rows.dtype in SUPPORTED_DTYPES and not rows.requires_grad else None
        if own is None:
            return None
        multiply = own.gemm_int4 if len(rows) <= self.few else own.gemm_dynamic_int8
        return multiply(rows, self.weight, self.scale, self.bias)

    def block(self, part: slice, dtype: torch.dtype) -> Tensor:
        """Widened by our own kernel where there is one."""
        weight, scale = self.weight[part], self.scale[part]
        if triton_kernels.available(weight.device):
            from vita.kernels.triton.elementwise import int4_dequantize  # needs Triton

            wide = torch.empty(len(weight), self.in_features, dtype=dtype, device=weight.device)
            int4_dequantize(weight, scale, wide)
            return wide
        own = kernels() if weight.device.type == "cpu" else None
        if own is None:
            return unpack(weight, scale).to(dtype)
        room = torch.empty(len(weight), self.in_features, dtype=torch.bfloat16)
        own.int4_dequantize(weight, scale, room)
        return room.to(dtype)


def unpack(weight: Tensor, scale: Tensor) -> Tensor:
    """Packed weights as bfloat16 `[out, in]`, with PyTorch's own operations."""
    packed = weight.view(len(weight), -1, HALF)
    values = torch.cat([packed & 15, packed >> 4], dim=-1).to(torch.float32) - 8  # [out, groups, 64]
    return (values * scale[..., None].float()).bfloat16().flatten(1)


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights rounded to four bits; each group's scale is the one of a few that leaves the least squared error.

    Args:
        weight: `[out, in]`, any float dtype, `in` a multiple of 64, on any device.

    Returns:
        uint8 `[out, in / 2]` and bfloat16 scales `[out, in / 64]`.
    """
    packed = torch.empty(weight.shape[0], weight.shape[1] // 2, dtype=torch.uint8, device=weight.device)
    scale = torch.empty(weight.shape[0], weight.shape[1] // GROUP_SIZE, dtype=torch.bfloat16, device=weight.device)
    step = max(1, QUANTIZE_BLOCK // 4 // weight.shape[1])
    for start in range(0, weight.shape[0], step):  # block by block, so that no float32 copy of the whole exists
        block = weight[start : start + step].float().view(-1, weight.shape[1] // GROUP_SIZE, GROUP_SIZE)
        unit, values = _best(block)
        scale[start : start + step] = unit
        whole = values.to(torch.uint8)
        packed[start : start + step] = (whole[..., :HALF] | whole[..., HALF:] << 4).flatten(1)
    return packed, scale


def _best(block: Tensor) -> tuple[Tensor, Tensor]:
    """Scales `[out, groups]` and values plus eight `[out, groups, 64]`."""
    # The value of the largest size takes the end that reaches further, -8, whatever its sign.
    at = block.abs().argmax(-1, keepdim=True)
    end = block.gather(-1, at)[..., 0] / -8
    best = torch.full_like(end, float("inf"))
    unit, values = torch.ones_like(end).bfloat16(), torch.full_like(block, 8.0)
    for share in CANDIDATES.tolist():
        tried = torch.where(end == 0, torch.ones_like(end), end * share).bfloat16()
        whole = (block / tried.float()[..., None]).round_().clamp_(-8, 7)
        error = (whole * tried.float()[..., None] - block).square_().sum(-1)
        better = error < best
        best = torch.where(better, error, best)
        unit = torch.where(better, tried, unit)
        values = torch.where(better[..., None], whole + 8, values)
    return unit, values
