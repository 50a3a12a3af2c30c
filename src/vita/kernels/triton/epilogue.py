"""What follows a matmul on CUDA, in one kernel: split-K sum, bias, SwiGLU, residual."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 512  # output channels a program


def finish(
    sums: Tensor, out: Tensor, *, bias: Tensor | None = None, residual: Tensor | None = None, swiglu: bool = False
) -> None:
    """Sum partial results, add the bias, round, apply SwiGLU, add the residual; into `out`.

    Args:
        sums: `[splits, rows, channels]`, contiguous, float32 or the dtype of `out`.
        out: `[rows, channels]`, with `swiglu` half as many channels; contiguous.
        bias: `[channels]`.
        residual: `[rows, out channels]`, contiguous; may be `out` itself.
        swiglu: compute `silu(gate) * up`; the gate's channels are the first half.
    """
    splits, rows, _ = sums.shape
    channels = out.shape[1]
    with torch.cuda.device_of(out):
        _finish_kernel[(triton.cdiv(channels, BLOCK), rows)](
            sums, bias, residual, out, rows, channels, SPLITS=splits, SWIGLU=swiglu, BIAS=bias is not None,
            RESIDUAL=residual is not None, BLOCK=BLOCK, num_warps=4,
        )  # fmt: skip


@triton.jit(do_not_specialize=["rows"])
def _finish_kernel(
    sums, bias, residual, out, rows, channels,
    SPLITS: tl.constexpr, SWIGLU: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = channel < channels
    dtype = out.dtype.element_ty
    stride = channels * 2 if SWIGLU else channels
    ys = _sum(sums, bias, row, channel, mask, rows, stride, SPLITS, BIAS, BLOCK).to(dtype).to(tl.float32)
    if SWIGLU:
        up = _sum(sums, bias, row, channel + channels, mask, rows, stride, SPLITS, BIAS, BLOCK)
        ys = (ys / (1 + tl.exp(-ys))).to(dtype).to(tl.float32) * up.to(dtype).to(tl.float32)
    if RESIDUAL:
        ys += tl.load(residual + row * channels + channel, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * channels + channel, ys.to(dtype), mask=mask)


@triton.jit
def _sum(sums, bias, row, channel, mask, rows, stride, SPLITS: tl.constexpr, BIAS: tl.constexpr, BLOCK: tl.constexpr):
    total = tl.zeros([BLOCK], tl.float32)
    for split in tl.static_range(SPLITS):
        total += tl.load(sums + (split * rows + row) * stride + channel, mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        total += tl.load(bias + channel, mask=mask, other=0.0).to(tl.float32)
    return total
