"""Two to sixteen rows times an int8 or int4 weight on CUDA, by int8 matrix instructions.

x is quantised to int8 once (`kernels.triton.activations`). A program multiplies N_BLOCK output channels by all rows, a
group of 64 inputs at a time, whose integer sums it scales. Narrow matmuls are split along the inputs (split-K); another
kernel sums the partial results and applies bias, SwiGLU and residual (`kernels.triton.epilogue`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vita.kernels.cpu.bindings import GROUP_SIZE
from vita.kernels.triton import MAX_BATCH
from vita.kernels.triton.activations import quantize_activations
from vita.kernels.triton.epilogue import finish
from vita.kernels.triton.linear import INT4, INT8
from vita.kernels.weight import Weight

MIN_PROGRAMS = 224  # a matmul with fewer is split along its inputs; the same on every GPU, so that sums are
MAX_SPLITS = 8


@dataclass(frozen=True)
class GemmShape:
    """How a kernel is divided: output channels a program, warps, pipeline stages."""

    n_block: int
    warps: int
    stages: int


# By format of the weight; benchmarks/gpu.py measures others.
GEMM_SHAPES = {INT8: GemmShape(64, 4, 4), INT4: GemmShape(64, 4, 4)}


def linear(
    x: Tensor, weight: Weight, out: Tensor, *, norm_weight: Tensor | None = None, eps: float = 0.0,
    residual: Tensor | None = None, swiglu: bool = False, blocks: GemmShape | None = None,
) -> None:  # fmt: skip
    """As `kernels.reference.linear` for up to 16 rows and an int8 or int4 weight, with x quantised to int8.

    Args:
        x, weight, out, norm_weight, eps, residual, swiglu: see there; contiguous. A row's result depends neither on
            the others nor on how many there are.
        blocks: default: from `GEMM_SHAPES`.
    """
    assert weight.scale is not None
    quantized = quantize_activations(x, norm_weight, eps)
    weight_format = INT8 if weight.values.dtype == torch.int8 else INT4
    shape = blocks or GEMM_SHAPES[weight_format]
    rows, in_features = x.shape
    channels = weight.values.shape[0]
    programs = triton.cdiv(channels, shape.n_block)
    splits = min(MAX_SPLITS, triton.cdiv(MIN_PROGRAMS, programs), in_features // GROUP_SIZE)
    partials = torch.empty(splits, rows, channels, dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        _int_gemm_kernel[(programs, splits)](
            quantized.values, quantized.scales, weight.values, weight.scale, partials, rows, channels,
            IN_FEATURES=in_features, FORMAT=weight_format, SPLITS=splits, N_BLOCK=shape.n_block, M_BLOCK=MAX_BATCH,
            STAGES=shape.stages, num_warps=shape.warps,
        )  # fmt: skip
    finish(partials, out, bias=weight.bias, residual=residual, swiglu=swiglu)


@triton.jit(do_not_specialize=["rows"])
def _int_gemm_kernel(
    x, x_scales, weight, scale, partials, rows, channels,
    IN_FEATURES: tl.constexpr, FORMAT: tl.constexpr, SPLITS: tl.constexpr, N_BLOCK: tl.constexpr,
    M_BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    ALL: tl.constexpr = IN_FEATURES // 64
    EACH: tl.constexpr = (ALL + SPLITS - 1) // SPLITS
    channel = tl.program_id(0) * N_BLOCK + tl.arange(0, N_BLOCK)
    split = tl.program_id(1)
    n_mask = channel < channels
    row = tl.arange(0, M_BLOCK)
    m_mask = row < rows
    start = channel.to(tl.int64)
    total = tl.zeros([N_BLOCK, M_BLOCK], tl.float32)
    for group in tl.range(split * EACH, tl.minimum(split * EACH + EACH, ALL), 1, num_stages=STAGES):
        x_scale = tl.load(x_scales + row * ALL + group, mask=m_mask, other=0.0)
        x_at = row[:, None] * IN_FEATURES + group * 64
        if FORMAT == 2:
            byte = tl.arange(0, 32)
            address = start[:, None] * (IN_FEATURES // 2) + group * 32 + byte[None, :]
            packed = tl.load(weight + address, mask=n_mask[:, None], other=0x88)
            low_x = tl.load(x + x_at + byte[None, :], mask=m_mask[:, None], other=0)
            high_x = tl.load(x + x_at + 32 + byte[None, :], mask=m_mask[:, None], other=0)
            # Four bits in the upper half of a byte are the integer times 16; flipping the sign bit subtracts 8.
            low = ((packed << 4) ^ 0x80).to(tl.int8, bitcast=True)
            high = ((packed & 0xF0) ^ 0x80).to(tl.int8, bitcast=True)
            dots = tl.dot(low, tl.trans(low_x), out_dtype=tl.int32)
            dots = tl.dot(high, tl.trans(high_x), dots, out_dtype=tl.int32)
            s = tl.load(scale + start * ALL + group, mask=n_mask, other=0.0).to(tl.float32) * 0.0625
            total += dots.to(tl.float32) * (s[:, None] * x_scale[None, :])
        else:
            at = tl.arange(0, 64)
            w = tl.load(weight + start[:, None] * IN_FEATURES + group * 64 + at[None, :], mask=n_mask[:, None], other=0)
            xs = tl.load(x + x_at + at[None, :], mask=m_mask[:, None], other=0)
            dots = tl.dot(w, tl.trans(xs), out_dtype=tl.int32)
            total += dots.to(tl.float32) * x_scale[None, :]
    if FORMAT == 1:
        total *= tl.load(scale + channel, mask=n_mask, other=0.0).to(tl.float32)[:, None]
    place = (split * rows + row)[None, :].to(tl.int64) * channels + channel[:, None]
    tl.store(partials + place, total, mask=n_mask[:, None] & m_mask[None, :])
