"""Quantise activations to int8 in groups of 64 on CUDA, with RMSNorm fused.

Done once a matmul, so that its programs multiply integers. `kernels.reference.quantize_activations` is the same in
PyTorch operations.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from vita.kernels.cpu.bindings import GROUP_SIZE
from vita.kernels.reference import QuantizedActivations

GROUPS = 8  # quantised by a program
NORM_BLOCK = 2048  # values of a row per iteration of the sum of squares


def quantize_activations(x: Tensor, norm_weight: Tensor | None = None, eps: float = 0.0) -> QuantizedActivations:
    """Quantise contiguous rows `[rows, in]`, after RMSNorm if a norm weight is given; `in` is a multiple of 64."""
    rows, in_features = x.shape
    groups = in_features // GROUP_SIZE
    values = torch.empty(rows, in_features, dtype=torch.int8, device=x.device)
    scales = torch.empty(rows, groups, dtype=torch.float32, device=x.device)
    sums = torch.empty(rows, groups, dtype=torch.int32, device=x.device)
    with torch.cuda.device_of(x):
        _quantize_kernel[(triton.cdiv(groups, GROUPS), rows)](
            x, norm_weight, values, scales, sums, eps, IN_FEATURES=in_features, NORM=norm_weight is not None,
            GROUPS=GROUPS, NORM_BLOCK=min(NORM_BLOCK, triton.next_power_of_2(in_features)), num_warps=4,
        )  # fmt: skip
    return QuantizedActivations(values, scales, sums)


@triton.jit
def _quantize_kernel(
    x, norm_weight, values, scales, sums, eps,
    IN_FEATURES: tl.constexpr, NORM: tl.constexpr, GROUPS: tl.constexpr, NORM_BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    group = tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)
    at = group[:, None] * 64 + tl.arange(0, 64)[None, :]
    mask = at < IN_FEATURES
    dtype = x.dtype.element_ty
    row_x = x + row * IN_FEATURES
    xs = tl.load(row_x + at, mask=mask, other=0.0).to(tl.float32)
    if NORM:
        # Every program sums all squares of its row: the row is in the L2 cache, and a second launch would take longer.
        squares = tl.zeros([NORM_BLOCK], tl.float32)
        for k in range(0, IN_FEATURES, NORM_BLOCK):
            inside = k + tl.arange(0, NORM_BLOCK)
            block = tl.load(row_x + inside, mask=inside < IN_FEATURES, other=0.0).to(tl.float32)
            squares += block * block
        factor = tl.rsqrt(tl.sum(squares, 0) / IN_FEATURES + eps)
        w = tl.load(norm_weight + at, mask=mask, other=0.0).to(tl.float32)
        xs = ((xs * factor).to(dtype).to(tl.float32) * w).to(dtype).to(tl.float32)
    # NaN or Inf in a group makes its scale NaN, and so every sum with it.
    scale = (tl.max(tl.abs(xs), 1) + tl.sum(xs * 0.0, 1)) / 127
    divisor = tl.where(scale > 0, scale, 1.0)
    integers = (xs / divisor[:, None] + 12582912.0) - 12582912.0  # adding 1.5 * 2**23 rounds a float32 to an integer
    integers = tl.minimum(tl.maximum(integers, -127.0), 127.0)
    integers = tl.where(integers == integers, integers, 0.0).to(tl.int32)
    tl.store(values + row * IN_FEATURES + at, integers.to(tl.int8), mask=mask)
    place = row * (IN_FEATURES // 64) + group
    inside = group < IN_FEATURES // 64
    tl.store(scales + place, scale, mask=inside)
    tl.store(sums + place, tl.sum(integers, 1), mask=inside)
