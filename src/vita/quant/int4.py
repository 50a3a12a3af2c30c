"""A linear layer with int4 weights, one scale per group of 64, and their quantisation.

A row of weights is cut into groups of 64. Each group has one scale and integers from -8 to 7. Decoding reads a quarter
of the bytes of bfloat16: a few rows go through the native kernels (`vita.kernels`), which multiply integers. Many rows
do so only where the CPU has no faster GEMM for dequantised weights.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vita.kernels import triton as triton_kernels
from vita.kernels.cpu.bindings import GROUP_SIZE, SUPPORTED_DTYPES, kernels
from vita.quant.linear import QuantizedLinear, quantize_block_size

# The scales tried for a group, as fractions of the scale at which its largest value is not clipped.
SCALE_CANDIDATES = torch.linspace(0.70, 1.0, 13)
HALF_GROUP = GROUP_SIZE // 2


class Int4Linear(QuantizedLinear):
    """`x · Wᵀ + b` with W in int4.

    `weight` is uint8 `[out, in / 2]`: byte j of a group's 32 holds value j in its low and value j + 32 in its high four
    bits, both plus 8. `scale` is bfloat16 `[out, in / 64]`.
    """

    max_small_rows = 16  # up to this many rows take the small-M kernel (docs/log.md)

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        if in_features % GROUP_SIZE:
            raise ValueError(f"in_features {in_features} is not a multiple of {GROUP_SIZE}")
        self.register_buffer("weight", torch.zeros(out_features, in_features // 2, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(out_features, in_features // GROUP_SIZE, dtype=torch.bfloat16))

    def native_matmul(self, rows: Tensor) -> Tensor | None:
        """Multiply by the native kernels, with x quantised to int8."""
        native = kernels() if rows.dtype in SUPPORTED_DTYPES and not rows.requires_grad else None
        if native is None:
            return None
        multiply = native.gemm_int4 if len(rows) <= self.max_small_rows else native.gemm_dynamic_int8
        return multiply(rows, self.weight, self.scale, self.bias)

    def dequantize_block(self, part: slice, dtype: torch.dtype) -> Tensor:
        """By a native kernel where there is one."""
        weight, scale = self.weight[part], self.scale[part]
        if triton_kernels.available(weight.device):
            from vita.kernels.triton.elementwise import int4_dequantize  # needs Triton

            out = torch.empty(len(weight), self.in_features, dtype=dtype, device=weight.device)
            int4_dequantize(weight, scale, out)
            return out
        native = kernels() if weight.device.type == "cpu" else None
        if native is None:
            return unpack(weight, scale).to(dtype)
        out = torch.empty(len(weight), self.in_features, dtype=torch.bfloat16, device=weight.device)
        native.int4_dequantize(weight, scale, out)
        return out.to(dtype)


def unpack(weight: Tensor, scale: Tensor) -> Tensor:
    """Dequantise packed weights with PyTorch operations: bfloat16 `[out, in]`."""
    packed = weight.view(len(weight), -1, HALF_GROUP)
    values = torch.cat([packed & 15, packed >> 4], dim=-1).to(torch.float32) - 8  # [out, groups, 64]
    return (values * scale[..., None].float()).bfloat16().flatten(1)


def quantize_groups(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise weights to int4; each group takes the candidate scale with the least squared error.

    Args:
        weight: `[out, in]`, any float dtype, `in` a multiple of 64, on any device.

    Returns:
        uint8 `[out, in / 2]` and bfloat16 scales `[out, in / 64]`.
    """
    packed = torch.empty(weight.shape[0], weight.shape[1] // 2, dtype=torch.uint8, device=weight.device)
    scale = torch.empty(weight.shape[0], weight.shape[1] // GROUP_SIZE, dtype=torch.bfloat16, device=weight.device)
    limit = quantize_block_size(weight.device) // (4 if weight.device.type == "cpu" else 1)  # a CPU's caches are small
    step = max(1, limit // weight.shape[1])
    for start in range(0, weight.shape[0], step):  # in blocks, to avoid a float32 copy of the weight
        block = weight[start : start + step].float().view(-1, weight.shape[1] // GROUP_SIZE, GROUP_SIZE)
        block_scale, values = _search_scale(block)
        scale[start : start + step] = block_scale
        nibbles = values.to(torch.uint8)
        packed[start : start + step] = (nibbles[..., :HALF_GROUP] | nibbles[..., HALF_GROUP:] << 4).flatten(1)
    return packed, scale


def _search_scale(block: Tensor) -> tuple[Tensor, Tensor]:
    """Quantise `[out, groups, 64]`, each group with the candidate scale that leaves the least squared error.

    Returns bfloat16 scales `[out, groups]`, and integers plus 8 as floats `[out, groups, 64]`.
    """
    # The value of largest magnitude maps to -8, the end that reaches further, so a scale may be negative.
    largest_at = block.abs().argmax(-1, keepdim=True)
    unclipped = block.gather(-1, largest_at)[..., 0] / -8  # the scale without clipping
    best_error = torch.full_like(unclipped, float("inf"))
    best_scale, best_values = torch.ones_like(unclipped).bfloat16(), torch.full_like(block, 8.0)
    for fraction in SCALE_CANDIDATES.tolist():
        scale = torch.where(unclipped == 0, torch.ones_like(unclipped), unclipped * fraction).bfloat16()
        integers = (block / scale.float()[..., None]).round_().clamp_(-8, 7)
        error = (integers * scale.float()[..., None] - block).square_().sum(-1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
        best_values = torch.where(better[..., None], integers + 8, best_values)
    return best_scale, best_values
