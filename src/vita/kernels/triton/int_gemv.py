"""One row times an int8 or int4 weight on CUDA, in integers: `dp4a` on words of four or eight weights.

Converting every weight to float takes longer than reading it. So x is quantised to int8 once
(`kernels.triton.activations`), and weights are read as 32-bit words and multiplied by `dp4a`. Without `dp4a` (in
Triton's interpreter) the same products are made by shifts.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vita.kernels.cpu.bindings import GROUP_SIZE
from vita.kernels.triton.activations import quantize_activations
from vita.kernels.triton.linear import INT4, INT8
from vita.kernels.weight import Weight


@dataclass(frozen=True)
class GemvShape:
    """How a kernel is divided: output channels a program, groups of 64 inputs an iteration, warps, pipeline stages."""

    n_block: int
    groups: int
    warps: int
    stages: int


# By format of the weight; benchmarks/gpu.py measures others.
GEMV_SHAPES = {INT8: GemvShape(4, 64, 4, 1), INT4: GemvShape(8, 64, 4, 1)}


def supports(weight: Weight, dtype: torch.dtype) -> bool:
    """Whether the kernel takes this weight, for x of this dtype: float32 is for exact results."""
    values = weight.values
    width = values.shape[1] * (2 if values.dtype == torch.uint8 else 1)
    half = dtype in (torch.bfloat16, torch.float16)
    quantized = weight.scale is not None and values.is_contiguous() and values.data_ptr() % 16 == 0
    return half and quantized and width % GROUP_SIZE == 0


def linear(
    x: Tensor, weight: Weight, out: Tensor, *, norm_weight: Tensor | None = None, eps: float = 0.0,
    residual: Tensor | None = None, swiglu: bool = False, blocks: GemvShape | None = None,
) -> None:  # fmt: skip
    """As `kernels.reference.linear` for one row and an int8 or int4 weight, with x quantised to int8.

    Args:
        x, weight, out, norm_weight, eps, residual, swiglu: see there; contiguous.
        blocks: default: from `GEMV_SHAPES`.
    """
    assert weight.scale is not None
    quantized = quantize_activations(x, norm_weight, eps)
    weight_format = INT8 if weight.values.dtype == torch.int8 else INT4
    shape = blocks or GEMV_SHAPES[weight_format]
    channels, in_features = out.shape[1], x.shape[1]
    groups = min(shape.groups, triton.next_power_of_2(in_features // GROUP_SIZE))
    with torch.cuda.device_of(x):
        _int_gemv_kernel[(triton.cdiv(channels, shape.n_block),)](
            quantized.values.view(torch.int32), quantized.scales, quantized.sums, weight.values.view(torch.int32),
            weight.scale, weight.bias, residual, out, channels,
            IN_FEATURES=in_features, FORMAT=weight_format, SWIGLU=swiglu, BIAS=weight.bias is not None,
            RESIDUAL=residual is not None, N_BLOCK=shape.n_block, GROUPS=groups, STAGES=shape.stages,
            DP4A=x.device.type == "cuda", num_warps=shape.warps,
        )  # fmt: skip


@triton.jit
def _int_gemv_kernel(
    x, x_scales, x_sums, weight, scale, bias, residual, out, channels,
    IN_FEATURES: tl.constexpr, FORMAT: tl.constexpr, SWIGLU: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr,
    N_BLOCK: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr, DP4A: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * N_BLOCK + tl.arange(0, N_BLOCK)
    mask = channel < channels
    dtype = out.dtype.element_ty
    ys = _sums(
        x, x_scales, x_sums, weight, scale, bias, channel, mask, IN_FEATURES, FORMAT, BIAS, N_BLOCK, GROUPS, STAGES,
        DP4A,
    )  # fmt: skip
    ys = ys.to(dtype).to(tl.float32)  # rounds where separate PyTorch operations would
    if SWIGLU:
        up = _sums(
            x, x_scales, x_sums, weight, scale, bias, channel + channels, mask, IN_FEATURES, FORMAT, BIAS, N_BLOCK,
            GROUPS, STAGES, DP4A,
        )  # fmt: skip
        ys = (ys / (1 + tl.exp(-ys))).to(dtype).to(tl.float32) * up.to(dtype).to(tl.float32)
    if RESIDUAL:
        ys += tl.load(residual + channel, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + channel, ys.to(dtype), mask=mask)


@triton.jit
def _sums(
    x, x_scales, x_sums, weight, scale, bias, channel, n_mask,
    IN_FEATURES: tl.constexpr, FORMAT: tl.constexpr, BIAS: tl.constexpr, N_BLOCK: tl.constexpr, GROUPS: tl.constexpr,
    STAGES: tl.constexpr, DP4A: tl.constexpr,
):  # fmt: skip
    """Dot products of some output channels, bias added: float32 `[N_BLOCK]`."""
    if FORMAT == 2:
        ys = _sums_int4(x, x_scales, x_sums, weight, scale, channel, n_mask, IN_FEATURES, N_BLOCK, GROUPS, STAGES, DP4A)
    else:
        ys = _sums_int8(x, x_scales, weight, scale, channel, n_mask, IN_FEATURES, N_BLOCK, GROUPS, STAGES, DP4A)
    if BIAS:
        ys += tl.load(bias + channel, mask=n_mask, other=0.0).to(tl.float32)
    return ys


@triton.jit
def _sums_int4(
    x, x_scales, x_sums, weight, scale, channel, n_mask,
    IN_FEATURES: tl.constexpr, N_BLOCK: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr, DP4A: tl.constexpr,
):  # fmt: skip
    """Word i of a group's 8 holds values 4i to 4i + 3 in its low and 32 + 4i to 35 + 4i in its high bits, plus 8."""
    ALL: tl.constexpr = IN_FEATURES // 64
    total = tl.zeros([N_BLOCK, GROUPS], tl.float32)
    start = channel.to(tl.int64)[:, None] * ALL
    word = tl.arange(0, 8)
    for k in tl.range(0, ALL, GROUPS, num_stages=STAGES):
        group = k + tl.arange(0, GROUPS)
        k_mask = group < ALL
        mask = n_mask[:, None] & k_mask[None, :]
        at = start + group[None, :]  # [N_BLOCK, GROUPS]
        packed = tl.load(weight + at[:, :, None] * 8 + word[None, None, :], mask=mask[:, :, None], other=0)
        x_at = group[:, None] * 16 + word[None, :]
        low = tl.load(x + x_at, mask=k_mask[:, None], other=0)
        high = tl.load(x + x_at + 8, mask=k_mask[:, None], other=0)
        zero = packed & 0  # gives every operand the shape of the words
        dots = _dot4(packed & 0x0F0F0F0F, zero + low[None], zero, True, DP4A)
        dots = _dot4((packed >> 4) & 0x0F0F0F0F, zero + high[None], dots, True, DP4A)
        offset = 8 * tl.load(x_sums + group, mask=k_mask, other=0)  # the weights are stored plus 8
        x_scale = tl.load(x_scales + group, mask=k_mask, other=0.0)
        s = tl.load(scale + at, mask=mask, other=0.0).to(tl.float32)
        total += (tl.sum(dots, 2) - offset[None, :]).to(tl.float32) * (s * x_scale[None, :])
    return tl.sum(total, 1)


@triton.jit
def _sums_int8(
    x, x_scales, weight, scale, channel, n_mask,
    IN_FEATURES: tl.constexpr, N_BLOCK: tl.constexpr, GROUPS: tl.constexpr, STAGES: tl.constexpr, DP4A: tl.constexpr,
):  # fmt: skip
    WORDS: tl.constexpr = IN_FEATURES // 4
    BLOCK: tl.constexpr = GROUPS * 16
    total = tl.zeros([N_BLOCK, BLOCK], tl.float32)
    start = channel.to(tl.int64)[:, None] * WORDS
    for k in tl.range(0, WORDS, BLOCK, num_stages=STAGES):
        at = k + tl.arange(0, BLOCK)
        k_mask = at < WORDS
        word = tl.load(weight + start + at[None, :], mask=n_mask[:, None] & k_mask[None, :], other=0)
        xs = tl.load(x + at, mask=k_mask, other=0)
        x_scale = tl.load(x_scales + at // 16, mask=k_mask, other=0.0)
        zero = word & 0
        total += _dot4(word, zero + xs[None, :], zero, False, DP4A).to(tl.float32) * x_scale[None, :]
    return tl.sum(total, 1) * tl.load(scale + channel, mask=n_mask, other=0.0).to(tl.float32)


@triton.jit
def _dot4(a, b, c, UNSIGNED: tl.constexpr, DP4A: tl.constexpr):
    """`c` plus the dot product of four bytes of `a` (unsigned or signed) and four signed bytes of `b`, all int32."""
    if DP4A:
        if UNSIGNED:
            return tl.inline_asm_elementwise(
                "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
            )
        return tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
        )
    for shift in tl.static_range(0, 32, 8):
        left = (a >> shift) & 255 if UNSIGNED else (a << (24 - shift)) >> 24
        c += left * ((b << (24 - shift)) >> 24)
    return c
