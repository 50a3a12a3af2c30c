"""Linear layer of up to 16 rows on CUDA, with RMSNorm, bias, residual and SwiGLU fused.

A decode step spends most of its time here: each weight (bfloat16, float16, float32, int8 or int4) is read once. Fusing
makes a decoder block six kernels; each launch saved is about two microseconds, of the 150 of a block of the released
model.

A program computes N_BLOCK output channels and iterates over the inputs in steps of K_BLOCK. The RMSNorm factor is one
number per row, so the sum of squares is accumulated in the same loop and multiplied at the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from vita.kernels.cpu.bindings import GROUP_SIZE
from vita.kernels.triton import MAX_BATCH
from vita.kernels.weight import Weight

FLOAT, INT8, INT4 = 0, 1, 2  # formats of a weight


@dataclass(frozen=True)
class BlockShape:
    """How a kernel is divided: output channels a program, inputs an iteration, warps, and pipeline stages."""

    n_block: int
    k_block: int
    warps: int
    stages: int


# By format of the weight, and whether there is one row; benchmarks/gpu.py measures others.
BLOCK_SHAPES: dict[tuple[int, bool], BlockShape] = {
    (FLOAT, True): BlockShape(8, 512, 4, 3),
    (FLOAT, False): BlockShape(32, 128, 4, 4),
    (INT8, True): BlockShape(8, 1024, 4, 3),
    (INT8, False): BlockShape(32, 128, 4, 4),
    (INT4, True): BlockShape(8, 1024, 4, 3),
    (INT4, False): BlockShape(32, 128, 4, 4),
}


def linear(
    x: Tensor, weight: Weight, out: Tensor, *, norm_weight: Tensor | None = None, eps: float = 0.0,
    residual: Tensor | None = None, swiglu: bool = False, blocks: BlockShape | None = None,
) -> None:  # fmt: skip
    """`norm(x) · Wᵀ + b`, then SwiGLU and the residual sum if given, into `out`.

    Args:
        x: `[rows, in]`, contiguous, 1 to 16 rows.
        weight: of `out` channels; with `swiglu` of twice as many, gate before up.
        out: `[rows, out]`, contiguous, in the dtype of x.
        norm_weight: RMSNorm weight `[in]`, applied to x first; None: no norm.
        eps: of the norm.
        residual: `[rows, out]`, added; may be `out` itself.
        swiglu: compute `silu(gate) * up`.
        blocks: default: from `BLOCK_SHAPES`.
    """
    rows, in_features = x.shape
    channels = out.shape[1]
    weight_format = {torch.int8: INT8, torch.uint8: INT4}.get(weight.values.dtype, FLOAT)
    shape = blocks or BLOCK_SHAPES[weight_format, rows == 1]
    k_block = min(shape.k_block, max(GROUP_SIZE, triton.next_power_of_2(in_features)))
    grid = (triton.cdiv(channels, shape.n_block),)
    with torch.cuda.device_of(x):  # Triton launches on the thread's current device
        _linear_kernel[grid](
            x, weight.values, weight.scale, weight.bias, norm_weight, residual, out, rows, channels, eps,
            IN_FEATURES=in_features, FORMAT=weight_format, ONE_ROW=rows == 1, SWIGLU=swiglu,
            NORM=norm_weight is not None, BIAS=weight.bias is not None, RESIDUAL=residual is not None,
            N_BLOCK=shape.n_block, K_BLOCK=k_block, STAGES=shape.stages, M_BLOCK=MAX_BATCH, num_warps=shape.warps,
        )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def _linear_kernel(
    x, weight, scale, bias, norm_weight, residual, out, rows, channels, eps,
    IN_FEATURES: tl.constexpr, FORMAT: tl.constexpr, ONE_ROW: tl.constexpr, SWIGLU: tl.constexpr, NORM: tl.constexpr,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, N_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr, STAGES: tl.constexpr,
    M_BLOCK: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(0) * N_BLOCK + tl.arange(0, N_BLOCK)
    n_mask = channel < channels
    if ONE_ROW:
        ys, squares = _gemv(
            x, weight, scale, norm_weight, channel, n_mask, IN_FEATURES, FORMAT, NORM, N_BLOCK, K_BLOCK, STAGES
        )
        if SWIGLU:
            up, _ = _gemv(
                x, weight, scale, norm_weight, channel + channels, n_mask, IN_FEATURES, FORMAT, NORM, N_BLOCK, K_BLOCK,
                STAGES,
            )  # fmt: skip
        at = channel
        mask = n_mask
    else:
        row = tl.arange(0, M_BLOCK)
        ys, squares = _small_gemm(
            x, weight, scale, norm_weight, rows, channel, n_mask, IN_FEATURES, FORMAT, NORM, N_BLOCK, K_BLOCK, STAGES,
            M_BLOCK,
        )  # fmt: skip
        if SWIGLU:
            up, _ = _small_gemm(
                x, weight, scale, norm_weight, rows, channel + channels, n_mask, IN_FEATURES, FORMAT, NORM, N_BLOCK,
                K_BLOCK, STAGES, M_BLOCK,
            )  # fmt: skip
        at = row[None, :] * channels + channel[:, None]  # [N_BLOCK, M_BLOCK]
        mask = n_mask[:, None] & (row < rows)[None, :]
        squares = squares[None, :]
    dtype = out.dtype.element_ty
    if NORM:
        factor = tl.rsqrt(squares / IN_FEATURES + eps)
        ys *= factor
        if SWIGLU:
            up *= factor
    if BIAS:
        b = tl.load(bias + channel, mask=n_mask, other=0.0).to(tl.float32)
        ys += b if ONE_ROW else b[:, None]
    ys = ys.to(dtype).to(tl.float32)  # rounds where separate PyTorch operations would
    if SWIGLU:
        ys = (ys / (1 + tl.exp(-ys))).to(dtype).to(tl.float32) * up.to(dtype).to(tl.float32)
    if RESIDUAL:
        ys += tl.load(residual + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + at, ys.to(dtype), mask=mask)


@triton.jit
def _gemv(
    x, weight, scale, norm_weight, channel, n_mask,
    IN_FEATURES: tl.constexpr, FORMAT: tl.constexpr, NORM: tl.constexpr, N_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """One row: float32 `[N_BLOCK]`, and the row's sum of squares; multiplies and adds without tensor cores."""
    if FORMAT == 2:
        return _gemv_int4(x, weight, scale, norm_weight, channel, n_mask, IN_FEATURES, NORM, N_BLOCK, K_BLOCK, STAGES)
    total = tl.zeros([N_BLOCK, K_BLOCK], tl.float32)
    squares = tl.zeros([K_BLOCK], tl.float32)
    start = channel.to(tl.int64)[:, None] * IN_FEATURES
    for k in tl.range(0, IN_FEATURES, K_BLOCK, num_stages=STAGES):
        at = k + tl.arange(0, K_BLOCK)
        k_mask = at < IN_FEATURES
        w = tl.load(weight + start + at[None, :], mask=n_mask[:, None] & k_mask[None, :], other=0)
        xs = tl.load(x + at, mask=k_mask, other=0.0).to(tl.float32)
        if NORM:
            squares += xs * xs
            xs *= tl.load(norm_weight + at, mask=k_mask, other=0.0).to(tl.float32)
        total += w.to(tl.float32) * xs[None, :]
    ys = tl.sum(total, 1)
    if FORMAT == 1:
        ys *= tl.load(scale + channel, mask=n_mask, other=0.0).to(tl.float32)
    return ys, tl.sum(squares, 0)


@triton.jit
def _gemv_int4(
    x, weight, scale, norm_weight, channel, n_mask,
    IN_FEATURES: tl.constexpr, NORM: tl.constexpr, N_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`_gemv` for int4: byte j of a group of 64 holds value j low and value j + 32 high, both plus 8."""
    GROUPS: tl.constexpr = K_BLOCK // 64
    total = tl.zeros([N_BLOCK, GROUPS, 32], tl.float32)
    squares = tl.zeros([GROUPS, 32], tl.float32)
    start = channel.to(tl.int64)[:, None]
    byte = tl.arange(0, 32)
    for k in tl.range(0, IN_FEATURES // 64, GROUPS, num_stages=STAGES):
        group = k + tl.arange(0, GROUPS)
        k_mask = group < IN_FEATURES // 64
        mask = n_mask[:, None] & k_mask[None, :]
        at = start * (IN_FEATURES // 64) + group[None, :]  # [N_BLOCK, GROUPS]
        packed = tl.load(weight + at[:, :, None] * 32 + byte[None, None, :], mask=mask[:, :, None], other=0x88)
        s = tl.load(scale + at, mask=mask, other=0.0).to(tl.float32)
        low_at = group[:, None] * 64 + byte[None, :]
        low = tl.load(x + low_at, mask=k_mask[:, None], other=0.0).to(tl.float32)
        high = tl.load(x + low_at + 32, mask=k_mask[:, None], other=0.0).to(tl.float32)
        if NORM:
            squares += low * low + high * high
            low *= tl.load(norm_weight + low_at, mask=k_mask[:, None], other=0.0).to(tl.float32)
            high *= tl.load(norm_weight + low_at + 32, mask=k_mask[:, None], other=0.0).to(tl.float32)
        first = ((packed & 15).to(tl.float32) - 8) * low[None]
        total += (first + ((packed >> 4).to(tl.float32) - 8) * high[None]) * s[:, :, None]
    return tl.sum(tl.sum(total, 2), 1), tl.sum(tl.sum(squares, 1), 0)


@triton.jit
def _small_gemm(
    x, weight, scale, norm_weight, rows, channel, n_mask,
    IN_FEATURES: tl.constexpr, FORMAT: tl.constexpr, NORM: tl.constexpr, N_BLOCK: tl.constexpr, K_BLOCK: tl.constexpr,
    STAGES: tl.constexpr, M_BLOCK: tl.constexpr,
):  # fmt: skip
    """2 to M_BLOCK rows on tensor cores: float32 `[N_BLOCK, M_BLOCK]`, and each row's sum of squares `[M_BLOCK]`."""
    total = tl.zeros([N_BLOCK, M_BLOCK], tl.float32)
    squares = tl.zeros([M_BLOCK], tl.float32)
    row = tl.arange(0, M_BLOCK)
    start = channel.to(tl.int64)[:, None]
    row_start = row[:, None] * IN_FEATURES
    m_mask = (row < rows)[:, None]
    dtype = x.dtype.element_ty
    for k in tl.range(0, IN_FEATURES, K_BLOCK, num_stages=STAGES):
        if FORMAT == 2:
            HALF: tl.constexpr = K_BLOCK // 2
            j = tl.arange(0, HALF)
            byte = k // 2 + j
            mask = n_mask[:, None] & (byte < IN_FEATURES // 2)[None, :]
            packed = tl.load(weight + start * (IN_FEATURES // 2) + byte[None, :], mask=mask, other=0x88)
            s = tl.load(scale + start * (IN_FEATURES // 64) + (byte // 32)[None, :], mask=mask, other=0.0)
            s = s.to(tl.float32)
            at = k + j // 32 * 64 + j % 32
            low, low_squares = _load_inputs(x, norm_weight, row_start, at, m_mask, IN_FEATURES, NORM)
            high, high_squares = _load_inputs(x, norm_weight, row_start, at + 32, m_mask, IN_FEATURES, NORM)
            squares += low_squares + high_squares
            first = (((packed & 15).to(tl.float32) - 8) * s).to(dtype)
            second = (((packed >> 4).to(tl.float32) - 8) * s).to(dtype)
            total = tl.dot(first, tl.trans(low), total, input_precision="ieee")
            total = tl.dot(second, tl.trans(high), total, input_precision="ieee")
        else:
            at = k + tl.arange(0, K_BLOCK)
            mask = n_mask[:, None] & (at < IN_FEATURES)[None, :]
            w = tl.load(weight + start * IN_FEATURES + at[None, :], mask=mask, other=0)
            xs, sums = _load_inputs(x, norm_weight, row_start, at, m_mask, IN_FEATURES, NORM)
            squares += sums
            total = tl.dot(w.to(dtype), tl.trans(xs), total, input_precision="ieee")
    if FORMAT == 1:
        total *= tl.load(scale + channel, mask=n_mask, other=0.0).to(tl.float32)[:, None]
    return total, squares


@triton.jit
def _load_inputs(x, norm_weight, row_start, at, m_mask, IN_FEATURES: tl.constexpr, NORM: tl.constexpr):
    """Inputs `at` of every row, times the norm weight, in the dtype of x; and their sums of squares by row."""
    k_mask = (at < IN_FEATURES)[None, :]
    xs = tl.load(x + row_start + at[None, :], mask=m_mask & k_mask, other=0.0)
    if NORM:
        floats = xs.to(tl.float32)
        g = tl.load(norm_weight + at, mask=at < IN_FEATURES, other=0.0).to(tl.float32)
        return (floats * g[None, :]).to(x.dtype.element_ty), tl.sum(floats * floats, 1)
    return xs, tl.sum(xs.to(tl.float32) * 0, 1)
